"""The MCP server behind every target: streamable HTTP (MCP 2025-11-25, "Transports"), as fast as Python is.

It does what any MCP server does (initialize with a session id, notifications, ping, tools/list, tools/call), answers in
JSON, and serves requests without a session too, so that a plain proxy can be measured with the same request. With
``--modern`` it speaks 2026-07-28 alone. It has two tools: ``echo``, and ``wait``, which says that it has begun, and never answers.
``GET /stats`` says how many sessions were opened and are open, how many calls of ``echo`` were answered, and how many of
``wait`` are waiting, were cancelled by a notification, and were left by their caller.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import uuid
from typing import Any, Final, cast

import httptools
import msgspec
import uvloop

PATH: Final = "/mcp"
READY: Final = "upstream listening on port "
VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26")

ECHO: Final = {
    "name": "echo",
    "description": "Answers with the text that it was given.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
WAIT: Final = {
    "name": "wait",
    "description": "Never answers: it waits to be cancelled.",
    "inputSchema": {"type": "object"},
}
MODERN: Final = "2026-07-28"
BEGUN: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
"""The head of an answer that does not end."""


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What of ``_meta`` it reads."""

    progress_token: int | str = 0


class Params(msgspec.Struct, frozen=True, rename="camel"):
    """The members of ``params`` that this server reads, of whichever method."""

    name: str = ""
    arguments: dict[str, Any] = {}
    protocol_version: str = ""
    meta: Meta = msgspec.field(name="_meta", default=Meta())


class Message(msgspec.Struct, frozen=True):
    """A JSON-RPC 2.0 request or notification; a notification has no ``id``."""

    method: str = ""
    id: int | str | None = None
    params: Params = Params()


decode: Final = msgspec.json.Decoder(Message).decode
encode: Final = msgspec.json.Encoder().encode


class Server:
    """What the connections share: the open sessions and some counters."""

    def __init__(self, *, modern: bool = False) -> None:
        self.sessions: set[bytes] = set()
        self.opened = 0
        self.calls = 0
        self.waiting = 0
        self.cancelled = 0
        self.left = 0
        self._modern = modern

    def respond(self, method: bytes, path: bytes, session: bytes | None, body: bytes) -> bytes:
        """The HTTP response to one request: the whole of it, unless it is BEGUN."""
        if path == b"/mcp" and method == b"POST":
            if session is not None and session not in self.sessions:
                return _response(b"404 Not Found")
            return self._message(body)
        if path == b"/mcp" and method == b"DELETE":
            self.sessions.discard(session or b"")
            return _response(b"204 No Content")
        if path == b"/mcp":
            return _response(b"405 Method Not Allowed")
        if path == b"/stats" and method == b"GET":
            return _response(b"200 OK", encode(self._stats()))
        return _response(b"404 Not Found")

    def _stats(self) -> dict[str, int]:
        return {
            "sessions": self.opened,
            "open": len(self.sessions),
            "calls": self.calls,
            "waiting": self.waiting,
            "cancelled": self.cancelled,
            "left": self.left,
        }

    def _message(self, body: bytes) -> bytes:
        try:
            message = decode(body)
        except msgspec.MsgspecError:
            return _response(b"400 Bad Request", _error(None, -32700, "This is not a JSON-RPC message."))
        if message.id is None:
            self.cancelled += message.method == "notifications/cancelled"
            return _response(b"202 Accepted")
        if message.method == "tools/call":
            return self._call(message.id, message.params)
        if message.method == "initialize" and not self._modern:
            return self._initialize(message.id, message.params)
        if message.method == "server/discover" and self._modern:
            said = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, **self._type()}
            return _response(b"200 OK", _result(message.id, said))
        if message.method == "tools/list":
            return _response(b"200 OK", _result(message.id, {"tools": [ECHO, WAIT], **self._type()}))
        if message.method == "ping":
            return _response(b"200 OK", _result(message.id, {}))
        return _response(b"200 OK", _error(message.id, -32601, "Method not found"))

    def _type(self) -> dict[str, Any]:
        """What results of lists have beside it in the modern era."""
        return {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if self._modern else {}

    def _call(self, request_id: int | str, params: Params) -> bytes:
        if params.name == WAIT["name"]:
            begun = {"progressToken": params.meta.progress_token, "progress": 0}
            event = b"data: %b\n\n" % encode(
                {"jsonrpc": "2.0", "method": "notifications/progress", "params": begun}
            )
            return BEGUN + b"%x\r\n%b\r\n" % (len(event), event)
        text = params.arguments.get("text")
        if params.name != ECHO["name"] or not isinstance(text, str):
            return _response(b"200 OK", _error(request_id, -32602, f"Unknown tool: {params.name}"))
        self.calls += 1
        return _response(
            b"200 OK",
            b'{"jsonrpc":"2.0","id":%b,"result":{%b"content":[{"type":"text","text":%b}],"isError":false}}'
            % (encode(request_id), b'"resultType":"complete",' if self._modern else b"", encode(text)),
        )

    def _initialize(self, request_id: int | str, params: Params) -> bytes:
        session = uuid.uuid4().hex.encode()
        self.sessions.add(session)
        self.opened += 1
        version = params.protocol_version
        result = {
            "protocolVersion": version if version in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "bench", "version": "1"},
        }
        return _response(b"200 OK", _result(request_id, result), b"Mcp-Session-Id: %b\r\n" % session)


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection (also the callbacks of its parser)."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._session: bytes | None = None
        self._body = b""
        self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._waits:
            self._server.waiting -= 1
            self._server.left += 1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path, self._session, self._body = url, None, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 14 and name.lower() == b"mcp-session-id":
            self._session = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        response = self._server.respond(method, self._path, self._session, self._body)
        self._transport.write(response)
        if response.startswith(BEGUN):
            self._waits = True
            self._server.waiting += 1
            return
        if not self._parser.should_keep_alive():
            self._transport.close()


def _response(status: bytes, body: bytes = b"", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        headers,
        len(body),
        body,
    )


def _result(request_id: int | str, result: dict[str, Any]) -> bytes:
    return encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def _error(request_id: int | str | None, code: int, text: str) -> bytes:
    return encode({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})


async def serve(port: int, *, modern: bool) -> None:
    """Serve on loopback until SIGTERM; prints its port once it listens."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    state = Server(modern=modern)
    listener = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=1024)
    print(f"{READY}{listener.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    listener.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="The MCP server behind every target of the bench.")
    arguments.add_argument("--port", type=int, default=0, help="0 takes a free one")
    arguments.add_argument("--modern", action="store_true", help="speak 2026-07-28 alone")
    options = arguments.parse_args()
    uvloop.run(serve(options.port, modern=options.modern))
