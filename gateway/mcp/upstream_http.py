"""An upstream over streamable HTTP, in either era (MCP "Transports").

Nothing is sent twice unless the server said that it knows no such session: then it has done nothing either. What
comes on a request's own answer belongs to that request, except the progress of another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from gateway.config.values import HttpUpstream
from gateway.mcp.credentials import UpstreamClient
from gateway.mcp.eras import ACKNOWLEDGED, LIST_CHANGES, Era
from gateway.mcp.exchange import Ticket, late
from gateway.mcp.http_answer import Answer
from gateway.mcp.http_error import refused
from gateway.mcp.http_exchange import HttpExchange
from gateway.mcp.http_session import HttpSession
from gateway.mcp.http_sessions import HttpSessions
from gateway.mcp.log_levels import ask_for_level
from gateway.mcp.messages import METHOD_NOT_FOUND, Params, Reply, RequestId, encode_notification, encode_reply
from gateway.mcp.pace import Pace
from gateway.mcp.places import Place, Places
from gateway.mcp.upstream import (
    GATEWAY,
    MODERN_GATEWAY,
    Fields,
    Forgot,
    Load,
    ServerInfo,
    SessionKey,
    Unsolicited,
    UpstreamError,
)
from gateway.mcp.watching import Refusal, Watching
from gateway.model import Reason
from gateway.outbound.client import OutboundError

log = logging.getLogger("ostiary.mcp")

IDLE_SECONDS: Final = 30 * 60.0
"""After this long without use a session is ended."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


class HttpUpstreamServer:
    """An ``Upstream`` over streamable HTTP."""

    def __init__(
        self,
        settings: HttpUpstream,
        client: UpstreamClient,
        unsolicited: Unsolicited,
        forgot: Forgot = lambda _key: None,
        *,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """``unsolicited`` gets what comes outside any request. ``client`` is closed with it.

        Made within a running event loop, and used within that one.
        """
        self._settings = settings
        self._sessions = HttpSessions(settings, client, unsolicited, forgot, idle_seconds)
        self._places = Places(settings.max_concurrency)
        self._eras: frozenset[Era] = frozenset()
        self._speaks_modern_alone = False
        self._listeners: dict[SessionKey, asyncio.Task[None]] = {}
        self._has_no_stream = False
        self._probing: asyncio.Task[None] | None = None
        self._pace = Pace(FIRST_PAUSE, LONGEST_PAUSE)
        self._watching = Watching(
            settings.name,
            self._sessions.listen,
            partial(self._sessions.unsolicited, GATEWAY),
            self._sessions.errands,
        )

    def __repr__(self) -> str:
        return f"<HttpUpstreamServer {self.name} sessions={len(self._sessions)}>"

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

        One that was of the legacy era stays so for as long as its session lasts.
        """
        known = self._sessions.known(GATEWAY)
        if known is not None and Era.MODERN not in self._eras:
            return known.info
        info = await self._sessions.handshake.discover()
        if info is not None:
            self._eras |= {Era.MODERN}
            return info
        try:
            async with asyncio.timeout(self._settings.timeout):
                info = (await self._sessions.session(GATEWAY)).info
        except TimeoutError:
            raise late(self.name, self._settings.timeout) from None
        self._eras, self._speaks_modern_alone = frozenset({Era.LEGACY}), False
        return info

    async def era_for(self, key: SessionKey) -> Era:
        """The era in which to ask it for ``key``. Raises UpstreamError.

        No server says whether it speaks the legacy era, too: so the first who needs it tries.
        """
        if not self._eras:
            await self.describe()
        if key.era in self._eras:
            return key.era
        if key.era is Era.LEGACY and not self._speaks_modern_alone:
            try:
                await self._sessions.session(key)
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
    ) -> HttpExchange:
        """Send a request; entered as an asynchronous context it is under way."""
        ticket = Ticket(self._sessions.next_id(), key, method, params, fields)
        place = Place(self._places, key.owner if load is None else load.owner)
        era_changed = partial(self._changed_since, self._eras)
        return HttpExchange(self._sessions, place, ticket, self._settings.timeout, era_changed, load=load)

    async def set_level(self, key: SessionKey, level: str) -> None:
        """Have that session send log messages from ``level`` on. Raises UpstreamError."""
        await ask_for_level(self, (await self._sessions.session(key)).log_level, key, level)

    async def notify(self, key: SessionKey, method: str, params: Params) -> None:
        """Send a notification on the session of ``key``, if it is open."""
        session = self._sessions.known(key)
        if session is not None:
            await self._sessions.tell(session, encode_notification(method, params))

    async def respond(self, key: SessionKey, request_id: RequestId, reply: Reply) -> None:
        """Answer a Request that the upstream sent."""
        session = self._sessions.known(key)
        if session is not None:
            await self._sessions.tell(session, encode_reply(request_id, reply))

    def listen(self, key: SessionKey) -> None:
        """Keep a GET stream open for that session, which is opened where there is none.

        In the modern era there is one for the gateway alone: it tells when a list changes.
        """
        if key.era is Era.MODERN:
            listener = self._listeners.get(key)
            if key == MODERN_GATEWAY and (listener is None or listener.done()):
                self._listeners[key] = self._sessions.errands.run(self._hear(LIST_CHANGES))
            return
        key = self._sessions.whose(key)
        if key in self._listeners:
            return
        self._sessions.streamed.add(key)
        self._listeners[key] = self._sessions.errands.run(self._listen(key))

    def unlisten(self, key: SessionKey) -> None:
        """Close that session's GET stream; one that is shared stays open."""
        if self._sessions.whose(key) != key:
            return
        listener = self._listeners.pop(key, None)
        if listener is not None:
            listener.cancel()
        self._sessions.streamed.discard(key)

    def watch(self, uri: str) -> None:
        """In the modern era: tell of changes of that resource."""
        self._watching.add(uri)

    def unwatch(self, uri: str) -> None:
        """Tell of them no more."""
        self._watching.discard(uri)

    async def watched(self, uris: Iterable[str]) -> frozenset[str]:
        """Wait until the server has agreed to tell of them, or refused, but not for long; those that it refused."""
        return await self._watching.refused(uris)

    async def end(self, key: SessionKey) -> None:
        """Close the session of ``key``; one that is shared stays."""
        if self._sessions.whose(key) != key:
            return
        self.unlisten(key)
        session = self._sessions.known(key)
        if session is not None:
            await self._sessions.end(session)

    async def close(self) -> None:
        """End every session, and everything that belongs to it, within a few seconds."""
        self._has_no_stream = True
        await self._sessions.close()

    # -- another server at its address ----------------------------------------------------------------------------------

    async def _changed_since(self, eras: frozenset[Era]) -> bool:
        """Whether it speaks other eras than ``eras``, which is found out now and then."""
        now = self._sessions.loop.time()
        if eras == self._eras and self._pace.wait(now) == 0:
            self._pace.begun(now)
            self._probing = self._sessions.errands.run(self._probe())
        if self._probing is not None:
            with contextlib.suppress(UpstreamError):
                await asyncio.shield(self._probing)
        return eras != self._eras

    async def _probe(self) -> None:
        """Find out which of the eras that it spoke it still speaks, and whether it is modern now. Raises UpstreamError."""
        modern = await self._sessions.handshake.discover() is not None
        legacy = Era.LEGACY in self._eras and (not modern or await self._sessions.initializes())
        found = frozenset({Era.MODERN} if modern else ()) | frozenset({Era.LEGACY} if legacy else ())
        if found != self._eras:
            log.warning("upstream %s speaks another revision of MCP than before", self.name)
            self._speaks_modern_alone = Era.LEGACY in self._eras and not legacy
            self._eras = found
            self._has_no_stream = False
            self._sessions.forget_all()
            if found != {Era.MODERN}:
                self._listen_again()

    def _listen_again(self) -> None:
        """The server before had no streams; this one may have some."""
        for key in [key for key, listener in self._listeners.items() if listener.done()]:
            del self._listeners[key]
            self.listen(key)

    # -- the GET stream -----------------------------------------------------------------------------------------------

    async def _listen(self, key: SessionKey) -> None:
        """Keep the stream open: again after a pause when it ends, from where it was when the session is the same."""
        pause = FIRST_PAUSE
        last: Answer | None = None
        session: HttpSession | None = None
        while not self._has_no_stream:
            heard = False
            if Era.LEGACY not in self._eras and self._eras:
                await asyncio.sleep(LONGEST_PAUSE)
                continue
            try:
                current = await self._sessions.session(key)
                last_id = last.last_id if last is not None and current is session else None
                session, last = current, None
                last = await self._stream(session, last_id)
                while last is not None and (message := await last.next()) is not None:
                    heard = True
                    self._sessions.heard(session, message, None, last)
            except (OutboundError, UpstreamError) as error:
                log.debug("upstream %s: its stream ended: %s", self.name, type(error).__name__)
                if isinstance(error, UpstreamError) and error.reason is Reason.UPSTREAM_INVALID:
                    heard, last = False, None  # what it said was no good: not the same again, and not at once
            finally:
                if session is not None and session.stream is not None:
                    session.stream.close()
                    session.stream = None
            asked = last.retry if last is not None else None
            pause = FIRST_PAUSE if heard else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause if asked is None else max(asked, 0.1))
        self._sessions.streamed.discard(key)

    async def _hear(self, wanted: dict[str, Any]) -> None:
        """In the modern era: keep a subscription open, again after a pause when it ends; until the server wants none."""
        pause = FIRST_PAUSE
        while True:
            if Era.MODERN not in self._eras and self._eras:
                await asyncio.sleep(LONGEST_PAUSE)
                continue
            try:
                async with contextlib.aclosing(self._sessions.listen(wanted)) as told:
                    async for message in told:
                        if message.method != ACKNOWLEDGED:
                            pause = FIRST_PAUSE
                            self._sessions.unsolicited(GATEWAY, message)
            except Refusal as refusal:
                if refusal.code == METHOD_NOT_FOUND:
                    return  # until ``listen`` is called again
            except (OutboundError, UpstreamError) as error:
                log.debug("upstream %s: its subscription ended: %s", self.name, type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _stream(self, session: HttpSession, last_id: str | None) -> Answer | None:
        """An open GET stream; None: not now, or (``_has_no_stream``) never of this server."""
        response = await self._sessions.stream(session, last_id)
        if response.status == 200:
            session.stream = response
            return Answer(self.name, response)
        error = await refused(response)
        self._has_no_stream = self._has_no_stream or response.status == 405
        if session.id is not None and error.forgets_session():
            self._sessions.forget(session)
        return None
