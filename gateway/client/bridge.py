"""An MCP connection over standard input and output, carried to the gateway over streamable HTTP. Both eras.

A message is one line. What the host says is POSTed as it stands; whatever comes back, as JSON or as events, is written as
it stands. The bridge adds only what the transport wants: the token and certificate, the version and the mirrored headers,
the session's id and its GET stream. It hides only what the host cannot know of: a session that the gateway has forgotten is
opened again, a stream that broke off too.

In the era with sessions (to 2025-11-25) a cancellation is a message; in the one without (2026-07-28) it is the end of the
request's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from gateway.client.answers import json_object, messages
from gateway.client.errors import ClientError
from gateway.client.session import Session
from gateway.mcp.eras import LISTEN, PROTOCOL_VERSION
from gateway.mcp.messages import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    PARSE_ERROR,
    Message,
    Notification,
    Params,
    Rejected,
    Request,
    RequestId,
    encode,
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
        self._in_flight: dict[RequestId, _Flight] = {}
        self._hello: bytes | None = None
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
        async with asyncio.TaskGroup() as tasks:
            async for line in lines:
                if line.strip():
                    await self._received(tasks, line.strip())
            answers = [flight.task for flight in self._in_flight.values() if flight.method != LISTEN]
            if answers:
                await asyncio.wait(answers, timeout=LAST_SECONDS)
            self._stop()
        await self._say_goodbye()

    def _stop(self) -> None:
        for flight in self._in_flight.values():
            flight.task.cancel()
        if self._listener is not None:
            self._listener.cancel()

    async def _received(self, tasks: asyncio.TaskGroup, line: bytes) -> None:
        try:
            message = parse_upstream_message(line)
        except Rejected:
            await self._write(encode_error(None, PARSE_ERROR, "This line is not one JSON-RPC message."))
            return
        if not isinstance(message, Request):
            await self._tell(line, message)
            return
        task = tasks.create_task(self._answer(tasks, line, message))
        self._in_flight[message.id] = _Flight(task, message.method, modern=_version_of(message) is not None)
        if message.method == "initialize":
            await asyncio.wait([task])  # what follows belongs to the session that it opens

    async def _tell(self, line: bytes, message: Message) -> None:
        """A notification, or the answer to what the gateway asked."""
        if isinstance(message, Notification) and message.method == "notifications/cancelled":
            cancelled = message.params.get("requestId")
            flight = self._in_flight.get(cancelled) if isinstance(cancelled, int | str) else None
            if flight is not None and flight.modern:
                flight.task.cancel()
                return
        with contextlib.suppress(ClientError, TimeoutError):  # nobody waits for an answer
            async with asyncio.timeout(LONGEST_PAUSE):
                response = await self._post(line, self._session_headers())
                await response.read(1 << 16)

    # Requests

    async def _answer(self, tasks: asyncio.TaskGroup, line: bytes, request: Request) -> None:
        """Carry one request, and write what comes of it."""
        try:
            await self._carry(tasks, line, request)
        except ClientError as error:
            await self._write(encode_error(request.id, INTERNAL_ERROR, str(error)))
        finally:
            flight = self._in_flight.get(request.id)
            if flight is not None and flight.task is asyncio.current_task():
                del self._in_flight[request.id]

    async def _carry(self, tasks: asyncio.TaskGroup, line: bytes, request: Request) -> None:
        version = _version_of(request)
        if version is None and request.method == "initialize":
            await self._initialize(tasks, line, request)
        elif version is None:
            await self._carry_in_session(tasks, line, request)
        else:
            await self._carry_alone(line, request, version)

    async def _initialize(self, tasks: asyncio.TaskGroup, line: bytes, request: Request) -> None:
        self._session_id, self._version, self._hello = None, None, line
        response = await self._post(line, [])
        self._session_id = response.headers.get("Mcp-Session-Id")
        async for answer in messages(response):
            reply = json_object(answer)
            result = reply.get("result")
            if isinstance(result, dict) and isinstance(result.get("protocolVersion"), str):
                self._version = result["protocolVersion"]
            await self._write(_for(request.id, answer, reply))
        self._listen(tasks)

    async def _carry_in_session(self, tasks: asyncio.TaskGroup, line: bytes, request: Request) -> None:
        for last in (False, True):
            session_id = self._session_id
            response = await self._post(line, self._session_headers())
            if response.status == 404 and session_id is not None and not last:
                await response.read(1 << 16)
                await self._reopen(tasks, session_id)
                continue
            await self._relay_resuming(request, response)
            return

    async def _relay_resuming(self, request: Request, response: Response) -> None:
        """As ``_relay``; an answer that broke off is taken up where it was (MCP 2025-11-25, basic/transports)."""
        stream = EventParser()
        attempts = 0
        while True:
            broken = ClientError("the gateway ended its answer without a reply; try again")
            try:
                if await self._relay(request, response, stream, must_end=False):
                    return
            except ClientError as error:
                broken = error
            last_id = stream.last_id
            if last_id is None or attempts == MAX_RESUMPTIONS:
                raise broken
            attempts += 1
            await asyncio.sleep(FIRST_PAUSE if stream.retry is None else stream.retry)
            response = await self._resume(last_id)
            if response.status != 200:
                await response.read(1 << 16)
                raise broken
            stream = EventParser(last_id=last_id)

    async def _resume(self, last_id: str | None) -> Response:
        """A GET stream, from after that event on."""
        headers = [_EVENTS, *self._session_headers()]
        if last_id is not None:
            headers.append(("Last-Event-ID", last_id))
        return await self._gateway.send("GET", self._endpoint, headers)

    async def _carry_alone(self, line: bytes, request: Request, version: str) -> None:
        """In the era without sessions."""
        headers = request_headers(version, request.method, request.params)
        if request.method == LISTEN:
            await self._carry_subscription(line, request, headers)
            return
        response = await self._post(line, headers + self._argument_headers(request))
        if request.method == "tools/call" and response.status == 400:
            refusal = [answer async for answer in messages(response)]
            if any(_code(answer) == HEADER_MISMATCH for answer in refusal):
                await self._learn_tools(request, version)
                response = await self._post(line, headers + self._argument_headers(request))
            else:
                for answer in refusal:
                    await self._write(_for(request.id, answer, json_object(answer)))
                return
        await self._relay(request, response)

    async def _carry_subscription(self, line: bytes, request: Request, headers: Headers) -> None:
        """Open it again as often as it breaks off."""
        pause = FIRST_PAUSE
        while True:
            try:
                if await self._relay(request, await self._post(line, headers), must_end=False):
                    return
                pause = FIRST_PAUSE
            except ClientError:
                pause = min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _relay(
        self,
        request: Request,
        response: Response,
        stream: EventParser | None = None,
        *,
        must_end: bool = True,
    ) -> bool:
        """Write the answer's messages; whether the reply was among them. Raises ClientError.

        ``must_end``: an answer that ends without a reply is an error.
        """
        try:
            async for answer in messages(response, stream):
                message = json_object(answer)
                await self._write(_for(request.id, answer, message))
                if "method" not in message:
                    if request.method == "tools/list":
                        self._note_tools(message)
                    response.drain()
                    return True
        except asyncio.CancelledError:
            response.close()
            raise
        if must_end:
            raise ClientError("the gateway ended its answer without a reply; try again")
        return False

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

    async def _reopen(self, tasks: asyncio.TaskGroup, gone: str) -> None:
        """A new session in the place of one that the gateway has forgotten, once. Raises ClientError."""
        async with self._reopening:
            if self._session_id != gone or self._hello is None:
                return
            self._session_id = None
            hello = json_object(self._hello) | {"id": _OWN_ID}
            response = await self._post(encode(hello), [])
            await response.read(1 << 20)
            self._session_id = response.headers.get("Mcp-Session-Id")
            over = await self._post(_INITIALIZED, self._session_headers())
            await over.read(1 << 16)
        self._listen(tasks)

    def _listen(self, tasks: asyncio.TaskGroup) -> None:
        """Keep one GET stream open for what belongs to no request."""
        if self._session_id is not None and (self._listener is None or self._listener.done()):
            self._listener = tasks.create_task(self._keep_listening(tasks))

    async def _keep_listening(self, tasks: asyncio.TaskGroup) -> None:
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
                    async for message in messages(response, stream):
                        heard = True
                        await self._write(message)
                else:
                    await response.read(1 << 16)
                    if response.status == 405:
                        return
                    if response.status == 404:
                        await self._reopen(tasks, session_id)
            pause = FIRST_PAUSE if heard else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _say_goodbye(self) -> None:
        if self._session_id is None:
            return
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                response = await self._gateway.send("DELETE", self._endpoint, self._session_headers())
                await response.read(1 << 16)

    # The arguments that headers repeat

    def _argument_headers(self, request: Request) -> Headers:
        mirrored = self._mirrored.get(str(request.params.get("name")), ())
        return argument_headers(mirrored, request.params.get("arguments"))

    def _note_tools(self, reply: dict[str, Any]) -> None:
        result = reply.get("result")
        for tool in result.get("tools", []) if isinstance(result, dict) else []:
            if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                with contextlib.suppress(ValueError):  # such a tool cannot be called with headers anyway
                    self._mirrored[tool["name"]] = mirrored_in(tool.get("inputSchema"))

    async def _learn_tools(self, request: Request, version: str) -> None:
        """Ask for the tools, as the request's sender would. Raises ClientError."""
        params: Params = {"_meta": request.params.get("_meta")}
        headers = request_headers(version, "tools/list", params)
        async for answer in messages(
            await self._post(encode_request(_OWN_ID, "tools/list", params), headers)
        ):
            self._note_tools(json_object(answer))


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


def _code(answer: bytes) -> object:
    error = json_object(answer).get("error")
    return error.get("code") if isinstance(error, dict) else None


def _for(request_id: RequestId, answer: bytes, message: dict[str, Any]) -> bytes:
    """A refusal that does not know its request gets that one's id."""
    if "method" not in message and message.get("id") is None:
        return encode(message | {"id": request_id})
    return answer
