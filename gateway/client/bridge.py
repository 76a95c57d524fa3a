"""An MCP connection over standard input and output, carried to the gateway over streamable HTTP. Both eras.

A message is one line. What the host says is POSTed as it stands; whatever comes back, as JSON or as events, is written as
it stands. The bridge adds only what the transport wants: the token and certificate, the version and the mirrored headers,
the session's id and its GET stream. It hides only what the host cannot know of: a session that the gateway has forgotten is
opened again, a stream that broke off too.

Each request of the host is answered once, by ``_answer``: by the reply that ``_carry`` finds, or by an error that says why it
found none. What the gateway says beside that reaches the host only if it is a message (``answers``).

In the era with sessions (to 2025-11-25) a cancellation is a message; in the one without (2026-07-28) it is the end of the
request's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from gateway.client.answers import Call, Reply, json_object, messages, printable, reply_to
from gateway.client.errors import BrokenOffError, ClientError, UnusableAnswerError
from gateway.client.session import Session
from gateway.mcp.eras import LISTEN, PROTOCOL_VERSION
from gateway.mcp.messages import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    Message,
    Notification,
    Params,
    Rejected,
    Request,
    RequestId,
    encode_error,
    encode_request,
    parse_upstream_message,
)
from gateway.mcp.mirrored import Mirrored, argument_headers, mirrored_in, request_headers
from gateway.mcp.sse import EventParser
from gateway.outbound.client import Response

Write = Callable[[bytes], Awaitable[None]]
"""Writes one message to the host."""

LAST_SECONDS: Final = 10.0
"""After the host's last word, how long requests under way may still be answered."""
FAREWELL_SECONDS: Final = 2.0
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
MAX_RESUMPTIONS: Final = 10
"""How often the answer to one request is taken up again."""
_JSON: Final = ("Content-Type", "application/json")
_ANY: Final = ("Accept", "application/json, text/event-stream")
_EVENTS: Final = ("Accept", "text/event-stream")
_OWN_ID: Final = "ostiary-bridge"
"""The id of what the bridge asks by itself; its answers never reach the host."""

Headers = list[tuple[str, str]]


class Bridge:
    """One host's connection to one endpoint."""

    def __init__(self, session: Session, endpoint: str, write: Write) -> None:
        """``endpoint``: ``/mcp``, or ``/mcp/{upstream}``."""
        self._gateway = session
        self._endpoint = endpoint
        self._write = write
        self._tasks = asyncio.TaskGroup()
        self._in_flight: dict[RequestId, _Flight] = {}
        self._hello: Request | None = None
        """The host's ``initialize``: it opens a session again, too."""
        self._session_id: str | None = None
        self._version: str | None = None
        """What was agreed on, in the era with sessions."""
        self._reopening = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._mirrored: dict[str, tuple[Mirrored, ...]] = {}
        """By tool: the arguments that headers repeat."""

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Carry messages until the host says no more."""
        async with self._tasks:
            async for line in lines:
                if line.strip():
                    await self._received(line.strip())
            answers = [flight.task for flight in self._in_flight.values() if flight.method != LISTEN]
            if answers:
                await asyncio.wait(answers, timeout=LAST_SECONDS)
            await self._stop()
        await self._say_goodbye()

    async def _stop(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        ended = self._in_flight.copy()
        for flight in ended.values():
            flight.task.cancel()
        for request_id, flight in ended.items():
            if flight.method != LISTEN:
                why = "the host has ended, and the gateway has not answered yet"
                await self._write(encode_error(request_id, INTERNAL_ERROR, why))

    async def _received(self, line: bytes) -> None:
        try:
            message = parse_upstream_message(line)
        except Rejected:
            await self._write(_refusal_of(line))
            return
        if not isinstance(message, Request):
            await self._tell(line, message)
            return
        if message.id in self._in_flight:
            why = "A request with this id is still under way."
            await self._write(encode_error(message.id, INVALID_REQUEST, why))
            return
        task = self._tasks.create_task(self._answer(line, message))
        self._in_flight[message.id] = _Flight(task, message.method, modern=_version_of(message) is not None)
        if message.method == "initialize":
            await asyncio.wait([task])  # what follows belongs to the session that it opens

    async def _tell(self, line: bytes, message: Message) -> None:
        """A notification, or the answer to what the gateway asked."""
        if isinstance(message, Notification) and message.method == "notifications/cancelled":
            cancelled = message.params.get("requestId")
            flight = self._in_flight.get(cancelled) if isinstance(cancelled, int | str) else None
            if flight is not None and flight.modern:
                await asyncio.sleep(0)  # a task that has not begun would not end in order
                flight.task.cancel()
                return
        with contextlib.suppress(ClientError):  # nobody waits for an answer
            async with self._gateway.answering():
                (await self._post(line, self._session_headers())).drain()

    # Requests

    async def _answer(self, line: bytes, request: Request) -> None:
        """Carry one request, and write what comes of it."""
        try:
            answer = (await self._carry(line, request)).line
        except ClientError as error:
            answer = encode_error(request.id, INTERNAL_ERROR, str(error))
        except Exception as error:  # noqa: BLE001 - the last resort: this request fails, the others go on
            why = f"a fault in ostiary itself: {type(error).__name__}; please report it"
            answer = encode_error(request.id, INTERNAL_ERROR, why)
        finally:
            del self._in_flight[request.id]
        await self._write(answer)

    async def _carry(self, line: bytes, request: Request) -> Reply:
        """The reply to one request. Raises ClientError where the gateway gives none."""
        version = _version_of(request)
        if version is not None:
            return await self._carry_alone(line, request, version)
        if request.method == "initialize":
            return await self._initialize(line, request)
        return await self._carry_in_session(line, request)

    async def _initialize(self, line: bytes, request: Request) -> Reply:
        self._session_id, self._version, self._hello = None, None, request
        async with self._gateway.answering():
            reply = await self._open(line, request.id)
        self._listen()
        return reply

    async def _carry_in_session(self, line: bytes, request: Request) -> Reply:
        session_id = self._session_id
        response = await self._post(line, self._session_headers())
        if response.status == 404 and session_id is not None:
            response.drain()
            await self._reopen(session_id)
            response = await self._post(line, self._session_headers())
        return await self._resuming(request, response)

    async def _resuming(self, request: Request, response: Response) -> Reply:
        """As ``_reply``; an answer that broke off is taken up where it was (MCP 2025-11-25, basic/transports)."""
        stream = EventParser()
        attempts = 0
        while True:
            try:
                return await self._reply(request.id, response, stream)
            except BrokenOffError:
                if stream.last_id is None or attempts == MAX_RESUMPTIONS:
                    raise
                attempts += 1
                pause = FIRST_PAUSE if stream.retry is None else min(stream.retry, LONGEST_PAUSE)
                await asyncio.sleep(pause)
                response = await self._resume(stream.last_id)
                if response.status != 200:
                    response.drain()
                    raise
                stream = EventParser(last_id=stream.last_id)

    async def _resume(self, last_id: str | None) -> Response:
        """A GET stream, from after that event on."""
        headers = [_EVENTS, *self._session_headers()]
        if last_id is not None:
            headers.append(("Last-Event-ID", last_id))
        return await self._gateway.send("GET", self._endpoint, headers)

    async def _carry_alone(self, line: bytes, request: Request, version: str) -> Reply:
        """In the era without sessions."""
        headers = request_headers(version, request.method, request.params)
        if request.method == LISTEN:
            return await self._carry_subscription(line, request, headers)
        response = await self._post(line, headers + self._argument_headers(request))
        reply = await self._reply(request.id, response)
        if request.method == "tools/call" and response.status == 400 and _is_mismatch(reply):
            await self._learn_tools(request, version)
            response = await self._post(line, headers + self._argument_headers(request))
            reply = await self._reply(request.id, response)
        if request.method == "tools/list":
            self._note_tools(reply)
        return reply

    async def _carry_subscription(self, line: bytes, request: Request, headers: Headers) -> Reply:
        """Open it again as often as it breaks off."""
        pause = FIRST_PAUSE
        while True:
            try:
                response = await self._post(line, headers)
                pause = FIRST_PAUSE
                return await self._reply(request.id, response)
            except UnusableAnswerError:
                raise
            except ClientError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _reply(
        self, request_id: RequestId, response: Response, stream: EventParser | None = None
    ) -> Reply:
        """The reply in an answer; what comes before it is for the host. Raises ClientError."""
        return await reply_to(request_id, response, self._write, stream)

    async def _post(self, line: bytes, headers: Headers) -> Response:
        return await self._gateway.send("POST", self._endpoint, [_JSON, _ANY, *headers], line)

    # Sessions

    def _session_headers(self) -> Headers:
        headers: Headers = []
        if self._version is not None:
            headers.append(("MCP-Protocol-Version", self._version))
        if self._session_id is not None:
            headers.append(("Mcp-Session-Id", self._session_id))
        return headers

    async def _open(self, line: bytes, request_id: RequestId) -> Reply:
        """Ask for a session; it is there where the reply is no refusal. Raises ClientError."""
        response = await self._post(line, [])
        reply = await self._reply(request_id, response)
        if reply.error is None:
            version = reply.result.get("protocolVersion")
            self._version = version if isinstance(version, str) else None
            self._session_id = response.headers.get("Mcp-Session-Id")
        return reply

    async def _reopen(self, gone: str) -> None:
        """A new session in the place of one that the gateway has forgotten, once. Raises ClientError."""
        async with self._reopening:
            if self._session_id != gone or self._hello is None:
                return
            hello = encode_request(_OWN_ID, self._hello.method, self._hello.params)
            async with self._gateway.answering():
                reply = await self._open(hello, _OWN_ID)
                if reply.error is not None:
                    raise ClientError(f"the gateway opens no new session: {printable(reply.error.message)}")
                (await self._post(_INITIALIZED, self._session_headers())).drain()
        self._listen()

    def _listen(self) -> None:
        """Keep one GET stream open for what belongs to no request."""
        if self._session_id is not None and (self._listener is None or self._listener.done()):
            self._listener = self._tasks.create_task(self._keep_listening())

    async def _keep_listening(self) -> None:
        pause = FIRST_PAUSE
        stream = EventParser()
        session_id: str | None = None
        while self._session_id is not None:
            heard = False
            last_id = stream.last_id if session_id == self._session_id else None
            session_id, stream = self._session_id, EventParser(last_id=last_id)
            with contextlib.suppress(ClientError):
                response = await self._resume(last_id)
                if response.status == 200:
                    async for incoming in messages(response, stream):
                        heard = True
                        if isinstance(incoming, Call):  # a reply has its place in the answer to its request
                            await self._write(incoming.line)
                else:
                    response.drain()
                    if response.status == 405:
                        return
                    if response.status == 404:
                        await self._reopen(session_id)
            pause = FIRST_PAUSE if heard else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _say_goodbye(self) -> None:
        if self._session_id is None:
            return
        with contextlib.suppress(ClientError):
            async with self._gateway.answering(FAREWELL_SECONDS):
                headers = self._session_headers()
                (await self._gateway.send("DELETE", self._endpoint, headers)).drain()

    # The arguments that headers repeat

    def _argument_headers(self, request: Request) -> Headers:
        mirrored = self._mirrored.get(str(request.params.get("name")), ())
        return argument_headers(mirrored, request.params.get("arguments"))

    def _note_tools(self, reply: Reply) -> None:
        tools = reply.result.get("tools")
        for tool in tools if isinstance(tools, list) else []:
            if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                with contextlib.suppress(ValueError):  # such a tool cannot be called with headers anyway
                    self._mirrored[tool["name"]] = mirrored_in(tool.get("inputSchema"))

    async def _learn_tools(self, request: Request, version: str) -> None:
        """Ask for the tools, as the request's sender would. Raises ClientError."""
        params: Params = {"_meta": request.params.get("_meta")}
        headers = request_headers(version, "tools/list", params)
        async with self._gateway.answering():
            response = await self._post(encode_request(_OWN_ID, "tools/list", params), headers)
            self._note_tools(await self._reply(_OWN_ID, response))


class _Flight:
    """A request under way."""

    __slots__ = ("method", "modern", "task")

    def __init__(self, task: asyncio.Task[None], method: str, *, modern: bool) -> None:
        self.task = task
        self.method = method
        self.modern = modern


_INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


def _version_of(request: Request) -> str | None:
    """The revision that a request names, as those of the era without sessions do."""
    meta = request.params.get("_meta")
    version = meta.get(PROTOCOL_VERSION) if isinstance(meta, dict) else None
    return version if isinstance(version, str) else None


def _refusal_of(line: bytes) -> bytes:
    """What a line that is no message is answered: under the id of the request that it was meant to be, where there is one."""
    document = json_object(line)
    stated = document.get("id") if "method" in document else None
    request_id = stated if isinstance(stated, int | str) and not isinstance(stated, bool) else None
    code = INVALID_REQUEST if document else PARSE_ERROR
    return encode_error(request_id, code, "This line is not one JSON-RPC message.")


def _is_mismatch(reply: Reply) -> bool:
    return reply.error is not None and reply.error.code == HEADER_MISMATCH
