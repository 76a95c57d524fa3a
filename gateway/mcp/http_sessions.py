"""The sessions that the gateway keeps at one HTTP upstream, and the messages that it sends on them.

There is one session for each key, opened when first needed by whoever comes first, while the others wait for it. It is
kept until it is ended, idle too long, or forgotten by the server: then it is opened again, once for all who noticed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.config.values import HttpUpstream, Sessions
from gateway.mcp.complaint import Complaint
from gateway.mcp.credentials import UpstreamClient
from gateway.mcp.eras import LISTEN, Era, as_modern_request
from gateway.mcp.exchange import (
    CAPABILITIES,
    NOTIFY_SECONDS,
    PROGRESS,
    Errands,
    Ticket,
    invalid,
    late,
    ticket_of,
    unavailable,
)
from gateway.mcp.http_answer import Answer
from gateway.mcp.http_error import error_code, refusal, refused
from gateway.mcp.http_handshake import Handshake
from gateway.mcp.http_session import HttpSession
from gateway.mcp.listing import LISTS_OF
from gateway.mcp.messages import (
    Message,
    Notification,
    Reply,
    Request,
    RequestId,
    encode_result,
)
from gateway.mcp.sessions import Held, NoRoom, gives_way
from gateway.mcp.upstream import (
    GATEWAY,
    MODERN_GATEWAY,
    Forgot,
    Load,
    SessionKey,
    Unsolicited,
    UpstreamError,
)
from gateway.mcp.watching import Refusal
from gateway.model import Reason
from gateway.outbound.client import (
    EncodedHeaders,
    Headers,
    OutboundError,
    Response,
    ResponseError,
)

log = logging.getLogger("ostiary.mcp")

MAX_SESSIONS: Final = 1_000
"""How many sessions there may be at one upstream, besides the gateway's own."""
MAX_SESSIONS_OF_ONE: Final = 16
"""Of them, of one client (whose sessions differ in the capabilities that it declared)."""
RECENT_SECONDS: Final = 60.0
"""For so long after its use no session ends for another client's."""
CLOSE_SECONDS: Final = 2.0
"""How long ending sessions may take when the gateway stops."""
MAX_NOTICES: Final = 64
"""How many messages that have no answer may be on their way to one upstream at a time."""


class HttpSessions:
    """All sessions at one upstream."""

    def __init__(
        self,
        settings: HttpUpstream,
        client: UpstreamClient,
        unsolicited: Unsolicited,
        forgot: Forgot,
        idle_seconds: float,
    ) -> None:
        parts = urlsplit(settings.url)
        self.name = settings.name
        self.loop = asyncio.get_running_loop()
        self.errands = Errands()
        self.streamed: set[SessionKey] = set()
        """Those with a listener; they are never idle."""
        self._timeout = settings.timeout
        self._shared = settings.sessions is Sessions.SHARED
        self._client = client
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._ids = itertools.count(1)
        self.handshake = Handshake(settings.name, self._post, self.next_id)
        self._asked = Complaint(self.loop.time)
        self._notices = asyncio.Semaphore(MAX_NOTICES)
        self.unsolicited = unsolicited
        self._forgot = forgot
        self._idle_seconds = idle_seconds
        self._sessions: dict[SessionKey, HttpSession] = {}
        self._opening: dict[SessionKey, asyncio.Task[HttpSession]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._sessions)

    def whose(self, key: SessionKey) -> SessionKey:
        """The key under which the session of ``key`` is kept."""
        if key.era is Era.MODERN:
            return MODERN_GATEWAY
        return GATEWAY if self._shared else key

    def next_id(self) -> int:
        """An id that no request at this upstream has had."""
        return next(self._ids)

    def known(self, key: SessionKey) -> HttpSession | None:
        """The session of ``key``, if it is open."""
        return self._sessions.get(self.whose(key))

    async def session(self, key: SessionKey) -> HttpSession:
        """The session of ``key``, opened where there is none. Raises UpstreamError."""
        key = self.whose(key)
        session = self._sessions.get(key)
        if session is not None:
            return session
        if self._closed:
            raise unavailable(self.name, "is being closed")
        task = self._opening.get(key)
        if task is None:
            self._make_room(key)
            task = self._opening[key] = self.errands.run(self._open(key))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and not (caller is not None and caller.cancelling()):
                raise unavailable(self.name, "is being closed") from None
            raise

    def forget(self, session: HttpSession) -> None:
        """The server knows it no longer: the next request opens another, and so does its listener."""
        if self._sessions.get(session.key) is session:
            self._forgot(session.key)
        self._let_go(session)

    def forget_all(self) -> None:
        """There is another server at this address, which knows of none."""
        for session in tuple(self._sessions.values()):
            self._let_go(session)
        self._forgot(None)

    def _let_go(self, session: HttpSession) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        if session.stream is not None:
            session.stream.close()

    async def end(self, session: HttpSession) -> None:
        """Tell the server that the session is over. A server that does not listen is not an error."""
        self._let_go(session)
        if session.id is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                response = await self._send(session, "DELETE", session.get_headers(None))
        except (OutboundError, TimeoutError):
            return  # it is gone, or will be in its own time
        response.drain()

    async def close(self) -> None:
        """End every session and let go of the connections, within ``CLOSE_SECONDS``."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.errands.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(self.end(session) for session in tuple(self._sessions.values())))
        except TimeoutError:
            log.info("upstream %s: not every session could be ended in time", self.name)
        await self._client.close()
        await self.errands.close()

    # -- messages -----------------------------------------------------------------------------------------------------

    def send(self, session: HttpSession, ticket: Ticket) -> Awaitable[Response]:
        """Post a request. Raises OutboundError."""
        headers, body = session.headers_for(ticket), ticket.encode()
        return self._post(ticket.key, headers, body)

    def _post(self, key: SessionKey, headers: EncodedHeaders, body: bytes) -> Awaitable[Response]:
        return self._client.send("POST", self._target, headers, body, owner=key.owner)

    def _send(
        self, session: HttpSession, method: str, headers: Headers | EncodedHeaders, body: bytes | None = None
    ) -> Awaitable[Response]:
        return self._client.send(method, self._target, headers, body, owner=session.key.owner)

    async def stream(self, session: HttpSession, last_id: str | None) -> Response:
        """Ask for the session's stream, or for the rest of one that broke off after ``last_id``. Raises OutboundError."""
        return await self._send(session, "GET", session.get_headers(last_id))

    async def listen(self, wanted: dict[str, Any]) -> AsyncGenerator[Notification, None]:
        """What the server tells on a subscription (SubscriptionFilter) of the modern era, until it or the reader ends it.

        First comes its acknowledgement. Raises Refusal where the server does not grant it, OutboundError, UpstreamError.
        """
        session = await self.session(MODERN_GATEWAY)
        params = as_modern_request({"notifications": wanted}, CAPABILITIES)
        response = await self.send(session, Ticket(self.next_id(), MODERN_GATEWAY, LISTEN, params))
        try:
            if response.status != 200:
                error = (await refused(response)).error
                failure = refusal(self.name, response.status)
                if error is None or (
                    response.status != 404 and failure.reason is Reason.UPSTREAM_UNAVAILABLE
                ):
                    raise failure
                raise Refusal(error_code(error))
            answer = Answer(self.name, response)
            while (message := await answer.next()) is not None:
                if isinstance(message, Reply) and message.error is not None:
                    raise Refusal(error_code(message.error))
                if isinstance(message, Notification):
                    answer.unasked()
                    yield message
        finally:
            response.close()

    async def resume(self, session: HttpSession, last_id: str, load: Load | None = None) -> Answer:
        """The rest of an answer that broke off after ``last_id``. Raises UpstreamError."""
        try:
            response = await self.stream(session, last_id)
        except OutboundError:
            raise unavailable(self.name, "broke off its answer") from None
        if response.status != 200:
            response.close()
            raise unavailable(self.name, "broke off its answer")
        return Answer(self.name, response, after=last_id, load=load)

    async def tell(self, session: HttpSession, body: bytes) -> None:
        """Send what has no answer. A server that does not take it is not an error.

        The modern era has nothing of the kind: there a request is cancelled by leaving its answer.
        """
        if session.modern:
            return
        try:
            async with asyncio.timeout(NOTIFY_SECONDS), self._notices:
                response = await self._send(session, "POST", session.post_headers, body)
        except (OutboundError, TimeoutError) as error:
            log.info("upstream %s did not take a notification: %s", self.name, type(error).__name__)
            return
        response.drain()

    def heard(
        self, session: HttpSession, message: Message, ticket: Ticket | None, answer: Answer
    ) -> Message | None:
        """Deal with what came: on the ``answer`` to ``ticket``, or (None) on the GET stream.

        What belongs to that request comes back; everything else has been seen to. Raises UpstreamError where there is
        a flood of that.
        """
        if isinstance(message, Notification) and message.method == PROGRESS:
            owner = ticket_of(message, session.in_flight)
            if owner is not None and owner is ticket:
                return owner.restore(message)
            answer.unasked()
            if owner is not None:
                self.unsolicited(owner.key, owner.restore(message))
            return None
        if isinstance(message, Request) and (session.modern or message.method == "ping"):
            answer.unasked()
            if session.modern:
                self._asked.warn(f"upstream {self.name} sent a request, which its revision of MCP forbids")
            else:
                self._was_pinged(session, message.id)
            return None
        if ticket is not None:
            if isinstance(message, Notification) and message.method in LISTS_OF:
                answer.unasked()
            return message
        answer.unasked()
        if not isinstance(message, Reply):
            self.unsolicited(session.key, message)
        return None

    def _was_pinged(self, session: HttpSession, request_id: RequestId) -> None:
        """Answer that ping once those before it are answered; of too many, those that have waited longest are dropped."""
        session.pings.append(request_id)
        if session.pong is None:
            session.pong = self.errands.run(self._answer_pings(session))

    async def _answer_pings(self, session: HttpSession) -> None:
        try:
            while session.pings:
                await self.tell(session, encode_result(session.pings.popleft(), {}))
        finally:
            session.pong = None

    # -- opening and ending -------------------------------------------------------------------------------------------

    def _make_room(self, key: SessionKey) -> None:
        """End the session that gives way to one of ``key``. Raises UpstreamError where none does."""
        kept = [
            Held(session.key, session.last_used, not session.in_flight and session.key not in self.streamed)
            for session in self._sessions.values()
        ]
        kept += [Held(opening, 0.0, idle=False) for opening in self._opening if opening not in self._sessions]
        try:
            ending = gives_way(
                key,
                kept,
                most=MAX_SESSIONS,
                most_of_one=MAX_SESSIONS_OF_ONE,
                unused_since=self.loop.time() - RECENT_SECONDS,
            )
        except NoRoom:
            raise unavailable(self.name, "has too many sessions") from None
        if ending is not None:
            session = self._sessions.pop(ending)
            self.errands.run(self.end(session))

    async def _open(self, key: SessionKey) -> HttpSession:
        try:
            session = await self._opened(key)
        finally:
            self._opening.pop(key, None)
        self._sessions[key] = session
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self._idle_seconds / 2, self._sweep)
        return session

    async def _opened(self, key: SessionKey) -> HttpSession:
        try:
            async with asyncio.timeout(self._timeout):
                return await (
                    self.handshake.greet() if key.era is Era.MODERN else self.handshake.initialize(key)
                )
        except ResponseError:
            raise invalid(self.name, "answered with something that is not HTTP") from None
        except OutboundError:
            raise unavailable(self.name, "cannot be reached") from None
        except TimeoutError:
            raise late(self.name, self._timeout) from None

    async def initializes(self) -> bool:
        """Whether the server opens sessions, of which this one is ended at once. Raises UpstreamError."""
        try:
            session = await self._opened(GATEWAY)
        except UpstreamError as error:
            if error.reason is Reason.UPSTREAM_INVALID:
                return False
            raise
        self.errands.run(self.end(session))
        return True

    def _sweep(self) -> None:
        limit = self.loop.time() - self._idle_seconds
        for session in tuple(self._sessions.values()):
            if session.last_used < limit and not session.in_flight and session.key not in self.streamed:
                self.errands.run(self.end(session))
        self._sweeper = self.loop.call_later(self._idle_seconds / 2, self._sweep)
