"""Puts the rooms of MCP together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from gateway.audit import MAX_TEXT, Audit
from gateway.clock import rfc3339
from gateway.config.own_files import own_files
from gateway.config.values import Config, HttpUpstream, StdioUpstream, UpstreamSettings
from gateway.mcp.access import Access
from gateway.mcp.announcements import Announcements
from gateway.mcp.breakers import Breakers
from gateway.mcp.catalogue import Catalogue, Rules
from gateway.mcp.credentials import Sign, UpstreamClient
from gateway.mcp.endpoint import McpEndpoint
from gateway.mcp.forwarding import Forwarder
from gateway.mcp.held_calls import HeldCalls
from gateway.mcp.input_rounds import InputRounds
from gateway.mcp.interests import Interests
from gateway.mcp.listeners import Listeners
from gateway.mcp.lists import Lists
from gateway.mcp.names import HeldBack, Names
from gateway.mcp.own_answers import OwnAnswers
from gateway.mcp.pinning import Pins
from gateway.mcp.request_state import RequestStates, state_key
from gateway.mcp.sealed import Seal
from gateway.mcp.sessions import Sessions
from gateway.mcp.stdio_host import StdioHost
from gateway.mcp.streams import Watch
from gateway.mcp.subscriptions import Subscriptions
from gateway.mcp.tasks import Tasks
from gateway.mcp.upstream import Forgot, Unsolicited, Upstream
from gateway.mcp.upstream_http import HttpUpstreamServer
from gateway.mcp.upstream_stdio import StdioUpstreamServer
from gateway.model import ClientContext
from gateway.problems import Problems
from persistence.protocols import Collection
from persistence.records import AuditEntry, AuditStatus, ToolPin, UpstreamNames


@dataclass(frozen=True, slots=True)
class Shared:
    """What the rooms of MCP share with the rest."""

    config: Config
    audit: Audit
    problems: Problems
    watch: Watch
    current: Callable[[ClientContext], ClientContext | None]
    standing: Callable[[ClientContext], object]
    sign: Sign
    """With the gateway's own key."""
    pins: Collection[ToolPin]
    names: Collection[UpstreamNames]
    """As upstreams last had them."""
    now: Callable[[], float]
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Mcp:
    """The rooms of MCP, put together."""

    catalogue: Catalogue
    pins: Pins
    sessions: Sessions
    listeners: Listeners
    endpoint: McpEndpoint
    announcements: Announcements

    def pins_changed(self, upstream: str) -> None:
        """Definitions of that upstream's were approved, or forgotten."""
        self.pins.renew(upstream)
        self.catalogue.renew(upstream)


def open_mcp(stack: AsyncExitStack, shared: Shared) -> Mcp:
    """Open every upstream, and what stands before them. What must be closed goes onto the stack."""
    config = shared.config
    announcements: Announcements
    subscriptions: Subscriptions

    def unsolicited(name: str) -> Unsolicited:
        return lambda key, message: announcements.unsolicited(name, key, message)

    def forgot(name: str) -> Forgot:
        return lambda key: subscriptions.forgotten(name, key)

    own = own_files(config)
    host = StdioHost(shared.now, config.mcp.server_logs, own.hidden, own.read_only)
    if any(isinstance(settings, StdioUpstream) for settings in config.upstreams):
        host.make_ready()
    stack.push_async_callback(host.keeper.close)
    upstreams: list[tuple[Upstream, str, float]] = []
    for settings in config.upstreams:
        upstream = _upstream(settings, shared, host, unsolicited(settings.name), forgot(settings.name))
        stack.push_async_callback(upstream.close)
        upstreams.append((upstream, settings.prefix, settings.timeout))
    pins = Pins(shared.pins, config.mcp.pinning, shared.audit, now=shared.now)
    catalogue = Catalogue(
        upstreams,
        Rules(config.tools, config.prompts, config.resources),
        monotonic=shared.monotonic,
        approval=pins,
        names=Names(
            {settings.name: settings.prefix for settings in config.upstreams},
            shared.names,
            tell=partial(_held_back, shared),
        ),
        on_change=lambda name: announcements.changed(name),  # noqa: PLW0108 - it is made below
    )
    stack.push_async_callback(catalogue.close)
    sessions = Sessions(
        monotonic=shared.monotonic,
        on_departure=catalogue.unlisten,
        on_end=lambda session: subscriptions.session_ended(session),  # noqa: PLW0108 - it is made below
        shared=frozenset(u.name for u in config.upstreams if u.sessions == "shared"),
    )
    lists, listeners = Lists(catalogue, Seal(config.tokens.secret, "cursors")), Listeners()
    interests = Interests()
    held = HeldCalls()
    stack.push_async_callback(held.close)
    rounds = InputRounds(RequestStates(state_key(config.tokens.secret), now=shared.now), held)
    tasks = Tasks(Seal(config.tokens.secret, "task ids"), catalogue)
    breakers = Breakers((upstream for upstream, _, _ in upstreams), on_doubt=catalogue.invalidate)
    stack.push_async_callback(breakers.close)
    forwarder = Forwarder(
        catalogue,
        shared.watch,
        shared.audit,
        rounds,
        tasks,
        breakers=breakers,
        certified=[u.name for u in config.upstreams if isinstance(u, HttpUpstream) and u.client_cert],
    )
    announcements = Announcements(
        catalogue,
        sessions,
        lists,
        listeners,
        interests,
        current=shared.current,
        standing=shared.standing,
    )
    access = Access(catalogue, shared.audit, shared.problems, config.mcp.denied)
    subscriptions = Subscriptions(
        catalogue=catalogue,
        sessions=sessions,
        listeners=listeners,
        interests=interests,
        lists=lists,
        access=access,
        breakers=breakers,
        watch=shared.watch,
        audit=shared.audit,
    )
    stack.push_async_callback(subscriptions.close)
    endpoint = McpEndpoint(
        catalogue=catalogue,
        sessions=sessions,
        forwarder=forwarder,
        access=access,
        subscriptions=subscriptions,
        tasks=tasks,
        own=OwnAnswers(catalogue, sessions, lists, forwarder),
        watch=shared.watch,
        audit=shared.audit,
        problems=shared.problems,
        settings=config.mcp,
    )
    catalogue.warm()
    return Mcp(catalogue, pins, sessions, listeners, endpoint, announcements)


def _held_back(shared: Shared, held: HeldBack) -> None:
    """Enter in the audit that a name is not served."""
    both = f"{held.kind} {held.name[:128]}"
    if held.others:
        both += f", also of {', '.join(held.others)}"
    shared.audit.denied(
        AuditEntry(
            timestamp=rfc3339(shared.now()),
            event="name_held_back",
            status=AuditStatus.DENIED,
            reason="name_disputed" if held.others else "name_too_long",
            upstream=held.upstream,
            target=both[:MAX_TEXT],
        )
    )


def _upstream(
    settings: UpstreamSettings,
    shared: Shared,
    host: StdioHost,
    unsolicited: Unsolicited,
    forgot: Forgot,
) -> Upstream:
    if isinstance(settings, HttpUpstream):
        issuer = shared.config.tokens.issuer
        client = UpstreamClient(settings, shared.sign, issuer=issuer, now=shared.now)
        return HttpUpstreamServer(settings, client, unsolicited, forgot)
    return StdioUpstreamServer(settings, unsolicited, host, forgot)
