"""The MCP sessions of our clients (revisions with a handshake), each the property of the client that opened it.

Who is anonymous cannot be told apart, so anonymous callers, with sessions or without, share one session at each
upstream, at which no capabilities are declared, and get nothing of what it says outside a caller's own requests but
the news of resources to which they subscribed. Their sessions here are counted by network address, and make room for
one another before they cost another client its own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final, Protocol

import msgspec

from gateway.limits import network_of
from gateway.mcp.eras import LOG_MESSAGE, Era, at_least
from gateway.mcp.listing import Kind
from gateway.mcp.messages import Notification, Params, Reply, RequestId, encode_notification
from gateway.mcp.recordings import Recordings, Shelf
from gateway.mcp.upstream import GATEWAY, SessionKey
from gateway.model import ANONYMOUS, ClientContext, Deny, Reason

IDLE_SECONDS: Final = 3600.0
MAX_SESSIONS: Final = 10_000
MAX_SESSIONS_OF_ONE: Final = 1_000
"""Of one client, or of one network where the callers are anonymous."""
MAX_ANONYMOUS: Final = 5_000
"""Of all anonymous callers together."""
MAX_ASKED: Final = 64
"""Requests to a client that it may leave unanswered at a time."""
MAX_WAITING: Final = 256
MAX_WAITING_BYTES: Final = 1024 * 1024
"""What is kept for a client that does not read it; beyond that the oldest message is dropped, but never the newest."""

Owner = tuple[str | None, str | None]


def owner_of(context: ClientContext) -> Owner:
    """Whose session: (tenant_id, client_id), both None for anonymous callers."""
    return (context.tenant_id, context.client_id)


NOBODY: Final = ""
"""In the place of the tenant where anonymous callers are counted by network."""


def counted_as(context: ClientContext, address: str) -> Owner:
    """With whom a caller from ``address`` is counted: itself, or the anonymous callers of its network."""
    return (NOBODY, network_of(address)) if context.anonymous else owner_of(context)


_CAPABILITIES: Final[dict[str, Any]] = {
    "roots": {"listChanged": bool},
    "sampling": {"context": {}, "tools": {}},
    "elicitation": {"form": {}, "url": {}},
}
"""The shape of ClientCapabilities (MCP 2025-11-25, schema) without ``experimental``, and without ``tasks``: a client's tasks
would be seen by every upstream that asks it for them."""


def canonical(capabilities: object) -> bytes:
    """What of a client's capabilities MCP defines, as JSON with sorted keys; always less than a kilobyte."""
    return _interned(msgspec.json.encode(_defined(capabilities, _CAPABILITIES), order="sorted"))


@lru_cache(maxsize=1024)
def _interned(capabilities: bytes) -> bytes:
    """One copy of what many sessions say."""
    return capabilities


def _defined(said: object, shape: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(said, dict):
        return {}
    kept: dict[str, Any] = {}
    for name, inner in shape.items():
        value = said.get(name)
        if inner is bool and isinstance(value, bool):
            kept[name] = value
        elif inner is not bool and isinstance(value, dict):
            kept[name] = _defined(value, inner)
    return kept


@dataclass(frozen=True, slots=True)
class Held:
    """A session that is kept at an upstream."""

    key: SessionKey
    last_used: float
    idle: bool


class NoRoom(Exception):  # noqa: N818 - a fact, not a fault
    """There are too many sessions, and none may be ended for another."""


def gives_way(
    key: SessionKey, kept: Iterable[Held], *, most: int, most_of_one: int, unused_since: float
) -> SessionKey | None:
    """Whose upstream session must end before one of ``key`` is opened; None: there is room. Raises NoRoom.

    It is the owner's own that has been idle longest; another's only where the owner has not too many, and only one
    that was not used after ``unused_since``. The gateway's own always has room, and never gives way.
    """
    others = [held for held in kept if held.key.owner != GATEWAY.owner]
    own = [held for held in others if held.key.owner == key.owner]
    too_many = len(own) >= most_of_one
    if key.owner == GATEWAY.owner or (not too_many and len(others) < most):
        return None
    candidates = [held for held in own if held.idle]
    if not candidates and not too_many:
        candidates = [held for held in others if held.idle and held.last_used <= unused_since]
    if not candidates:
        raise NoRoom
    return min(candidates, key=lambda held: held.last_used).key


_NOBODYS: Final = SessionKey(owner_of(ANONYMOUS))


class Cancellable(Protocol):
    """A request that is under way."""

    async def cancel(self, reason: str) -> None:
        """The client wants no answer any more."""


class Outbox:
    """What waits for a stream to the client: that of a session, or of a subscription."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._closed = False
        self.reader: asyncio.Task[None] | None = None
        """The task that streams it to the client, while one does."""

    def put(self, message: bytes) -> None:
        """Add a message; never waits."""
        self._waiting.append(message)
        self._bytes += len(message)
        while len(self._waiting) > 1 and (
            len(self._waiting) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES
        ):
            self._next()
        self._ready.set()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._ready.set()

    async def take(self) -> bytes | None:
        """The oldest message; None: there will be no more."""
        while not self._waiting:
            if self._closed:
                return None
            self._ready.clear()
            await self._ready.wait()
        return self._next()

    def _next(self) -> bytes:
        message = self._waiting.popleft()
        self._bytes -= len(message)
        return message


OnAnswer = Callable[[Reply], Coroutine[Any, Any, None]]
"""Takes the client's answer to what it was asked."""


@dataclass(slots=True, eq=False)
class Session:
    """One client's session at ``/mcp`` (only None) or ``/mcp/{upstream}``."""

    era: ClassVar = Era.LEGACY
    id: str
    key: SessionKey
    only: str | None
    protocol_version: str
    context: ClientContext
    """Its client, as last authenticated."""
    last_used: float
    counted: Owner
    """With whose sessions it is counted."""
    recordings: Recordings
    log_level: str | None = None
    used: set[str] = field(default_factory=set)
    """The upstreams that it has called."""
    in_flight: dict[RequestId, Cancellable] = field(default_factory=dict)
    """By the client's request id."""
    asked: dict[str, OnAnswer] = field(default_factory=dict)
    """What it was asked and has not answered, by the id under which it knows the question."""
    subscribed: set[tuple[str, str]] = field(default_factory=set)
    """Resources whose changes it wants to hear of: (upstream, URI)."""
    listed: dict[Kind, int] = field(default_factory=dict)
    """A hash of each list that the client was last given."""
    standing: object = None
    """What the client's permissions came from when its lists were last compared with those."""
    outbox: Outbox = field(default_factory=Outbox)

    def wants(self, notification: Notification) -> bool:
        """Whether it is none of the log messages that its client does not want."""
        if notification.method != LOG_MESSAGE or self.log_level is None:
            return True
        return at_least(notification.params.get("level"), self.log_level)

    @property
    def primes_streams(self) -> bool:
        """Whether its streams begin with an event without data (since 2025-11-25)."""
        return self.protocol_version >= "2025-11-25"

    def tell(self, method: str, params: Params) -> None:
        """Send a notification on its stream, once it reads it."""
        self.outbox.put(encode_notification(method, params))

    def ask(self, on_answer: OnAnswer) -> str | None:
        """The id for a request to the client; None: it has left MAX_ASKED of them unanswered, or the session has ended."""
        if len(self.asked) >= MAX_ASKED or self.outbox.closed:
            return None
        ours = secrets.token_hex(8)
        self.asked[ours] = on_answer
        return ours


class Sessions:
    """All open sessions, least recently used first. Bounded in all and for each client."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        on_departure: Callable[[SessionKey], None] = lambda _key: None,
        on_end: Callable[[Session], None] = lambda _session: None,
        shared: Collection[str] | None = None,
    ) -> None:
        """``on_departure`` gets a key when the last session that has it ends, ``on_end`` each session that has ended.

        ``shared``: the upstreams at which all callers have one session; None: any might be such a one.
        """
        self._monotonic = monotonic
        self._on_departure = on_departure
        self._on_end = on_end
        self._shared = shared
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._count: dict[Owner, int] = {}
        self._of: dict[SessionKey, dict[str, Session]] = {}
        self._shelf = Shelf()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def of(self, key: SessionKey) -> tuple[Session, ...]:
        """Those that use the upstream sessions of that key."""
        return tuple(self._of.get(key, {}).values())

    def open(
        self,
        context: ClientContext,
        only: str | None,
        protocol_version: str,
        capabilities: object = None,
        address: str = "",
    ) -> Session:
        """A new session for that client, which calls from ``address``; an old one gives way where there are too many.

        ``capabilities``: as the client said them in ``initialize``.
        """
        owner = owner_of(context)
        counted = counted_as(context, address)
        self._make_room(counted, anonymous=context.anonymous)
        key = SessionKey(owner) if context.anonymous else SessionKey(owner, canonical(capabilities))
        session = Session(
            id=secrets.token_urlsafe(24),
            key=key,
            only=only,
            protocol_version=protocol_version,
            context=context,
            last_used=self._monotonic(),
            counted=counted,
            recordings=Recordings(counted, self._shelf),
        )
        self._sessions[session.id] = session
        self._count[counted] = self._count.get(counted, 0) + 1
        self._of.setdefault(session.key, {})[session.id] = session
        return session

    def get(self, session_id: str, context: ClientContext, only: str | None) -> Session | Deny:
        """The caller's session; anybody else's is as unknown as one that never was."""
        session = self._sessions.get(session_id)
        if session is None or session.key.owner != owner_of(context) or session.only != only:
            return Deny(
                Reason.SESSION_UNKNOWN, "There is no such session: send initialize to open a new one."
            )
        session.context = context
        session.last_used = self._monotonic()
        self._sessions.move_to_end(session_id)
        return session

    def end(self, session: Session) -> None:
        """Forget it and end its stream."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._count[session.counted] -= 1
        if self._count[session.counted] == 0:
            del self._count[session.counted]
        session.outbox.close()
        session.recordings.end()
        del self._of[session.key][session.id]
        if not self._of[session.key]:
            del self._of[session.key]
            self._on_departure(session.key)
        self._on_end(session)

    @property
    def recorded(self) -> int:
        """Bytes that are kept of what was sent on their streams."""
        return self._shelf.size

    def shares(self, upstream: str) -> bool:
        """Whether all callers have one session at that upstream."""
        return self._shared is None or upstream in self._shared

    def depart(self, key: SessionKey) -> None:
        """Somebody without a session used that key, and does no more."""
        if key not in self._of:
            self._on_departure(key)

    def _make_room(self, counted: Owner, *, anonymous: bool) -> None:
        if self._count.get(counted, 0) >= MAX_SESSIONS_OF_ONE:
            self.end(next(session for session in self if session.counted == counted))
            return
        nobodys = len(self._of.get(_NOBODYS, ()))
        if len(self._sessions) < MAX_SESSIONS and not (anonymous and nobodys >= MAX_ANONYMOUS):
            return
        self.end(next(session for session in self if session.key == _NOBODYS or not nobodys))

    def sweep(self) -> None:
        """End what has been idle too long and has no stream open."""
        limit = self._monotonic() - IDLE_SECONDS
        for session in self:
            if session.last_used > limit:
                return
            if session.outbox.reader is None and not session.in_flight:
                self.end(session)
