"""What a client may meet in a gateway's place: ``odd_gateway.py CERTIFICATE KEY``, over TLS.

It opens sessions as it should. What a call, a notification or a command then gets is named by the tool, by ``case`` or by
whoever asks: an answer that breaks off, that is none, or that is another's. The session's GET stream goes wrong in three ways,
one after the other.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from aiohttp import web

INVALID_UTF8 = b'{"jsonrpc": "2.0", "id": %d, "result": {"text": "\xff"}}'
BODIES: dict[str, bytes] = {
    "no json": b"{{{",
    "html": b"<h1>It works!</h1>",
    "a list": b"[]",
    "no version": b'{"id": %d, "result": {}}',
    "another's": b'{"jsonrpc": "2.0", "id": 9999, "result": {}}',
    "as text": b'{"jsonrpc": "2.0", "id": "%d", "result": {}}',
    "no object": b'{"jsonrpc": "2.0", "id": %d, "result": 5}',
    "both": b'{"jsonrpc": "2.0", "id": %d, "result": {}, "error": {"code": 1, "message": "no"}}',
    "neither": b'{"jsonrpc": "2.0", "id": %d}',
    "odd error": b'{"jsonrpc": "2.0", "id": %d, "error": "no"}',
    "no utf-8": INVALID_UTF8,
    "deep": b'{"jsonrpc": "2.0", "id": %d, "result": {"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
}
"""Each with the status 200; ``%d`` is the request's id."""
GOOD = b'{"jsonrpc": "2.0", "id": %d, "result": {"content": []}}'
TOLD = b'{"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "%b"}}'
RUBBISH = (b"no json", BODIES["another's"], b'{"method": 5}', b'{"jsonrpc": "2.0", "result": {}}', b"\xff")
TOKENS: dict[str, dict[str, Any]] = {
    "no token": {"expires_in": 60},
    "a broken token": {"access_token": "a\r\nb", "expires_in": 60},
    "a token for ever": {"access_token": "abc", "expires_in": 1e300},
}


class Gateway:
    """What it has been asked so far."""

    def __init__(self) -> None:
        self.session = 0
        self.streams = 0
        self.breaks_next_session = False

    async def mcp(self, request: web.Request) -> web.StreamResponse:
        session = request.headers.get("Mcp-Session-Id")
        if request.method == "GET":
            return await self.stream(request)
        if request.method == "DELETE":
            return await cut(request, 200)
        message = await request.json()
        if message.get("method") == "initialize":
            return await self.initialize(request, message)
        if "id" not in message:
            return await notified(request, message["params"]["case"] if "params" in message else "")
        if session is not None and session != str(self.session):
            return await cut(request, 404)
        if message["method"] == "tools/call":
            return await self.call(request, message, message["params"]["name"])
        if message["method"] == "tools/list":
            reply = {"jsonrpc": "2.0", "id": message["id"], "result": {"tools": 5}}
            return _json(json.dumps(reply).encode())
        if message["method"] == "subscriptions/listen":
            return web.Response(status=202)
        return _json(GOOD % message["id"])

    async def initialize(self, request: web.Request, message: Any) -> web.StreamResponse:
        if self.breaks_next_session:
            self.breaks_next_session = False
            return await cut(request, 200)
        self.session += 1
        server = {"name": "odd", "version": "1"}
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": server}
        reply = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return _json(json.dumps(reply).encode(), headers={"Mcp-Session-Id": str(self.session)})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.streams += 1
        if self.streams == 1:
            return await cut(request, 500)
        if self.streams == 2:
            return web.Response(status=500, body=b"x" * 200_000)
        return await events(request, *RUBBISH, TOLD % b"stream")

    async def call(self, request: web.Request, message: Any, name: str) -> web.StreamResponse:
        number = message["id"]
        if name in BODIES:
            return _json(BODIES[name].replace(b"%d", b"%d" % number))
        if name.startswith("forgotten"):
            self.session += 1
            self.breaks_next_session = name != "forgotten"
            return web.Response(status=404)
        return await called(request, number, name)


async def called(request: web.Request, number: int, name: str) -> web.StreamResponse:
    match name:
        case "gone":
            _transport(request).abort()
        case "cut":
            return await cut(request, 200)
        case "empty":
            return web.Response(status=202)
        case "large refusal":
            return web.Response(status=502, body=b"x" * 200_000)
        case "unnamed refusal":
            return _json(b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "no"}}')
        case "stream":
            return await events(request, *RUBBISH, TOLD % b"call", GOOD % number, GOOD % number)
        case "stream without reply":
            return await events(request, *RUBBISH)
        case "mismatch":
            refusal = b'{"jsonrpc": "2.0", "id": %d, "error": {"code": -32020, "message": "no"}}'
            return _json(refusal % number, status=400)
        case "empty refusal":
            return web.Response(status=400)
    return _json(GOOD % number)


async def notified(request: web.Request, case: str) -> web.StreamResponse:
    match case:
        case "cut":
            return await cut(request, 202)
        case "large":
            return web.Response(status=500, body=b"x" * 200_000)
        case "gone":
            _transport(request).abort()
    return web.Response(status=202)


async def me(request: web.Request) -> web.StreamResponse:
    case = request.headers["Authorization"].removeprefix("Bearer ")
    if case == "cut":
        return await cut(request, 200)
    if case == "lines":
        return _json(json.dumps({"detail": "one\ntwo\x1b[2J"}).encode(), status=403)
    return _json(BODIES.get(case, b"{}"))


async def login(request: web.Request) -> web.Response:
    return _json(json.dumps(TOKENS[(await request.json())["username"]]).encode())


async def events(request: web.Request, *data: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for each in data:
        await response.write(b"data: %b\n\n" % each)
    return response


async def cut(request: web.Request, status: int) -> web.StreamResponse:
    """A body that ends before it should."""
    headers = {"Content-Type": "application/json", "Content-Length": "500", "Mcp-Session-Id": "cut"}
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    await response.write(b'{"jsonrpc"')
    _transport(request).close()
    return response


def _json(body: bytes, **options: Any) -> web.Response:
    return web.Response(body=body, content_type="application/json", **options)


def _transport(request: web.Request) -> asyncio.Transport:
    assert isinstance(request.transport, asyncio.Transport)
    return request.transport


async def main(certificate: str, key: str) -> None:
    app = web.Application()
    app.router.add_route("*", "/mcp", Gateway().mcp)
    app.router.add_get("/auth/me", me)
    app.router.add_post("/auth/login", login)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    print(f"listening on https://localhost:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
