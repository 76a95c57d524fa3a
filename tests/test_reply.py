"""JSON replies: on the wire they are what aiohttp would have sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from gateway.edge.reply import GatewayRequest, JsonReply

BODY = b'{"jsonrpc":"2.0","id":1,"result":{}}'

Ask = Callable[[bytes], Awaitable[tuple[str, dict[str, str], bytes, bool]]]
"""Sends a request; status line, fields, body, and whether the connection was then closed."""


@contextlib.asynccontextmanager
async def answering(reply: Callable[[], web.StreamResponse]) -> AsyncIterator[Ask]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        request.request_id = "req-1"
        return reply()

    loop = asyncio.get_running_loop()
    factory = lambda *parts: GatewayRequest(*parts, loop)  # noqa: E731
    server = web.Server(handle, request_factory=factory)
    listening = await loop.create_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]

    async def ask(request: bytes) -> tuple[str, dict[str, str], bytes, bool]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            start, *lines = head.rstrip("\r\n").split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines)
            assert len(fields) == len(lines)
            wanted = 0 if request.startswith(b"HEAD") else int(fields["Content-Length"])
            body = await reader.readexactly(wanted)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            more = await reader.read(1)
            return start, fields, body, not more
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    try:
        yield ask
    finally:
        listening.close()
        await listening.wait_closed()
        await server.shutdown(1)


def ordinary() -> web.Response:
    return web.Response(body=BODY, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST /mcp HTTP/1.1\r\nHost: a\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: a\r\nConnection: close\r\n",
        b"HEAD /mcp HTTP/1.1\r\nHost: a\r\n",
        b"POST /mcp HTTP/1.0\r\n",
        b"POST /mcp HTTP/1.0\r\nConnection: keep-alive\r\n",
    ],
)
async def test_it_is_what_aiohttp_would_send(request_head):
    found = []
    for reply in (ordinary, lambda: JsonReply(BODY)):
        async with answering(reply) as ask:
            start, fields, body, closed = await ask(request_head + b"\r\n")
            assert fields.pop("Date").endswith(" GMT")
            assert fields["X-Request-ID"] == "req-1"
            assert fields["X-Content-Type-Options"] == "nosniff"
            assert "Server" not in fields
            found.append((start, fields, body, closed))
    assert found[0] == found[1]


async def test_it_has_the_status_it_is_given():
    async with answering(lambda: JsonReply(BODY, 400)) as ask:
        assert (await ask(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == "HTTP/1.1 400 Bad Request"


async def test_fields_of_its_own_are_sent():
    def reply() -> web.Response:
        made = JsonReply(BODY)
        made.headers["Mcp-Session-Id"] = "s-1"
        return made

    async with answering(reply) as ask:
        _, fields, body, _ = await ask(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (fields["Mcp-Session-Id"], fields["Content-Type"]) == ("s-1", "application/json")
        assert body == BODY


async def test_one_that_ends_the_connection_says_so():
    def reply() -> web.Response:
        made = JsonReply(BODY)
        made.force_close()
        return made

    async with answering(reply) as ask:
        _, fields, _, closed = await ask(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (fields["Connection"], closed) == ("close", True)
