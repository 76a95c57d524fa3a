"""The sessions that the gateway keeps at one HTTP upstream, and the messages that it sends on them.

There is one session for each key, opened when first needed by whoever comes first, while the others wait for it. It is
kept until it is ended, idle too long, or forgotten by the server: then it is opened again, once for all who noticed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.config.values import HttpUpstream, Sessions
from gateway.mcp.complaint import Complaint
from gateway.mcp.credentials import UpstreamClient
from gateway.mcp.eras import LISTEN, Era, as_modern_request
from gateway.mcp.exchange import (
    CAPABILITIES,
    DISCOVER,
    INITIALIZED,
    NOTIFY_SECONDS,
    PROBE_SECONDS,
    PROGRESS,
    Errands,
    Ticket,
    discover_request,
    discovered,
    initialize_request,
    invalid,
    late,
    server_info,
    ticket_of,
    unavailable,
)
from gateway.mcp.http_answer import EVENTS, JSON, Answer
from gateway.mcp.http_error import MAX_REFUSAL, ErrorAnswer, error_code
from gateway.mcp.listing import LISTS_OF
from gateway.mcp.messages import (
    MODERN_VERSIONS,
    Message,
    Notification,
    Reply,
    Request,
    RequestId,
    encode_result,
)
from gateway.mcp.mirrored import request_headers
from gateway.mcp.sessions import Held, NoRoom, gives_way
from gateway.mcp.upstream import (
    GATEWAY,
    MODERN_GATEWAY,
    Load,
    ServerInfo,
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
    encode_headers,
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
MAX_PINGS: Final = 8
"""How many pings of a session may wait for their answers, which are sent one after another."""
_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,1024}")


class HttpSession:
    """One session at the server. ``id`` None: the server keeps no sessions."""

    __slots__ = (
        "fields",
        "id",
        "in_flight",
        "info",
        "key",
        "last_used",
        "log_level",
        "modern",
        "pings",
        "pong",
        "post_headers",
        "stream",
    )

    def __init__(self, key: SessionKey, session_id: str | None, info: ServerInfo, now: float) -> None:
        self.key = key
        self.id = session_id
        self.info = info
        self.last_used = now
        self.log_level: str | None = None
        self.in_flight: dict[int, Ticket] = {}
        self.pings: deque[RequestId] = deque(maxlen=MAX_PINGS)
        """Those of the server's that are still to be answered."""
        self.pong: asyncio.Task[None] | None = None
        """What answers them, while there are any."""
        self.stream: Response | None = None
        """Its GET stream, while there is one."""
        self.modern = info.era is Era.MODERN
        """Whether it is none at all, but what all requests of the modern era have in common."""
        self.fields = [("MCP-Protocol-Version", info.protocol_version)]
        if session_id is not None:
            self.fields.append(("Mcp-Session-Id", session_id))
        self.post_headers = encode_headers([*_POST_FIELDS, *self.fields])

    def headers_for(self, ticket: Ticket) -> EncodedHeaders:
        """The head of that request."""
        if not self.modern:
            more = ticket.fields
            return encode_headers([*_POST_FIELDS, *self.fields, *more]) if more else self.post_headers
        standard = request_headers(self.info.protocol_version, ticket.method, ticket.params)
        return encode_headers([*_POST_FIELDS, *standard, *ticket.fields])

    def get_headers(self, last_id: str | None) -> list[tuple[str, str]]:
        """The fields of a GET, which takes up a stream again where ``last_id`` is known."""
        fields = [("Accept", EVENTS), *self.fields]
        return fields if last_id is None else [*fields, ("Last-Event-ID", last_id)]


_POST_FIELDS: Final = (("Content-Type", JSON), ("Accept", f"{JSON}, {EVENTS}"))
_FIRST_HEADERS: Final = encode_headers(_POST_FIELDS)


class HttpSessions:
    """All sessions at one upstream."""

    def __init__(
        self, settings: HttpUpstream, client: UpstreamClient, unsolicited: Unsolicited, idle_seconds: float
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
        self._asked = Complaint(self.loop.time)
        self._notices = asyncio.Semaphore(MAX_NOTICES)
        self.unsolicited = unsolicited
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
            del self._sessions[session.key]
        if session.stream is not None:
            session.stream.close()

    def forget_all(self) -> None:
        """There is another server at this address, which knows of none."""
        for session in tuple(self._sessions.values()):
            self.forget(session)

    async def end(self, session: HttpSession) -> None:
        """Tell the server that the session is over. A server that does not listen is not an error."""
        self.forget(session)
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
        return self._client.send("POST", self._target, headers, body, owner=ticket.key.owner)

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
                error = (await self.refused(response)).error
                failure = self.refusal(response.status)
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

    async def refused(self, response: Response, request_id: int | None = None) -> ErrorAnswer:
        """An answer that is not 200, to that request. A body that is too large, or none, says nothing. Raises OutboundError."""
        try:
            body = await response.read(MAX_REFUSAL)
        except ResponseError:
            body = b""
        return ErrorAnswer(response.status, body, request_id)

    def refusal(self, status: int) -> UpstreamError:
        """What an answer with that status comes to, where it says no more."""
        what = f"answered with HTTP status {status}"
        if status in {401, 403, 404, 429} or status >= 500:
            return unavailable(self.name, what)
        return invalid(self.name, what)

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
                return await (self._greet() if key.era is Era.MODERN else self._initialize(key))
        except ResponseError:
            raise invalid(self.name, "answered with something that is not HTTP") from None
        except OutboundError:
            raise unavailable(self.name, "cannot be reached") from None
        except TimeoutError:
            raise late(self.name, self._timeout) from None

    async def discover(self) -> ServerInfo | None:
        """What the server says of itself in the modern era; None: it does not speak it. Raises UpstreamError."""
        ticket = Ticket(self.next_id(), MODERN_GATEWAY, DISCOVER, {})
        standard = request_headers(MODERN_VERSIONS[0], DISCOVER, {})
        headers = encode_headers([*_POST_FIELDS, *standard])
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                body = discover_request(ticket.id)
                response = await self._client.send("POST", self._target, headers, body, owner=GATEWAY.owner)
                if response.status != 200:
                    await response.read(MAX_REFUSAL)
                    return None
                message = await self._reply_in(response)
        except (TimeoutError, ResponseError):
            return None
        except OutboundError:
            raise unavailable(self.name, "cannot be reached") from None
        except UpstreamError as error:
            if error.reason is Reason.UPSTREAM_INVALID:
                return None
            raise
        return None if message is None else discovered(message)

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

    async def _greet(self) -> HttpSession:
        info = await self.discover()
        if info is None:
            raise invalid(self.name, "no longer speaks the modern revision of MCP")
        return HttpSession(MODERN_GATEWAY, None, info, self.loop.time())

    async def _initialize(self, key: SessionKey) -> HttpSession:
        request_id = self.next_id()
        body = initialize_request(request_id, key)
        response = await self._client.send("POST", self._target, _FIRST_HEADERS, body, owner=key.owner)
        if response.status != 200:
            if (await self.refused(response)).error is not None:
                raise invalid(self.name, "refused to open a session")
            raise self.refusal(response.status)
        message = await self._reply_in(response)
        if message is None or message.id != request_id:
            raise invalid(self.name, "did not answer initialize")
        session_id = response.headers.get("mcp-session-id")
        if session_id is not None and not _SESSION_ID.fullmatch(session_id):
            raise invalid(self.name, "gave a session id that is none")
        info = server_info(self.name, message)
        session = HttpSession(key, session_id, info, self.loop.time())
        (await self._send(session, "POST", session.post_headers, INITIALIZED)).drain()
        return session

    async def _reply_in(self, response: Response) -> Reply | None:
        """The reply in an answer, whatever comes before it; None: there is none. Raises UpstreamError."""
        try:
            answer = Answer(self.name, response)
            message = await answer.next()
            while message is not None and not isinstance(message, Reply):
                message = await answer.next()
            return message
        finally:
            response.drain()

    def _sweep(self) -> None:
        limit = self.loop.time() - self._idle_seconds
        for session in tuple(self._sessions.values()):
            if session.last_used < limit and not session.in_flight and session.key not in self.streamed:
                self.errands.run(self.end(session))
        self._sweeper = self.loop.call_later(self._idle_seconds / 2, self._sweep)
