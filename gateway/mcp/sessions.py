"""The MCP sessions of our clients (revisions with a handshake), each the property of the client that opened it."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.mcp.catalogue import Kind
from gateway.mcp.messages import RequestId
from gateway.mcp.upstream import Exchange, SessionKey
from gateway.model import ClientContext, Deny, Reason

IDLE_SECONDS: Final = 3600.0
MAX_SESSIONS: Final = 10_000
MAX_SESSIONS_OF_ONE: Final = 1_000
MAX_WAITING: Final = 256
"""Messages kept for a client that does not read them; beyond that the oldest is dropped."""

Owner = tuple[str | None, str | None]


def owner_of(context: ClientContext) -> Owner:
    """Whose session: (tenant_id, client_id), both None for anonymous callers."""
    return (context.tenant_id, context.client_id)


class Outbox:
    """What waits for the session's GET stream."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._ready = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None
        """The task that streams it to the client, while one does."""

    def put(self, message: bytes) -> None:
        """Add a message; never waits."""
        self._waiting.append(message)
        self._ready.set()

    async def take(self) -> bytes:
        """The oldest message."""
        while not self._waiting:
            self._ready.clear()
            await self._ready.wait()
        return self._waiting.popleft()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of an upstream that was passed on to the client and waits for its answer."""

    upstream: str
    key: SessionKey
    id: RequestId


@dataclass(slots=True, eq=False)
class Session:
    """One client's session at ``/mcp`` (scope None) or ``/mcp/{upstream}``."""

    id: str
    key: SessionKey
    scope: str | None
    protocol_version: str
    context: ClientContext
    """Its client, as last authenticated."""
    last_used: float
    log_level: str | None = None
    used: set[str] = field(default_factory=set)
    """The upstreams that it has called."""
    in_flight: dict[RequestId, Exchange] = field(default_factory=dict)
    """By the client's request id."""
    asked: dict[str, Asked] = field(default_factory=dict)
    """By the id under which the client knows it."""
    subscribed: set[tuple[str, str]] = field(default_factory=set)
    """Resources whose changes it wants to hear of: (upstream, URI)."""
    listed: dict[Kind, int] = field(default_factory=dict)
    """A hash of each list that the client was last given."""
    outbox: Outbox = field(default_factory=Outbox)

    def ask(self, upstream: str, request_id: RequestId) -> str:
        """Remember an upstream's request; the id for the client."""
        ours = secrets.token_hex(8)
        self.asked[ours] = Asked(upstream, self.key, request_id)
        return ours


class Sessions:
    """All open sessions, least recently used first. Bounded in all and for each client."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        on_departure: Callable[[SessionKey], None] = lambda _key: None,
    ) -> None:
        """``on_departure`` gets a key when the last session that has it ends."""
        self._monotonic = monotonic
        self._on_departure = on_departure
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._count: dict[Owner, int] = {}
        self._keys: dict[SessionKey, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def open(
        self, context: ClientContext, scope: str | None, protocol_version: str, capabilities: bytes
    ) -> Session:
        """A new session for that client; its oldest one gives way where it has too many."""
        owner = owner_of(context)
        if self._count.get(owner, 0) >= MAX_SESSIONS_OF_ONE:
            self.end(next(session for session in self._sessions.values() if session.key.owner == owner))
        if len(self._sessions) >= MAX_SESSIONS:
            self.end(next(iter(self._sessions.values())))
        session = Session(
            id=secrets.token_urlsafe(24),
            key=SessionKey(owner, capabilities),
            scope=scope,
            protocol_version=protocol_version,
            context=context,
            last_used=self._monotonic(),
        )
        self._sessions[session.id] = session
        self._count[owner] = self._count.get(owner, 0) + 1
        self._keys[session.key] = self._keys.get(session.key, 0) + 1
        return session

    def get(self, session_id: str, context: ClientContext, scope: str | None) -> Session | Deny:
        """The caller's session; anybody else's is as unknown as one that never was."""
        session = self._sessions.get(session_id)
        if session is None or session.key.owner != owner_of(context) or session.scope != scope:
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
        owner = session.key.owner
        self._count[owner] -= 1
        if self._count[owner] == 0:
            del self._count[owner]
        if session.outbox.reader is not None:
            session.outbox.reader.cancel()
        self._keys[session.key] -= 1
        if self._keys[session.key] == 0:
            del self._keys[session.key]
            self._on_departure(session.key)

    def sweep(self) -> None:
        """End what has been idle too long and has no stream open."""
        limit = self._monotonic() - IDLE_SECONDS
        for session in self:
            if session.last_used > limit:
                return
            if session.outbox.reader is None and not session.in_flight:
                self.end(session)
