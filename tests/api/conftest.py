"""The OAuth endpoints over HTTP, without TLS: everything behind them is real but the clock."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import jwt
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestClient

from certs.identity import DEFAULT_RULES, PeerIdentity
from gateway.admission import Admission
from gateway.api.account_rooms import open_accounts
from gateway.api.oauth_door import OAuthDoor
from gateway.api.revocation import RevocationEndpoint
from gateway.api.token import TokenEndpoint
from gateway.audit import Audit
from gateway.authn import Authenticator
from gateway.config.values import (
    AccountSettings,
    Config,
    LimitSettings,
    OnAuditFailure,
    ServerSettings,
    StdioUpstream,
    StorageSettings,
    TlsSettings,
    TokenSettings,
)
from gateway.edge.handler import GatewayRequest, Handler
from gateway.identity.api_keys import ApiKeys
from gateway.identity.clients import Hasher, Passwords
from gateway.identity.keyring import Keyring
from gateway.identity.lockouts import Lockouts
from gateway.identity.sealing import Sealing
from gateway.identity.second_factors import MfaSettings, SecondFactors
from gateway.identity.sessions import Sessions
from gateway.identity.tokens import Tokens
from gateway.limits import TokenBuckets
from gateway.model import ANONYMOUS, ClientContext, Deny, Inbound
from gateway.problems import Problems
from persistence.json_store import JsonStores
from persistence.records import API_KEYS, SESSIONS, AuditEntry, AuditQuery, AuditStatus, ClientRecord

START = 1_800_000_000.0
CREATED = "2026-01-01T00:00:00.000Z"
URL = "https://gate.example"
PASSWORD = "Correct-Horse-7"
ROLES = {"admin": ("*:*",), "analyst": ("files:read", "reports:*"), "owner": ("*:*", "platform:*")}
REQUEST_SECONDS = 0.25
"""So long each request has been under way when its handler gets it."""


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class CountingHasher(Hasher):
    def __init__(self) -> None:
        super().__init__(rounds=4)
        self.compared = 0

    async def matches(self, password: bytes, stored: str | None) -> bool:
        self.compared += 1
        return await super().matches(password, stored)


def certificate(name: str) -> PeerIdentity:
    """``name`` is the common name; what follows a ``/`` sets certificates of one client apart."""
    return PeerIdentity(
        fingerprint=World.thumbprint(name),
        serial=1,
        subject="",
        issuer="CN=CA",
        common_names=(name.partition("/")[0],),
        san_uri=(),
        san_dns=(),
        san_email=(),
        not_before=START - 1000,
        not_after=START + 100_000,
    )


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, text: str) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body: dict[str, Any] = json.loads(text) if text else {}

    @property
    def challenges(self) -> str:
        return ", ".join(self.headers.getall("WWW-Authenticate", []))

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, OAuth error and reason; everything else that an error has is checked here."""
        body = self.body
        assert body.keys() == {"error", "error_description", "reason", "request_id"}, body
        assert body["request_id"] == "req-1"
        assert body["error_description"].isascii()
        assert self.headers["Cache-Control"] == "no-store"
        assert self.headers["Content-Type"].startswith("application/json")
        assert ("WWW-Authenticate" in self.headers) == (self.status in {401, 403})
        metadata = f'resource_metadata="{URL}/.well-known/oauth-protected-resource/mcp"'
        assert (metadata in self.challenges) == ("Bearer" in self.challenges)
        return self.status, body["error"], body["reason"]

    @property
    def claims(self) -> dict[str, Any]:
        assert self.status == 200, self.body
        return dict(jwt.decode(self.body["access_token"], options={"verify_signature": False}))


class World:
    """The endpoints with three clients: alice and bob are analysts, root is an administrator."""

    def __init__(self, stores: JsonStores) -> None:
        self.stores = stores
        self.clock = Clock()
        self.hasher = CountingHasher()
        self.config = Config(
            file=Path("ostiary.toml"),
            server=ServerSettings(public_url=URL),
            tls=TlsSettings(Path("a"), Path("b"), None),
            tokens=TokenSettings(
                secret="Zq8!vT2#mN5$kL9%wR4^xB7&yH1*pJ6(", issuer=URL, audience=f"{URL}/mcp"
            ),
            storage=StorageSettings(Path("persistence")),
            roles=ROLES,
            accounts=AccountSettings(lockout_after=3),
            limits=LimitSettings(login_per_minute=30),
            upstreams=(StdioUpstream(name="files", command=("true",), folder=Path()),),
        )
        self.tokens = Tokens(
            self.config.tokens, Keyring(self.config.tokens), stores.tokens, stores.clients, now=self.clock
        )
        self.sessions = Sessions(stores.collection(SESSIONS), self.tokens, grace=10.0, now=self.clock)
        self.lockouts = Lockouts(stores, self.config.accounts.lockout_after, now=self.clock)
        self.code_lockouts = Lockouts(stores, 10, now=self.clock)
        self.turn = asyncio.Lock()
        self.factors = SecondFactors(
            stores,
            Sealing(stores.path.parent / "mfa.key"),
            MfaSettings(frozenset({"guarded"})),
            lockouts=self.code_lockouts,
            now=self.clock,
            hasher=Hasher(rounds=4, threads=1),
        )
        self.api_keys = ApiKeys(stores.collection(API_KEYS), stores.clients, now=self.clock)
        self.authenticator = Authenticator(
            self.tokens, stores.clients, ROLES, DEFAULT_RULES, api_keys=self.api_keys, now=self.clock
        )
        self.passwords = Passwords(
            self.config.accounts,
            self.config.limits,
            lockouts=self.lockouts,
            turn=self.turn,
            monotonic=self.clock,
            hasher=self.hasher,
        )
        self.use_audit(Audit(stores.audit, OnAuditFailure.REFUSE, now=self.clock, monotonic=self.clock))
        self.http: TestClient[Any, Any]

    def use_audit(self, audit: Audit) -> None:
        self.audit = audit
        self.limit()

    def limit(self, *, requests: float = 0, failures: float = 0) -> None:
        """Let each client send that many requests a minute, and each address fail that often; 0: no limit."""
        admission = Admission(
            authenticator=self.authenticator,
            clients=TokenBuckets(requests, int(requests)),
            failures=TokenBuckets(failures, int(failures)),
            monotonic=self.clock,
        )
        door = OAuthDoor(
            public_url=URL,
            admission=admission,
            passwords=self.passwords,
            clients=self.stores.clients,
            audit=self.audit,
            problems=Problems(URL),
            second_factor=self.factors.needed,
        )
        rooms = open_accounts(
            stores=self.stores,
            clients=self.stores.clients,
            tokens=self.tokens,
            sessions=self.sessions,
            api_keys=self.api_keys,
            factors=self.factors,
            public_url=URL,
            register=self.config.accounts.register,
            passwords=self.passwords,
            lockouts=self.lockouts,
            door=door,
            audit=self.audit,
            turn=self.turn,
            now=self.clock,
        )
        tokens = TokenEndpoint(config=self.config, issuing=rooms.issuing)
        revocation = RevocationEndpoint(config=self.config, tokens=self.tokens, door=door)
        self.handlers: dict[tuple[str, str], Handler] = {
            ("GET", "/auth/token"): tokens.get,
            ("HEAD", "/auth/token"): tokens.get,
            ("POST", "/auth/token"): tokens.post,
            ("POST", "/auth/refresh"): tokens.refresh,
            ("POST", "/auth/revoke"): revocation.revoke,
            ("POST", "/auth/introspect"): revocation.introspect,
            ("POST", "/auth/login/mfa"): rooms.routes["/auth/login/mfa"]["POST"].handler,
        }

    @staticmethod
    def thumbprint(name: str) -> str:
        return name.ljust(43, "_")

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the edge does, without TLS: ``X-Test-Certificate`` stands for the connection's certificate."""
        headers = request.headers
        name = headers.get("X-Test-Certificate")
        inbound = Inbound(
            request_id="req-1",
            method=request.method,
            path=request.path,
            address="192.0.2.1",
            user_agent=headers.get("User-Agent"),
            peer=None if name is None else certificate(name),
            authorization=tuple(headers.getall("Authorization", ())),
            api_keys=tuple(headers.getall("X-API-Key", ())),
            started=self.clock.now - REQUEST_SECONDS,
        )
        handler = self.handlers[request.method, request.path]
        return await handler(cast("GatewayRequest", request), inbound, ANONYMOUS)

    async def put(self, client_id: str, *, password: str | None = PASSWORD, **fields: Any) -> None:
        await self.stores.clients.put(
            ClientRecord(
                **{
                    "client_id": client_id,
                    "username": client_id,
                    "user_id": f"id-{client_id}",
                    "password_hash": None if password is None else await self.hasher.hash(password.encode()),
                    "certificate": client_id,
                    "roles": ("analyst",),
                    "created_at": CREATED,
                    "updated_at": CREATED,
                    **fields,
                }
            )
        )

    async def change(self, client_id: str, **fields: Any) -> None:
        record = self.stores.clients.get(client_id)
        assert record is not None
        await self.stores.clients.put(msgspec.structs.replace(record, **fields))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        cert: str | None = None,
        basic: tuple[str, str] | None = None,
        bearer: str | None = None,
        headers: list[tuple[str, str]] | None = None,
        **options: Any,
    ) -> Answer:
        sent = [("User-Agent", "test/1"), *(headers or [])]
        if cert is not None:
            sent.append(("X-Test-Certificate", cert))
        if basic is not None:
            credentials = base64.b64encode(":".join(basic).encode()).decode()
            sent.append(("Authorization", f"Basic {credentials}"))
        if bearer is not None:
            sent.append(("Authorization", f"Bearer {bearer}"))
        async with self.http.request(method, path, headers=sent, **options) as response:
            return Answer(response, await response.text())

    async def get(self, query: str = "", **options: Any) -> Answer:
        return await self.ask("GET", f"/auth/token{query}", **options)

    async def post(self, path: str = "token", *, form: Any = None, **options: Any) -> Answer:
        return await self.ask("POST", f"/auth/{path}", data=form, **options)

    async def password(self, name: str = "alice", **options: Any) -> Answer:
        return await self.post(form={"username": name, "password": PASSWORD}, **options)

    def works(self, token: str, cert: str | None = None) -> bool:
        """Whether a call with this token would be let in."""
        peer = None if cert is None else certificate(cert)
        answer = self.authenticator.authenticate(
            Inbound("r", "POST", "/mcp", "192.0.2.1", None, peer, (f"Bearer {token}",), (), 0.0)
        )
        assert isinstance(answer, ClientContext | Deny)
        return isinstance(answer, ClientContext)

    async def audited(self, event: str | None = None) -> list[AuditEntry]:
        """The entries, oldest first."""
        mark = AuditEntry(timestamp=CREATED, event="mark", status=AuditStatus.OK)
        await self.stores.audit.append(mark)
        page = await self.stores.audit.query(AuditQuery(event=event, limit=1000))
        return [entry for entry in reversed(page.entries) if entry.event != "mark"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    stores = await JsonStores.open(tmp_path / "persistence", now=lambda: START)
    made = World(stores)
    for name, role in (("alice", "analyst"), ("bob", "analyst"), ("root", "admin")):
        await made.put(name, roles=(role,))
    server = RawTestServer(made.handle)
    await server.start_server()
    async with TestClient(server) as made.http:
        yield made
    await made.passwords.close()
    await made.factors.close()
    await made.audit.close()
    await stores.close()
