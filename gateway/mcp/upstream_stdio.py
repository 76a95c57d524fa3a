"""An upstream that is a child process of the gateway (MCP "Transports", stdio).

The process is started when it is first needed. One that dies is started again by the next request; one that keeps
dying only after a pause that grows, during which requests fail at once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass
from typing import Final

from gateway.config import Sessions, StdioUpstream
from gateway.mcp.exchange import Errands, Ticket, late, unavailable
from gateway.mcp.messages import Params, Reply, RequestId, encode_notification
from gateway.mcp.sessions import Held, NoRoom, gives_way
from gateway.mcp.stdio_process import LineLog, start
from gateway.mcp.stdio_session import StdioExchange, StdioSession
from gateway.mcp.upstream import GATEWAY, ServerInfo, SessionKey, Unsolicited

log = logging.getLogger("ostiary.mcp")

IDLE_SECONDS: Final = 30 * 60.0
"""After this long without use a client's own process is ended."""
GRACE_SECONDS: Final = 2.0
"""How long a process has for each step of its end."""
MAX_PROCESSES: Final = 64
"""How many processes there may be at the same time, besides the gateway's own."""
MAX_PROCESSES_OF_ONE: Final = 8
"""Of them, of one client (whose processes differ in the capabilities that it declared)."""
RECENT_SECONDS: Final = 60.0
"""For so long after its use no process ends for another client's."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A process that lived this long did not die "again"."""


@dataclass(slots=True)
class _Slot:
    """The place of one session: its process, and how the last ones fared."""

    session: StdioSession | None = None
    opening: asyncio.Task[StdioSession] | None = None
    listened: bool = False
    deaths: int = 0
    """In close succession."""
    opened_at: float = 0.0
    closed_until: float = 0.0

    def died(self, now: float) -> None:
        """Its process has ended by itself, or could not be started."""
        self.session = None
        if now - self.opened_at > STEADY_SECONDS:
            self.deaths = 0
        if self.deaths > 0:
            self.closed_until = now + min(FIRST_PAUSE * 2 ** min(self.deaths - 1, 16), LONGEST_PAUSE)
        self.deaths += 1


class StdioUpstreamServer:
    """An ``Upstream`` over standard input and output."""

    def __init__(
        self,
        settings: StdioUpstream,
        unsolicited: Unsolicited,
        *,
        grace: float = GRACE_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """``unsolicited`` gets what comes outside any request."""
        self._starts = Errands()
        self._ends = Errands()
        """Ends of processes: they are never broken off."""
        self._settings = settings
        self._unsolicited = unsolicited
        self._grace = grace
        self._idle_seconds = idle_seconds
        self._places = asyncio.Semaphore(settings.max_concurrency)
        self._ids = itertools.count(1)
        self._shared = settings.sessions is Sessions.SHARED
        self._slots: dict[SessionKey, _Slot] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._log: LineLog | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<StdioUpstreamServer {self.name} processes={len(self._open())}>"

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self._settings.name

    async def describe(self) -> ServerInfo:
        """What it says of itself. Raises UpstreamError."""
        return (await self.session(GATEWAY)).info

    def request(self, key: SessionKey, method: str, params: Params) -> StdioExchange:
        """Send a request; entered as an asynchronous context it is under way."""
        ticket = Ticket(next(self._ids), key, method, params)
        return StdioExchange(self, self.name, self._places, ticket, self._settings.timeout)

    async def notify(self, key: SessionKey, method: str, params: Params) -> None:
        """Send a notification to the process of ``key``, if it runs."""
        session = self._running(key)
        if session is not None:
            session.process.write(encode_notification(method, params))

    async def respond(self, key: SessionKey, request_id: RequestId, reply: Reply) -> None:
        """Answer a Request that the upstream sent."""
        session = self._running(key)
        if session is not None:
            session.respond(key, request_id, reply)

    def listen(self, key: SessionKey) -> None:
        """Pass on what the process of ``key`` asks outside any request, too."""
        slot = self._slot(key)
        slot.listened = True
        if slot.session is not None:
            slot.session.listened = True

    def unlisten(self, key: SessionKey) -> None:
        """From now on it is passed on no more."""
        slot = self._slots.get(self._whose(key))
        if slot is None or self._whose(key) != key:
            return
        slot.listened = False
        if slot.session is not None:
            slot.session.listened = False

    async def end(self, key: SessionKey) -> None:
        """End the process of ``key``; one that is shared stays."""
        if self._whose(key) != key:
            return
        slot = self._slots.pop(key, None)
        if slot is not None:
            await self._end(slot)

    async def close(self) -> None:
        """End every process with its group."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(*(self._end(slot) for slot in self._slots.values()))
        await self._starts.close()
        await self._ends.finish()

    async def session(self, key: SessionKey) -> StdioSession:
        """The session of ``key``, opened where there is none. Raises UpstreamError."""
        slot = self._slot(key)
        if slot.session is not None:
            return slot.session
        if self._closed:
            raise unavailable(self.name, "is being closed")
        if slot.opening is None:
            if slot.closed_until > asyncio.get_running_loop().time():
                raise unavailable(self.name, "keeps ending, and is started again in a while")
            self._make_room(self._whose(key))
            slot.opening = self._starts.run(self._start(self._whose(key), slot))
        opening = slot.opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if opening.cancelled() and not (caller is not None and caller.cancelling()):
                raise unavailable(self.name, "is being closed") from None
            raise

    # -- processes ----------------------------------------------------------------------------------------------------

    def _whose(self, key: SessionKey) -> SessionKey:
        return GATEWAY if self._shared else key

    def _slot(self, key: SessionKey) -> _Slot:
        return self._slots.setdefault(self._whose(key), _Slot())

    def _running(self, key: SessionKey) -> StdioSession | None:
        slot = self._slots.get(self._whose(key))
        return slot.session if slot is not None else None

    def _open(self) -> list[_Slot]:
        return [slot for slot in self._slots.values() if slot.session is not None or slot.opening is not None]

    async def _start(self, key: SessionKey, slot: _Slot) -> StdioSession:
        loop = asyncio.get_running_loop()
        if self._log is None:
            self._log = LineLog(logging.getLogger(f"ostiary.mcp.{self.name}"), loop.time)
        session = StdioSession(
            self.name,
            key,
            log=self._log,
            unsolicited=self._unsolicited,
            shared=self._shared,
        )
        slot.opened_at = loop.time()
        child = None
        try:
            async with asyncio.timeout(self._settings.timeout):
                child = await start(
                    self._settings, self._log, session.received, lambda fate: self._ended(slot, session, fate)
                )
                await session.initialize(child, next(self._ids))
        except BaseException as error:
            slot.died(loop.time())
            if child is not None:
                self._ends.run(child.end(self._grace))
            if isinstance(error, TimeoutError):
                raise late(self.name, self._settings.timeout) from None
            if isinstance(error, OSError):
                log.warning("upstream %s cannot be started: %s", self.name, error.strerror)
                raise unavailable(self.name, "cannot be started") from None
            raise
        finally:
            slot.opening = None
        session.listened = slot.listened
        session.last_used = loop.time()
        slot.session = session
        if self._sweeper is None and not self._shared:
            self._sweeper = loop.call_later(self._idle_seconds / 2, self._sweep)
        return session

    def _ended(self, slot: _Slot, session: StdioSession, fate: str) -> None:
        session.ended(fate)
        if slot.session is not session:
            return  # it never came to life, or is being ended
        log.warning("upstream %s: its process %s", self.name, fate)
        slot.died(asyncio.get_running_loop().time())
        self._ends.run(session.process.end(self._grace))

    async def _end(self, slot: _Slot) -> None:
        if slot.opening is not None:
            slot.opening.cancel()
            await asyncio.wait([slot.opening])
        session, slot.session = slot.session, None
        if session is not None:
            await session.process.end(self._grace)

    def _make_room(self, key: SessionKey) -> None:
        """End the process that gives way to one of ``key``. Raises UpstreamError where none does."""
        kept = [
            Held(kept_key, slot.opened_at, idle=False)
            if slot.session is None
            else Held(kept_key, slot.session.last_used, not slot.session.busy)
            for kept_key, slot in self._slots.items()
            if slot.session is not None or slot.opening is not None
        ]
        try:
            ending = gives_way(
                key,
                kept,
                most=MAX_PROCESSES,
                most_of_one=MAX_PROCESSES_OF_ONE,
                unused_since=asyncio.get_running_loop().time() - RECENT_SECONDS,
            )
        except NoRoom:
            raise unavailable(self.name, "has too many sessions") from None
        if ending is None:
            return
        slot = self._slots[ending]
        session, slot.session = slot.session, None  # the place stays: whoever listens there still does
        if session is not None:
            self._ends.run(session.process.end(self._grace))

    def _drop(self, key: SessionKey) -> None:
        self._ends.run(self._end(self._slots.pop(key)))

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for key, slot in tuple(self._slots.items()):
            session = slot.session
            if session is None:
                if slot.opening is None and slot.closed_until < now and not slot.listened:
                    del self._slots[key]
            elif session.last_used < now - self._idle_seconds and not session.busy and not slot.listened:
                self._drop(key)
        self._sweeper = loop.call_later(self._idle_seconds / 2, self._sweep)
