"""The MCP server behind every target: streamable HTTP (MCP 2025-11-25, "Transports"), one tool, ``echo``, as fast as Python is.

It does what any MCP server does (initialize with a session id, notifications, ping, tools/list, tools/call), answers in
JSON, and serves requests without a session too, so that a plain proxy can be measured with the same request.
``GET /stats`` says how many sessions were opened and how many tool calls were answered.
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


class Params(msgspec.Struct, frozen=True, rename="camel"):
    """The members of ``params`` that this server reads, of whichever method."""

    name: str = ""
    arguments: dict[str, Any] = {}
    protocol_version: str = ""


class Message(msgspec.Struct, frozen=True):
    """A JSON-RPC 2.0 request or notification; a notification has no ``id``."""

    method: str = ""
    id: int | str | None = None
    params: Params = Params()


decode: Final = msgspec.json.Decoder(Message).decode
encode: Final = msgspec.json.Encoder().encode


class Server:
    """What the connections share: the open sessions and two counters."""

    def __init__(self) -> None:
        self.sessions: set[bytes] = set()
        self.opened = 0
        self.calls = 0

    def respond(self, method: bytes, path: bytes, session: bytes | None, body: bytes) -> bytes:
        """The whole HTTP response to one request."""
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
            return _response(b"200 OK", encode({"sessions": self.opened, "calls": self.calls}))
        return _response(b"404 Not Found")

    def _message(self, body: bytes) -> bytes:
        try:
            message = decode(body)
        except msgspec.MsgspecError:
            return _response(b"400 Bad Request", _error(None, -32700, "This is not a JSON-RPC message."))
        if message.id is None:
            return _response(b"202 Accepted")
        if message.method == "tools/call":
            return self._call(message.id, message.params)
        if message.method == "initialize":
            return self._initialize(message.id, message.params)
        if message.method == "tools/list":
            return _response(b"200 OK", _result(message.id, {"tools": [ECHO]}))
        if message.method == "ping":
            return _response(b"200 OK", _result(message.id, {}))
        return _response(b"200 OK", _error(message.id, -32601, "Method not found"))

    def _call(self, request_id: int | str, params: Params) -> bytes:
        text = params.arguments.get("text")
        if params.name != ECHO["name"] or not isinstance(text, str):
            return _response(b"200 OK", _error(request_id, -32602, f"Unknown tool: {params.name}"))
        self.calls += 1
        return _response(
            b"200 OK",
            b'{"jsonrpc":"2.0","id":%b,"result":{"content":[{"type":"text","text":%b}],"isError":false}}'
            % (encode(request_id), encode(text)),
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

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
        self._transport.write(self._server.respond(method, self._path, self._session, self._body))
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


async def serve(port: int) -> None:
    """Serve on loopback until SIGTERM; prints its port once it listens."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    state = Server()
    listener = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=1024)
    print(f"{READY}{listener.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    listener.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="The MCP server behind every target of the bench.")
    arguments.add_argument("--port", type=int, default=0, help="0 takes a free one")
    uvloop.run(serve(arguments.parse_args().port))
