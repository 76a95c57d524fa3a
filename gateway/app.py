"""The only place where objects are made, and where they are opened and closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from gateway.admission import Admission
from gateway.api.account_rooms import open_accounts, open_factors
from gateway.api.admin import AdminApi
from gateway.api.audit import AuditApi
from gateway.api.health import Health
from gateway.api.oauth_door import OAuthDoor
from gateway.api.openapi import OpenApi
from gateway.api.revocation import RevocationEndpoint
from gateway.api.token import TokenEndpoint
from gateway.api.wellknown import WellKnown
from gateway.audit import Audit
from gateway.authn import Authenticator
from gateway.checks import start_problems
from gateway.config.reader import read_config
from gateway.config.values import Config, ConfigError, LimitSettings, ServiceSettings, TlsSettings
from gateway.descriptors import allow_many
from gateway.edge.ambiguity import Readings
from gateway.edge.client_cert import Terminators
from gateway.edge.cors import Cors
from gateway.edge.handler import Edge, GatewayRequest, Handler, Route, Routes
from gateway.housekeeping import keep_house
from gateway.identity import sessions as signed_in
from gateway.identity.api_keys import ApiKeys
from gateway.identity.certificates import Certificates
from gateway.identity.clients import Passwords
from gateway.identity.keyring import Keyring
from gateway.identity.lockouts import Lockouts
from gateway.identity.profiles import Profiles
from gateway.identity.roles import Roles
from gateway.identity.tenants import known_clients
from gateway.identity.tokens import Tokens
from gateway.limits import TokenBuckets
from gateway.mcp.assembly import Shared, open_mcp
from gateway.mcp.endpoint import McpEndpoint
from gateway.mcp.streams import Watch
from gateway.operations.administration import Administration
from gateway.operations.control import ControlServer
from gateway.operations.table import perform as perform_operation
from gateway.outbound.client import HttpClient
from gateway.problems import Problems
from gateway.reloading import Reloading
from gateway.server import Gateway
from gateway.services.http import ServiceProxy
from gateway.suspicion import alarm, lockout_alarm
from gateway.telemetry.logs import start_logging
from gateway.tls.connection import Connection
from gateway.tls.files import TlsReload, TlsState
from gateway.tls.files import load as load_tls
from gateway.tls.listener import ConnectionFactory, TlsListener
from gateway.tls.refusals import TlsRefusals
from persistence import open_stores
from persistence.protocols import Stores
from persistence.records import API_KEYS, REVOKED_CERTIFICATES, ROLES, SESSIONS, TOOL_PINS, UPSTREAM_NAMES

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_Methods = Mapping[str, Route]
T = TypeVar("T")


def run(file: Path, environment: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises ConfigError, CertificateError, StoreError and OSError."""
    start_logging(time.time)
    config = read_config(file, environment)
    found = start_problems(config, time.time())
    if found:
        raise ConfigError(found)
    allow_many()
    return _with_uvloop(_serve(config, lambda: read_config(file, environment)))


def _with_uvloop(main: Coroutine[Any, Any, T]) -> T:
    try:
        import uvloop
    except ImportError:  # not on every platform; asyncio does the same, slower
        return asyncio.run(main)
    return uvloop.run(main)


async def _serve(config: Config, read_again: Callable[[], Config]) -> int:
    async with open_gateway(config, read_again) as gateway:
        _spare_the_collector()
        await gateway.serve(_announce)
    return 0


def _spare_the_collector() -> None:
    """Garbage that reference counts do not find is rare here: look for it seldom, and not among what was loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"ostiary listening on https://{shown}:{port}\n")
    sys.stdout.flush()


@contextlib.asynccontextmanager
async def open_gateway(config: Config, read_again: Callable[[], Config]) -> AsyncIterator[Gateway]:
    """Open everything in order; on the way out close it in the opposite one."""
    async with AsyncExitStack() as stack:
        tls = load_tls(config.tls, time.time())
        stores = await open_stores(
            config.storage.path,
            now=time.time,
            create=False,
            checkpoint_file=config.audit.checkpoint_file,
        )
        stack.push_async_callback(stores.close)
        clients = known_clients(stores)
        audit = Audit(
            stores.audit,
            config.audit.on_failure,
            now=time.time,
            monotonic=time.monotonic,
            client_of=clients.get,
            redact=config.audit.redact,
        )
        stack.push_async_callback(audit.close)
        keyring = Keyring(config.tokens)
        tokens = Tokens(
            config.tokens,
            keyring,
            stores.tokens,
            clients,
            now=time.time,
            email_verified=Profiles(stores, now=time.time).is_verified,
        )
        turn = asyncio.Lock()
        lockouts, passwords = _open_passwords(stack, config, stores, audit, turn)
        sessions = signed_in.Sessions(
            stores.collection(SESSIONS), tokens, grace=config.accounts.refresh_grace, now=time.time
        )
        api_keys = ApiKeys(stores.collection(API_KEYS), clients, now=time.time)
        roles = _roles(config, stores)
        certificates = Certificates(
            config.tls.client_id,
            tls.trust,
            stores.collection(REVOKED_CERTIFICATES),
            now=time.time,
        )
        authenticator = Authenticator(
            tokens,
            clients,
            roles,
            config.tls.client_id,
            now=time.time,
            api_keys=api_keys,
            suspect=alarm(audit),
            used=sessions.used,
            certificates=certificates,
            certificate_required=config.tls.client_certificates == "required",
        )
        watch = Watch(authenticator.still_valid, authenticator.may_hand_over)
        problems = Problems(config.server.public_url)

        mcp = open_mcp(
            stack,
            Shared(
                config=config,
                audit=audit,
                problems=problems,
                watch=watch,
                current=authenticator.current,
                standing=authenticator.standing,
                sign=keyring.sign,
                pins=stores.collection(TOOL_PINS),
                names=stores.collection(UPSTREAM_NAMES),
                now=time.time,
                monotonic=time.monotonic,
            ),
        )
        services = [_open_service(stack, settings, audit) for settings in config.services]
        admission = _admission(config, authenticator)
        factors = open_factors(config.accounts, stores, stack, lockouts, time.time)
        door = OAuthDoor(
            public_url=config.server.public_url,
            admission=admission,
            passwords=passwords,
            clients=clients,
            audit=audit,
            problems=problems,
            second_factor=factors.needed,
        )
        accounts = open_accounts(
            stores=stores,
            clients=clients,
            tokens=tokens,
            sessions=sessions,
            api_keys=api_keys,
            factors=factors,
            public_url=config.server.public_url,
            register=config.accounts.register,
            passwords=passwords,
            lockouts=lockouts,
            door=door,
            audit=audit,
            turn=turn,
            now=time.time,
        )
        token_endpoint = TokenEndpoint(config=config, issuing=accounts.issuing)
        revocation = RevocationEndpoint(config=config, tokens=tokens, door=door)
        health = Health(stores, mcp.catalogue, lambda: tls_reload.concerns())  # noqa: PLW0108 - made below
        documents = WellKnown(
            config, [upstream.name for upstream in config.upstreams], lambda: keyring.jwks(time.time())
        ).documents
        tls_refused = TlsRefusals(audit, time.time)
        cors = Cors(config.cors)

        def use(state: TlsState) -> None:
            listener.context = state.context
            authenticator.use(
                state.trust,
                state.settings.client_id,
                required=state.settings.client_certificates == "required",
            )

        tls_reload = TlsReload(
            tls,
            read_again=lambda: _check_rules(roles, read_again().tls),
            use=use,
            audit=stores.audit,
            now=time.time,
        )
        reloading = Reloading(read_again, keyring=keyring, tokens=tokens, tls=tls_reload)
        administration = Administration(
            stores=stores,
            roles=lambda: config.roles,
            now=time.time,
            hasher=passwords.hasher,
            lockouts=lockouts,
            reload_keys=reloading.keys,
            reload=reloading.everything,
            on_roles_changed=authenticator.forget_contexts,
            identity_rules=lambda: tls_reload.settings.client_id,
            on_pins_changed=mcp.pins_changed,
            redacted=audit.redacted,
            second_factors=factors,
            running_api_keys=api_keys,
            readmit=admission.readmit,
            turn=turn,
        )
        own = {
            **_own_routes(token_endpoint, revocation, AuditApi(stores.audit), health, documents),
            **accounts.routes,
            **AdminApi(administration).routes(),
            "/openapi.json": {
                "GET": Route(OpenApi(lambda: routes, config.server.public_url).get, identify=False)
            },
        }
        routes = _routes(config, mcp.endpoint, services, own)
        edge = Edge(
            routes=routes,
            admission=admission,
            audit=audit,
            problems=problems,
            readings=Readings(allowed_hosts(config), cors),
            cors=cors,
            terminators=Terminators(
                config.server.trusted_terminators,
                authenticator.may_hand_over,
                required=lambda: authenticator.certificate_required,
            ),
            tls_refused=tls_refused,
            monotonic=time.monotonic,
        )
        server = web.Server(edge.handle, request_factory=_request_factory(config.limits.body_timeout))
        listener = TlsListener(
            tls.context, _connection_factory(edge, server, config.limits), tls_refused, config.limits
        )
        control = ControlServer(config.storage.path, partial(perform_operation, administration))
        await control.start()
        stack.push_async_callback(control.close)

        gateway = Gateway(
            config.server,
            server,
            listener,
            sessions=mcp.sessions,
            listeners=mcp.listeners,
            health=health,
            reload=reloading.everything,
        )
        stack.push_async_callback(gateway.drain)
        housekeeping = keep_house(
            watch,
            mcp.sessions,
            mcp.announcements,
            accounts,
            stores,
            leeway=config.tokens.leeway,
            now=time.time,
        )
        for care in (housekeeping, tls_reload.watch()):
            stack.push_async_callback(_cancel, asyncio.get_running_loop().create_task(care))
        yield gateway


def _open_passwords(
    stack: AsyncExitStack, config: Config, stores: Stores, audit: Audit, turn: asyncio.Lock
) -> tuple[Lockouts, Passwords]:
    lockouts = Lockouts(stores, config.accounts.lockout_after, now=time.time, alarm=lockout_alarm(audit))
    passwords = Passwords(
        config.accounts, config.limits, lockouts=lockouts, turn=turn, monotonic=time.monotonic
    )
    stack.push_async_callback(passwords.close)
    return lockouts, passwords


def _roles(config: Config, stores: Stores) -> Roles:
    """What each role grants. Raises ConfigError."""
    roles = Roles(config.roles, stores.collection(ROLES))
    _check_rules(roles, config.tls)
    return roles


def _check_rules(roles: Roles, tls: TlsSettings) -> TlsSettings:
    """The settings as they are. Raises ConfigError where their rules give a role that is nowhere."""
    if found := roles.problems(tls.client_id):
        raise ConfigError(found)
    return tls


def _open_service(stack: AsyncExitStack, settings: ServiceSettings, audit: Audit) -> ServiceProxy:
    proxy = ServiceProxy(settings, HttpClient(settings.url), audit)
    stack.push_async_callback(proxy.close)
    return proxy


def _routes(
    config: Config, mcp: McpEndpoint, services: list[ServiceProxy], own: Mapping[str, _Methods]
) -> Routes:
    at_mcp = {"POST": Route(mcp.post), "GET": Route(mcp.get), "DELETE": Route(mcp.delete)}
    exact: dict[str, _Methods] = {"/mcp": at_mcp, **own}
    prefixes: dict[str, _Methods] = {"/mcp/": at_mcp}
    prefixes |= {path: exact.pop(path) for path in own if path.endswith("/")}
    for settings, proxy in zip(config.services, services, strict=True):
        prefixes[settings.prefix] = proxy.routes
        exact.setdefault(settings.prefix.rstrip("/"), proxy.routes)
    return Routes(exact, prefixes)


def _own_routes(
    tokens: TokenEndpoint,
    revocation: RevocationEndpoint,
    audit: AuditApi,
    health: Health,
    documents: Mapping[str, Handler],
) -> dict[str, _Methods]:
    """The gateway's own API."""
    open_to_all = partial(Route, identify=False)
    return {
        "/audit": {"GET": Route(audit.query, ("audit:read",), chooses_tenant=True)},
        "/audit/checkpoint": {"GET": Route(audit.checkpoint, ("audit:read",))},
        "/health/live": dict.fromkeys(("GET", "HEAD"), open_to_all(health.live)),
        "/health/ready": dict.fromkeys(("GET", "HEAD"), open_to_all(health.ready)),
        "/auth/token": {"GET": open_to_all(tokens.get), "POST": open_to_all(tokens.post)},
        "/auth/refresh": {"POST": open_to_all(tokens.refresh)},
        "/auth/revoke": {"POST": open_to_all(revocation.revoke)},
        "/auth/introspect": {"POST": open_to_all(revocation.introspect)},
        **{path: {"GET": open_to_all(document)} for path, document in documents.items()},
    }


def _admission(config: Config, authenticator: Authenticator) -> Admission:
    limits = config.limits
    return Admission(
        authenticator=authenticator,
        clients=TokenBuckets(limits.requests_per_minute, limits.burst),
        failures=TokenBuckets(limits.requests_per_minute, limits.burst),
        monotonic=time.monotonic,
    )


def allowed_hosts(config: Config) -> frozenset[str]:
    """The names that Host and Origin may carry."""
    names = {
        urlsplit(config.server.public_url).hostname or "",
        *(h.lower() for h in config.server.trusted_hosts),
    }
    if _is_loopback(config.server.host):
        names |= _LOOPBACK
    return frozenset(name.strip("[]") for name in names if name)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _request_factory(body_timeout: float) -> Callable[..., GatewayRequest]:
    """Makes requests, within the loop that runs now (to ask for it each time is a system call)."""
    loop = asyncio.get_running_loop()

    def request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> GatewayRequest:
        made = GatewayRequest(message, payload, protocol, writer, task, loop)
        made.body_timeout = body_timeout
        return made

    return request


def _connection_factory(edge: Edge, server: web.Server, limits: LimitSettings) -> ConnectionFactory:
    loop = asyncio.get_running_loop()
    return lambda address, leave: Connection(
        edge, server, address=address, leave=leave, times=limits, loop=loop
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
