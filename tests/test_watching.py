"""Few subscriptions for many resources, over HTTP at a server that grants, refuses and breaks off what it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from gateway.config.values import HttpUpstream
from gateway.mcp import upstream_http, watching
from gateway.mcp.credentials import UpstreamClient
from gateway.mcp.messages import Notification, Request
from gateway.mcp.upstream import MODERN_GATEWAY, SessionKey
from gateway.mcp.upstream_http import HttpUpstreamServer
from tests.modern import META, VERSION

UPDATED = "notifications/resources/updated"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class Server:
    """A modern server with subscriptions alone."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[list[str]] = []
        """What each subscription was to tell of."""
        self.asked_at: list[float] = []
        self.open: dict[int, tuple[list[str], web.StreamResponse]] = {}
        self.most_open = 0
        self.error: Callable[[list[str]], int | None] = lambda _uris: None
        self.status = 200
        """Of an error."""
        self.grants = asyncio.Event()
        self.grants.set()

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        message = await http.json()
        if message["method"] == "server/discover":
            result = {"supportedVersions": [VERSION], "capabilities": {}, "resultType": "complete"}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})
        uris = message["params"]["notifications"].get("resourceSubscriptions", ["lists"])
        number = len(self.asked)
        self.asked.append(uris)
        self.asked_at.append(asyncio.get_running_loop().time())
        code = self.error(uris)
        if code is not None:
            error = {"code": code, "message": "no"}
            return web.json_response(
                {"jsonrpc": "2.0", "id": message["id"], "error": error}, status=self.status
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        await self.grants.wait()
        await self.write(response, ACKNOWLEDGED, {"notifications": {"resourceSubscriptions": uris}})
        self.open[number] = (uris, response)
        self.most_open = max(self.most_open, len(self.open))
        try:
            await asyncio.Event().wait()
        finally:
            self.open.pop(number, None)
        return response

    async def write(self, response: web.StreamResponse, method: str, params: dict[str, Any]) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": {**params, "_meta": {f"{META}x": 1}}}
        await response.write(f"data: {json.dumps(message)}\n\n".encode())

    async def touch(self, uri: str) -> None:
        for uris, response in tuple(self.open.values()):
            if uri in uris:
                await self.write(response, UPDATED, {"uri": uri})

    def pauses(self) -> list[float]:
        """From each time that it was asked to the next, and a moment more: no clock is exact."""
        return [later - earlier + 0.001 for earlier, later in pairwise(self.asked_at)]

    def break_off(self) -> None:
        for _uris, response in self.open.values():
            transport = response._req.transport if response._req is not None else None
            assert transport is not None
            transport.abort()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    fake = Server()
    runner = web.ServerRunner(web.Server(fake.handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    yield fake
    await runner.cleanup()


Heard = asyncio.Queue[str]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def upstream(
    server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[HttpUpstreamServer]:
    monkeypatch.setattr(watching, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(watching, "QUIET_SECONDS", 0.02)

    def unsolicited(_key: SessionKey, message: Notification | Request) -> None:
        if message.method == UPDATED:
            heard.put_nowait(message.params["uri"])

    settings = HttpUpstream("files", server.url, timeout=10.0)
    client = UpstreamClient(settings, lambda _typ, _claims: "", issuer="https://g.test", now=lambda: 0.0)
    made = HttpUpstreamServer(settings, client, unsolicited)
    yield made
    await made.close()


async def watch(upstream: HttpUpstreamServer, *uris: str) -> None:
    for uri in uris:
        upstream.watch(uri)
    return await upstream.watched(uris)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - the server is asked for what it sees
            await asyncio.sleep(0.01)


async def test_many_resources_are_one_subscription(server: Server, upstream: HttpUpstreamServer) -> None:
    uris = [f"d://{number:03}" for number in range(200)]
    await watch(upstream, *uris)
    assert server.asked == [uris]
    await asyncio.gather(*(watch(upstream, f"d://{number:03}") for number in range(200, 250)))
    assert len(server.asked) == 2
    await until(lambda: len(server.open) == 1)
    for uri in uris:
        upstream.unwatch(uri)
    await until(lambda: [len(open_[0]) for open_ in server.open.values()] == [50])
    for number in range(200, 250):
        upstream.unwatch(f"d://{number:03}")
    await until(lambda: not server.open)


async def test_so_many_that_a_server_takes_them(server: Server, upstream: HttpUpstreamServer) -> None:
    await watch(upstream, *(f"d://{number}" for number in range(600)))
    assert sorted(len(uris) for uris in server.asked) == [88, 256, 256]
    assert server.most_open == 3


async def test_nothing_is_missed_while_another_is_opened(
    server: Server, upstream: HttpUpstreamServer, heard: Heard
) -> None:
    await watch(upstream, "d://a")
    server.grants.clear()
    upstream.watch("d://b")
    await until(lambda: len(server.asked) == 2)
    await server.touch("d://a")
    assert await heard.get() == "d://a"
    server.grants.set()
    await upstream.watched(["d://b"])
    await until(lambda: len(server.open) == 1)
    await server.touch("d://a")
    await server.touch("d://b")
    assert [await heard.get(), await heard.get()] == ["d://a", "d://b"]


async def test_what_may_have_been_missed_is_said_to_have_changed(
    server: Server, upstream: HttpUpstreamServer, heard: Heard
) -> None:
    await watch(upstream, "d://a", "d://b")
    server.break_off()
    async with asyncio.timeout(10):
        assert {await heard.get(), await heard.get()} == {"d://a", "d://b"}
    assert server.asked == [["d://a", "d://b"]] * 2


async def test_one_that_is_refused_costs_the_others_nothing(
    server: Server, upstream: HttpUpstreamServer, heard: Heard
) -> None:
    await watch(upstream, "d://first")
    server.error = lambda uris: -32602 if "d://bad" in uris else None
    uris = [f"d://{number:02}" for number in range(20)]
    assert await watch(upstream, *uris[:10], "d://bad", *uris[10:]) == {"d://bad"}
    await until(lambda: [len(open_[0]) for open_ in server.open.values()] == [21])
    for uri in ("d://first", uris[0], uris[19]):
        await server.touch(uri)
        assert await heard.get() == uri


async def test_one_that_is_refused_costs_the_others_nothing_while_another_is_left(
    server: Server, upstream: HttpUpstreamServer
) -> None:
    await watch(upstream, "d://first", "d://left")
    server.error = lambda uris: -32602 if "d://bad" in uris else None
    upstream.unwatch("d://left")
    assert await watch(upstream, "d://bad", "d://good") == {"d://bad"}
    await until(lambda: [open_[0] for open_ in server.open.values()] == [["d://first", "d://good"]])


async def test_a_server_without_subscriptions_is_left_alone_for_longest_at_once(
    server: Server, upstream: HttpUpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LONGEST_REFUSAL", 0.3)
    server.error = lambda _uris: -32601
    assert len(await watch(upstream, "d://a", "d://b", "d://c")) == 3
    await until(lambda: len(server.asked) >= 2)
    assert server.asked[0] == ["d://a", "d://b", "d://c"], "and is not asked for less than all of them"
    assert server.pauses()[0] >= 0.3


async def test_what_was_refused_is_asked_for_again(
    server: Server, upstream: HttpUpstreamServer, heard: Heard
) -> None:
    server.error = lambda _uris: -32603
    assert await watch(upstream, "d://a", "d://b") == {"d://a", "d://b"}
    server.error = lambda _uris: None
    await until(lambda: [len(open_[0]) for open_ in server.open.values()] == [2])
    await server.touch("d://b")
    assert await heard.get() == "d://b"


async def test_what_goes_on_being_refused_is_asked_for_ever_more_rarely(
    server: Server, upstream: HttpUpstreamServer
) -> None:
    server.error = lambda _uris: -32602
    await watch(upstream, "d://bad")
    await until(lambda: len(server.asked) >= 5)
    for number, pause in enumerate(server.pauses()):
        assert pause >= 0.02 * 2**number


async def test_a_server_that_is_not_ready_has_refused_nothing(
    server: Server, upstream: HttpUpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 0.2)
    server.error, server.status = lambda _uris: -32603, 503
    assert await watch(upstream, "d://a") == frozenset()
    server.error = lambda _uris: None
    await until(lambda: len(server.open) == 1)


async def test_news_of_lists_are_asked_for_again(
    server: Server, upstream: HttpUpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_http, "FIRST_PAUSE", 0.02)
    server.error = lambda _uris: -32603
    upstream.listen(MODERN_GATEWAY)
    await until(lambda: len(server.asked) >= 2)
    server.error = lambda _uris: -32601
    asked = len(server.asked)
    await until(upstream._listeners[MODERN_GATEWAY].done)
    assert len(server.asked) == asked + 1, "there it has no such method"
    server.error = lambda _uris: None
    upstream.listen(MODERN_GATEWAY)
    await until(lambda: len(server.open) == 1)
