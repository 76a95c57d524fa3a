"""An upstream that is a child process of the gateway (MCP "Transports", stdio).

The process is started when it is first needed. One that dies is started again by the next request; one that keeps
dying only after a pause that grows, during which requests fail at once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.config.values import Sessions, StdioUpstream
from gateway.mcp.eras import LIST_CHANGES, Era
from gateway.mcp.exchange import PROBE_SECONDS, Errands, Ticket, late, unavailable
from gateway.mcp.log_levels import ask_for_level
from gateway.mcp.messages import Params, Reply, RequestId, encode_notification
from gateway.mcp.places import Place, Places
from gateway.mcp.sessions import Held, NoRoom, gives_way
from gateway.mcp.stdio_exchange import StdioExchange
from gateway.mcp.stdio_host import StdioHost
from gateway.mcp.stdio_process import LineLog, Rate, start
from gateway.mcp.stdio_session import StdioSession
from gateway.mcp.upstream import (
    GATEWAY,
    MODERN_GATEWAY,
    EraChangedError,
    Fields,
    Forgot,
    Load,
    ServerInfo,
    SessionKey,
    Unsolicited,
    UpstreamError,
)
from gateway.mcp.watching import PATIENCE
from gateway.model import Reason

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
        host: StdioHost,
        forgot: Forgot = lambda _key: None,
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
        self._forgot = forgot
        self._host = host
        self._grace = grace
        self._idle_seconds = idle_seconds
        self._places = Places(settings.max_concurrency)
        self._ids = itertools.count(1)
        self._shared = settings.sessions is Sessions.SHARED
        self._slots: dict[SessionKey, _Slot] = {}
        self._eras: frozenset[Era] = frozenset()
        self._speaks_modern_alone = False
        self._watched: set[str] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._rate: Rate | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<StdioUpstreamServer {self.name} processes={len(self._open())}>"

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self._settings.name

    @property
    def eras(self) -> frozenset[Era]:
        """The eras that it is known to speak."""
        return self._eras

    async def describe(self) -> ServerInfo:
        """What it says of itself. Raises UpstreamError.

        A process speaks one era, that of its first message. So the newest that this command speaks is found out once,
        and a process of the other era is started only when somebody needs one.
        """
        session = await self.session(GATEWAY if self._eras == {Era.LEGACY} else MODERN_GATEWAY)
        if session.info is None:
            raise unavailable(self.name, "has said nothing of itself")
        return session.info

    async def era_for(self, key: SessionKey) -> Era:
        """The era in which to ask it for ``key``. Raises UpstreamError."""
        if not self._eras:
            await self.describe()
        if key.era in self._eras:
            return key.era
        if key.era is Era.LEGACY and not self._speaks_modern_alone:
            try:
                await self.session(key)
            except UpstreamError as error:
                if error.reason is not Reason.UPSTREAM_INVALID:
                    raise
                self._speaks_modern_alone = True
            else:
                self._eras |= {Era.LEGACY}
                return Era.LEGACY
        return next(era for era in Era if era in self._eras)

    def request(
        self,
        key: SessionKey,
        method: str,
        params: Params,
        fields: Fields = (),
        load: Load | None = None,
    ) -> StdioExchange:
        """Send a request; entered as an asynchronous context it is under way."""
        ticket = Ticket(next(self._ids), key, method, params, fields)
        place = Place(self._places, key.owner if load is None else load.owner)
        return StdioExchange(self, self.name, place, ticket, self._settings.timeout)

    async def set_level(self, key: SessionKey, level: str) -> None:
        """Have that process send log messages from ``level`` on. Raises UpstreamError."""
        await ask_for_level(self, (await self.session(key)).log_level, key, level)

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
        heard, slot.listened = slot.listened, True
        if not heard:
            self._hear(slot)

    def unlisten(self, key: SessionKey) -> None:
        """From now on it is passed on no more."""
        slot = self._slots.get(self._whose(key))
        if slot is None or self._whose(key) != key:
            return
        slot.listened = False
        if slot.session is not None:
            slot.session.listened = False

    def watch(self, uri: str) -> None:
        """In the modern era: tell of changes of that resource."""
        if uri in self._watched:
            return
        self._watched.add(uri)
        session = self._running(MODERN_GATEWAY)
        if session is not None:
            session.listen(next(self._ids), {"resourceSubscriptions": [uri]})

    def unwatch(self, uri: str) -> None:
        """Tell of them no more."""
        session = self._running(MODERN_GATEWAY)
        if uri in self._watched and session is not None:
            session.unlisten({"resourceSubscriptions": [uri]})
        self._watched.discard(uri)

    async def watched(self, uris: Iterable[str]) -> frozenset[str]:
        """Wait until the server has agreed to tell of them, or refused, but not for long; those that it refused."""
        session = self._running(MODERN_GATEWAY)
        granted = {} if session is None else session.granted(uris)
        if granted:
            await asyncio.wait(granted.values(), timeout=PATIENCE)
        return frozenset(uri for uri, answer in granted.items() if answer.done() and not answer.result())

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
        if not self._shared:
            return key
        return MODERN_GATEWAY if key.era is Era.MODERN else GATEWAY

    def _slot(self, key: SessionKey) -> _Slot:
        return self._slots.setdefault(self._whose(key), _Slot())

    def _running(self, key: SessionKey) -> StdioSession | None:
        slot = self._slots.get(self._whose(key))
        return slot.session if slot is not None else None

    def _open(self) -> list[_Slot]:
        return [slot for slot in self._slots.values() if slot.session is not None or slot.opening is not None]

    async def _start(self, key: SessionKey, slot: _Slot) -> StdioSession:
        loop = asyncio.get_running_loop()
        slot.opened_at = loop.time()
        try:
            async with asyncio.timeout(self._settings.timeout):
                session = await self._launch(key)
        except BaseException as error:
            slot.died(loop.time())
            if isinstance(error, TimeoutError):
                raise late(self.name, self._settings.timeout) from None
            if isinstance(error, OSError):
                log.warning("upstream %s cannot be started: %s", self.name, error.strerror)
                raise unavailable(self.name, "cannot be started") from None
            raise
        finally:
            slot.opening = None
        place = self._slots.setdefault(session.key, slot if session.key == key else _Slot())
        place.opened_at = slot.opened_at
        session.last_used = loop.time()
        place.session = session
        self._hear(place)
        if self._sweeper is None and not self._shared:
            self._sweeper = loop.call_later(self._idle_seconds / 2, self._sweep)
        return session

    async def _launch(self, key: SessionKey) -> StdioSession:
        """A process with which hands are shaken. What turns out to be of the legacy era has the gateway's legacy key."""
        if self._rate is None:
            self._rate = Rate(self._host.log_of(self.name), asyncio.get_running_loop().time)
        lines = LineLog(self._rate)
        session = StdioSession(self.name, key, log=lines, unsolicited=self._unsolicited, shared=self._shared)
        child = await start(
            self._settings, self._host, lines, session.received, lambda fate: self._ended(session, fate)
        )
        session.process = child
        try:
            if await self._greeted(session):
                return session
        except BaseException:
            self._ends.run(child.end(self._grace))
            raise
        self._ends.run(child.end(self._grace))
        session = await self._launch(GATEWAY)
        self._eras = frozenset({Era.LEGACY})
        return session

    async def _greeted(self, session: StdioSession) -> bool:
        """Shake hands; False: the child ended at what it did not know, so it is of the legacy era.

        Raises UpstreamError, and EraChangedError where the command is no longer what it was.
        """
        if session.key.era is Era.LEGACY:
            await self._greeted_as_legacy(session)
            return True
        try:
            await session.discover(next(self._ids), min(PROBE_SECONDS, self._settings.timeout / 4))
            if not session.modern:
                await session.initialize(next(self._ids))
        except UpstreamError:
            if session.fate is None or self._eras:
                raise
            return False
        if session.modern:
            self._eras |= {Era.MODERN}
            return True
        if self._eras:
            raise self._speaks_now(Era.LEGACY)
        self._eras, session.key = frozenset({Era.LEGACY}), GATEWAY
        return True

    async def _greeted_as_legacy(self, session: StdioSession) -> None:
        try:
            await session.initialize(next(self._ids))
        except UpstreamError as error:
            if error.reason is not Reason.UPSTREAM_INVALID or Era.LEGACY not in self._eras:
                raise
            if Era.MODERN not in self._eras:
                await session.discover(next(self._ids), min(PROBE_SECONDS, self._settings.timeout / 4))
                if not session.modern:
                    raise
            raise self._speaks_now(Era.MODERN) from None

    def _speaks_now(self, era: Era) -> EraChangedError:
        """From now on it is taken to speak that era alone."""
        log.warning("upstream %s speaks another revision of MCP than before", self.name)
        self._eras, self._speaks_modern_alone = frozenset({era}), era is Era.MODERN
        for slot in self._slots.values():
            slot.deaths, slot.closed_until = 0, 0.0  # they were those of another program
        self._forgot(None)
        return EraChangedError(self.name)

    def _ended(self, session: StdioSession, fate: str) -> None:
        session.ended(fate)
        slot = self._slots.get(session.key)
        if slot is None or slot.session is not session:
            return  # it never came to life, or is being ended
        log.warning("upstream %s: its process %s", self.name, fate)
        slot.died(asyncio.get_running_loop().time())
        self._ends.run(session.process.end(self._grace))
        if not session.modern:  # else the next process is told by ``_hear``
            self._forgot(session.key)

    def _hear(self, slot: _Slot) -> None:
        """Have the process of that place say what it is to say by itself."""
        session = slot.session
        if session is None:
            return
        session.listened = slot.listened
        if session.modern and slot.listened:
            session.listen(next(self._ids), LIST_CHANGES)
        for uri in self._watched if session.key == MODERN_GATEWAY else ():
            session.listen(next(self._ids), {"resourceSubscriptions": [uri]})

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
