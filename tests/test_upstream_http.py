"""Upstreams over streamable HTTP: the official SDK's server, and servers that do everything wrong."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from aiohttp import web
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from gateway.config.values import HttpUpstream, Sessions
from gateway.mcp import http_session, http_sessions, log_levels, upstream_http
from gateway.mcp.breakers import SUSPICIOUS, Breakers
from gateway.mcp.credentials import UpstreamClient
from gateway.mcp.eras import Era
from gateway.mcp.messages import Message, Notification, Reply, Request
from gateway.mcp.upstream import (
    GATEWAY,
    CancelledByCaller,
    EraChangedError,
    Forgot,
    SessionKey,
    UpstreamError,
)
from gateway.mcp.upstream_http import HttpUpstreamServer
from gateway.model import Reason

ALICE = SessionKey(("t", "alice"))
BOB = SessionKey(("t", "bob"))
PING = {"jsonrpc": "2.0", "id": "p", "method": "ping"}

Handler = Callable[[dict[str, Any], web.BaseRequest], Awaitable[web.StreamResponse]]


def reply(message: dict[str, Any], result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def event(message: Any, *fields: str) -> bytes:
    lines = [*fields, f"data: {json.dumps(message) if message != '' else ''}"]
    return "\n".join([*lines, "", ""]).encode()


async def stream(http: web.BaseRequest, *events: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(http)
    for each in events:
        await response.write(each)
    return response


@dataclass
class Server:
    """An MCP server whose answer to each method can be replaced; it remembers what it was told."""

    url: str = ""
    keeps_sessions: bool = True
    sessions: set[str] = field(default_factory=set)
    opened: list[dict[str, Any]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    headers: list[dict[str, str]] = field(default_factory=list)
    calls: int = 0
    handlers: dict[str, Handler] = field(default_factory=dict)
    get: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        session = http.headers.get("Mcp-Session-Id")
        self.headers.append({name.lower(): value for name, value in http.headers.items()})
        if http.method == "GET":
            return await self.get(http) if self.get is not None else web.Response(status=405)
        if http.method == "DELETE":
            self.ended.append(session or "")
            await self.note({"method": "DELETE"})
            return web.Response(status=204)
        message = await http.json()
        method = message.get("method")
        if method == "initialize" and method not in self.handlers:
            return self.initialize(message)
        if self.keeps_sessions and method != "initialize" and session not in self.sessions:
            return web.Response(status=404, text="no such session")
        if "id" not in message or method is None:
            await self.note(message)
            return web.Response(status=202)
        if method == "tools/call":
            self.calls += 1
        handler = self.handlers.get(method)
        if handler is not None:
            return await handler(message, http)
        return web.json_response(reply(message, {"said": message.get("params")}))

    def initialize(self, message: dict[str, Any]) -> web.Response:
        self.opened.append(message["params"])
        result = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "fake", "version": "1"},
            "instructions": "be kind",
        }
        response = web.json_response(reply(message, result))
        if self.keeps_sessions:
            session = f"session-{len(self.opened)}"
            self.sessions.add(session)
            response.headers["Mcp-Session-Id"] = session
        return response

    async def note(self, message: dict[str, Any]) -> None:
        async with self.news:
            self.told.append(message)
            self.news.notify_all()

    async def hears(self, method: str) -> dict[str, Any]:
        """Wait until it is told that."""
        async with self.news:
            await self.news.wait_for(lambda: any(told.get("method") == method for told in self.told))
        return next(told for told in self.told if told.get("method") == method)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    fake = Server()
    runner = web.ServerRunner(web.Server(fake.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    yield fake
    await runner.cleanup()


Unsolicited = asyncio.Queue[tuple[SessionKey, Notification | Request]]


@asynccontextmanager
async def upstream_at(
    url: str,
    heard: Unsolicited | None = None,
    *,
    idle: float = 600.0,
    forgot: Forgot = lambda _key: None,
    **settings: Any,
) -> AsyncIterator[HttpUpstreamServer]:
    queue = heard if heard is not None else Unsolicited()
    upstream_settings = HttpUpstream("files", url, **{"timeout": 10.0, **settings})
    upstream = HttpUpstreamServer(
        upstream_settings,
        UpstreamClient(
            upstream_settings, lambda typ, claims: "", issuer="https://gateway.test", now=lambda: 0.0
        ),
        lambda key, message: queue.put_nowait((key, message)),
        forgot,
        idle_seconds=idle,
    )
    try:
        yield upstream
    finally:
        await upstream.close()


def loads(message: Reply) -> Any:
    return json.loads(bytes(message.result or message.error or b"null"))


async def ask(
    upstream: HttpUpstreamServer, key: SessionKey = ALICE, params: dict[str, Any] | None = None
) -> tuple[Any, list[Message]]:
    """The result of a call (or its error), and what came before it."""
    before: list[Message] = []
    async with upstream.request(key, "tools/call", params or {}) as exchange:
        while not isinstance(message := await exchange.receive(), Reply):
            before.append(message)
    return loads(message), before


async def failure(upstream: HttpUpstreamServer, key: SessionKey = ALICE) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await ask(upstream, key)
    assert "files" in caught.value.detail
    return caught.value


class TestSessions:
    async def test_that_the_server_forgot_one_is_told_but_not_that_it_was_ended(self, server: Server) -> None:
        forgotten: list[SessionKey | None] = []
        async with upstream_at(server.url, forgot=forgotten.append) as upstream:
            await ask(upstream)
            await ask(upstream, BOB)
            assert forgotten == []
            server.sessions.clear()
            await ask(upstream)
            assert forgotten == [ALICE]
            await upstream.end(BOB)
        assert forgotten == [ALICE]

    async def test_a_session_is_opened_once_and_named_ever_after(self, server: Server) -> None:
        key = SessionKey(("t", "alice"), b'{"elicitation":{}}')
        async with upstream_at(server.url) as upstream:
            await ask(upstream, key)
            await ask(upstream, key)
        assert server.opened == [
            {
                "protocolVersion": "2025-11-25",
                "capabilities": {"elicitation": {}},
                "clientInfo": {"name": "ostiary", "version": upstream_version()},
            }
        ]
        assert server.told[0] == {"jsonrpc": "2.0", "method": "notifications/initialized"}
        first, *later = server.headers
        assert first["accept"] == "application/json, text/event-stream"
        assert not {"mcp-session-id", "mcp-protocol-version"} & first.keys()
        assert len(later) == 4
        assert all(each["mcp-session-id"] == "session-1" for each in later)
        assert all(each["mcp-protocol-version"] == "2025-06-18" for each in later)

    async def test_a_thousand_calls_open_one_session(self, server: Server) -> None:
        async with upstream_at(server.url) as upstream:

            async def caller(number: int) -> None:
                for turn in range(20):
                    result, _ = await ask(upstream, ALICE, {"n": number, "turn": turn})
                    assert result == {"said": {"n": number, "turn": turn}}

            await asyncio.gather(*(caller(number) for number in range(50)))
        assert (len(server.opened), server.calls) == (1, 1000)

    async def test_each_key_has_its_own(self, server: Server) -> None:
        seen: dict[str, set[str]] = {}

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            seen.setdefault(message["params"]["who"], set()).add(http.headers["Mcp-Session-Id"])
            return web.json_response(reply(message, {}))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            keys = {"a": ALICE, "b": BOB, "c": SessionKey(("t", "alice"), b'{"roots":{}}')}
            await asyncio.gather(
                *(ask(upstream, key, {"who": who}) for who, key in keys.items() for _ in range(20))
            )
        assert len(server.opened) == 3
        assert all(len(sessions) == 1 for sessions in seen.values())
        assert len(set.union(*seen.values())) == 3

    async def test_shared_means_one_for_all(self, server: Server) -> None:
        async with upstream_at(server.url, sessions=Sessions.SHARED) as upstream:
            await asyncio.gather(ask(upstream, ALICE), ask(upstream, BOB), upstream.describe())
            await upstream.end(ALICE)
            await ask(upstream, BOB)
        assert len(server.opened) == 1
        assert server.opened[0]["capabilities"] == {}

    async def test_a_server_without_sessions_is_fine(self, server: Server) -> None:
        server.keeps_sessions = False
        async with upstream_at(server.url) as upstream:
            await ask(upstream)
            await ask(upstream)
        assert len(server.opened) == 1
        assert all("mcp-session-id" not in each for each in server.headers)
        assert server.ended == []

    async def test_describe_says_what_the_server_said(self, server: Server) -> None:
        async with upstream_at(server.url) as upstream:
            info = await upstream.describe()
        assert (info.protocol_version, info.capabilities, info.instructions) == (
            "2025-06-18",
            {"tools": {}},
            "be kind",
        )
        assert info.server_info == {"name": "fake", "version": "1"}

    async def test_one_that_was_forgotten_is_opened_again_once_for_all(self, server: Server) -> None:
        async with upstream_at(server.url) as upstream:
            await ask(upstream)
            server.sessions.clear()
            results = await asyncio.gather(*(ask(upstream, ALICE, {"n": n}) for n in range(30)))
        assert [result for result, _ in results] == [{"said": {"n": n}} for n in range(30)]
        assert len(server.opened) == 2
        assert server.calls == 31

    async def test_some_servers_say_400_instead_of_404(self, server: Server) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            if http.headers["Mcp-Session-Id"] == "session-1":
                error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
                return web.json_response({"jsonrpc": "2.0", "error": error, "id": None}, status=400)
            return web.json_response(reply(message, {}))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert await ask(upstream) == ({}, [])
        assert len(server.opened) == 2

    async def test_an_answer_that_speaks_of_a_session_is_the_answer(self, server: Server) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            error = {"code": -32602, "message": "session_name must be given"}
            return web.json_response({"jsonrpc": "2.0", "error": error, "id": message["id"]}, status=400)

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert (await ask(upstream))[0]["message"] == "session_name must be given"
            assert server.ended == []
        assert (server.calls, len(server.opened)) == (1, 1)

    async def test_one_that_is_forgotten_at_once_is_an_error(self, server: Server) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=404)

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_UNAVAILABLE
        assert server.calls == 2

    async def test_end_ends_that_one_alone(self, server: Server) -> None:
        async with upstream_at(server.url) as upstream:
            await ask(upstream, ALICE)
            await ask(upstream, BOB)
            await upstream.end(ALICE)
            assert server.ended == ["session-1"]
            await upstream.end(ALICE)
            await ask(upstream, BOB)
            assert len(server.opened) == 2
            await ask(upstream, ALICE)
            assert len(server.opened) == 3
        assert sorted(server.ended) == ["session-1", "session-2", "session-3"]

    async def test_idle_ones_are_ended(self, server: Server) -> None:
        async with upstream_at(server.url, idle=0.05) as upstream:
            await ask(upstream)
            await server.hears("DELETE")
            await ask(upstream)
        assert len(server.opened) == 2

    async def test_one_client_has_not_too_many(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_sessions, "MAX_SESSIONS_OF_ONE", 2)
        names = ("elicitation", "roots", "sampling", "tasks")
        keys = [SessionKey(BOB.owner, b'{"%b":{}}' % name.encode()) for name in names]
        async with upstream_at(server.url) as upstream:
            await ask(upstream, ALICE)
            for key in keys[:3]:
                await ask(upstream, key)
            await server.hears("DELETE")
            assert server.ended == ["session-2"]  # his own, and not hers that is older
            async with (
                upstream.request(keys[1], "tools/call", {}),
                upstream.request(keys[2], "tools/call", {}),
            ):
                error = await failure(upstream, keys[3])
                assert error.reason is Reason.UPSTREAM_UNAVAILABLE
                assert "too many sessions" in error.detail
            await ask(upstream, keys[3])
        assert len(server.opened) == 5

    async def test_all_clients_together_have_not_too_many(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_sessions, "MAX_SESSIONS", 2)
        carol = SessionKey(("t", "carol"))
        async with upstream_at(server.url) as upstream:
            await ask(upstream, ALICE)
            await ask(upstream, BOB)
            assert "too many sessions" in (await failure(upstream, carol)).detail
            assert server.ended == []
            await upstream.describe()  # the gateway itself always has room
            monkeypatch.setattr(http_sessions, "RECENT_SECONDS", 0.0)
            await ask(upstream, carol)  # in the place of the one that has been idle longest
            await server.hears("DELETE")
            assert server.ended == ["session-1"]

    async def test_opening_survives_the_caller_who_began_it(self, server: Server) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def initialize(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            begun.set()
            await go_on.wait()
            return server.initialize(message)

        server.handlers["initialize"] = initialize
        async with upstream_at(server.url) as upstream:
            first = asyncio.create_task(ask(upstream))
            await begun.wait()
            second = asyncio.create_task(ask(upstream))
            await asyncio.sleep(0)
            first.cancel()
            go_on.set()
            await second
            with pytest.raises(asyncio.CancelledError):
                await first
        assert len(server.opened) == 1

    async def test_after_closing_there_are_none(self, server: Server) -> None:
        async with upstream_at(server.url) as upstream:
            await ask(upstream)
        assert (await failure(upstream)).reason is Reason.UPSTREAM_UNAVAILABLE
        await upstream.notify(ALICE, "notifications/x", {})

    async def test_closing_waits_for_no_server_that_hangs(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.mcp.http_sessions.CLOSE_SECONDS", 0.05)

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return web.json_response(reply(message, {}))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            await ask(upstream)
            await server.news.acquire()  # so that DELETE hangs
        server.news.release()


async def test_a_level_for_which_there_was_no_place_is_asked_for_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_levels, "LEVEL_SECONDS", 0.01)
    asked: list[str] = []
    finish = asyncio.Event()

    async def set_level(message: dict[str, Any], _http: web.BaseRequest) -> web.StreamResponse:
        asked.append(message["params"]["level"])
        return web.json_response(reply(message, {}))

    async def call(message: dict[str, Any], _http: web.BaseRequest) -> web.StreamResponse:
        await finish.wait()
        return web.json_response(reply(message, {}))

    server.handlers |= {"logging/setLevel": set_level, "tools/call": call}
    async with upstream_at(server.url, max_concurrency=1) as upstream:
        calling = asyncio.create_task(ask(upstream))
        while not server.calls:  # noqa: ASYNC110 - it is asked for what it sees
            await asyncio.sleep(0.01)
        await upstream.set_level(ALICE, "info")
        finish.set()
        await calling
        await upstream.set_level(ALICE, "info")
        assert asked == [], "not at once: it may have had it, and not answer"
        monkeypatch.setattr(log_levels, "LEVEL_SECONDS", 10.0)
        (await upstream._sessions.session(ALICE)).log_level.again_at = 0.0
        await upstream.set_level(ALICE, "warning")
        assert asked == ["info"], "what is lower counts"
        await upstream.set_level(ALICE, "info")
        assert asked == ["info"], "it has taken it"


class TestAnotherEra:
    """What was learnt of the server's era is forgotten when it proves to be wrong."""

    async def discover(self, message: dict[str, Any], _http: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(reply(message, {"supportedVersions": ["2026-07-28"], "capabilities": {}}))

    async def refuse(self, _message: dict[str, Any], _http: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=400, text="unknown revision")

    @pytest.fixture
    def became_modern(self, server: Server) -> Callable[[], None]:
        def become() -> None:
            server.keeps_sessions = False
            server.handlers |= {"server/discover": self.discover, "initialize": self.refuse}
            server.handlers["tools/call"] = self.refuse

        return become

    @pytest.mark.parametrize("key", [ALICE, BOB])
    async def test_a_legacy_server_that_became_modern_is_asked_as_such(
        self, key: SessionKey, server: Server, became_modern: Callable[[], None]
    ) -> None:
        forgotten: list[SessionKey | None] = []
        async with upstream_at(server.url, forgot=forgotten.append) as upstream:
            assert await upstream.era_for(ALICE) is Era.LEGACY
            await ask(upstream)
            became_modern()
            with pytest.raises(EraChangedError):
                await ask(upstream, key)
            assert forgotten == [None]
            assert await upstream.era_for(key) is Era.MODERN
            assert (await upstream.describe()).era is Era.MODERN

    async def test_one_that_changed_its_era_answers(
        self, server: Server, became_modern: Callable[[], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        async with upstream_at(server.url) as upstream:
            await upstream.describe()
            became_modern()
            server.handlers["ping"] = self.refuse
            breakers = Breakers([upstream], lambda _name: None)
            for _ in range(SUSPICIOUS):
                breakers["files"].failed(Reason.UPSTREAM_UNAVAILABLE)
            async with asyncio.timeout(10):
                await breakers._errands.finish()
        assert caplog.messages == ["upstream files speaks another revision of MCP than before"]

    async def test_a_modern_server_that_sends_requests_is_complained_of_once(
        self, server: Server, became_modern: Callable[[], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return await stream(http, event(PING) * 900, event(reply(message, {})))

        became_modern()
        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            await upstream.describe()
            assert await ask(upstream, SessionKey(ALICE.owner, era=Era.MODERN)) == ({}, [])
        assert caplog.messages == ["upstream files sent a request, which its revision of MCP forbids"]

    async def test_a_modern_server_that_became_legacy_is_asked_as_such(
        self, server: Server, became_modern: Callable[[], None]
    ) -> None:
        became_modern()
        async with upstream_at(server.url) as upstream:
            assert await upstream.era_for(ALICE) is Era.MODERN
            del server.handlers["tools/call"]
            key = SessionKey(ALICE.owner, era=Era.MODERN)
            await ask(upstream, key)
            server.handlers = {"tools/call": self.refuse}
            with pytest.raises(EraChangedError):
                await ask(upstream, key)
            assert await upstream.era_for(key) is Era.LEGACY
            del server.handlers["tools/call"]
            await ask(upstream)

    async def test_whether_it_has_streams_is_found_out_anew(
        self, server: Server, became_modern: Callable[[], None]
    ) -> None:
        opened = asyncio.Event()

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            opened.set()
            return await stream(http)

        async with upstream_at(server.url) as upstream:
            await upstream.describe()
            upstream.listen(ALICE)
            await upstream._listeners[ALICE]  # it has none
            became_modern()
            with pytest.raises(EraChangedError):
                await ask(upstream)
            server.handlers, server.get = {"tools/call": self.refuse}, get
            with pytest.raises(EraChangedError):
                await ask(upstream, SessionKey(ALICE.owner, era=Era.MODERN))
            async with asyncio.timeout(10):
                await opened.wait()

    async def test_one_that_refuses_a_call_and_is_what_it_was_is_believed(self, server: Server) -> None:
        probes = []

        async def discover(_message: dict[str, Any], _http: web.BaseRequest) -> web.StreamResponse:
            probes.append(1)
            return web.Response(status=400)

        server.handlers |= {"tools/call": self.refuse, "server/discover": discover}
        server.keeps_sessions = False
        async with upstream_at(server.url) as upstream:
            await upstream.describe()
            for _ in range(10):
                assert (await failure(upstream)).reason is Reason.UPSTREAM_INVALID
        assert (server.calls, len(server.opened)) == (10, 2), "the gateway's session and hers"
        assert len(probes) <= 4, "it is not asked again and again"


def upstream_version() -> str:
    from gateway import __version__

    return __version__


class TestAnswers:
    async def test_an_error_is_an_answer(self, server: Server) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            error = {"code": -32602, "message": "no"}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert (await ask(upstream))[0] == {"code": -32602, "message": "no"}

    async def test_an_error_with_an_http_status_is_an_answer_too(self, server: Server) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            error = {"code": -32602, "message": "no"}
            body = {"jsonrpc": "2.0", "id": message["id"], "error": error}
            return web.json_response(body, status=400)

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert (await ask(upstream))[0] == {"code": -32602, "message": "no"}

    async def test_a_stream_gives_its_messages_as_they_come(self, server: Server) -> None:
        go_on = asyncio.Event()

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            log = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "hi"}}
            question = {"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": {}}
            response = await stream(http, b": hello\n\n", event("", "id: 1"), event(log), event(question))
            await go_on.wait()
            await response.write(event(reply(message, {"done": True})))
            return response

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            async with upstream.request(ALICE, "tools/call", {}) as exchange:
                assert await exchange.receive() == Notification("notifications/message", {"data": "hi"})
                question = await exchange.receive()
                assert question == Request("q1", "elicitation/create", {})
                await upstream.respond(ALICE, "q1", Reply("mine", result=json_raw({"action": "accept"})))
                assert {"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}} in server.told
                go_on.set()
                done = await exchange.receive()
            assert isinstance(done, Reply)
            assert loads(done) == {"done": True}

    async def test_a_ping_is_answered_by_the_gateway(self, server: Server) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            response = await stream(http, event(PING))
            async with server.news:
                await server.news.wait_for(lambda: {"jsonrpc": "2.0", "id": "p", "result": {}} in server.told)
            await response.write(event(reply(message, {})))
            return response

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert await ask(upstream) == ({}, [])

    async def test_of_many_pings_one_is_answered_at_a_time(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        last = {"jsonrpc": "2.0", "id": 99, "result": {}}
        go_on = asyncio.Event()
        answering: list[int] = []

        async def note(message: dict[str, Any]) -> None:
            if "result" in message:
                answering.append(message["id"])
                await go_on.wait()
            await Server.note(server, message)

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return await stream(
                http, *(event(PING | {"id": number}) for number in range(100)), event(reply(message, {}))
            )

        monkeypatch.setattr(server, "note", note)
        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert await ask(upstream) == ({}, [])
            await ask(upstream)
            assert len(answering) <= 1
            go_on.set()
            async with server.news:
                await server.news.wait_for(lambda: last in server.told)
        assert len(answering) <= 1 + http_session.MAX_PINGS

    @pytest.mark.parametrize(
        "unasked",
        [
            PING,
            {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1}},
        ],
    )
    async def test_a_flood_of_what_nobody_asked_for_ends_the_answer(
        self, server: Server, unasked: dict[str, Any]
    ) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return await stream(http, event(unasked) * 1_100, event(reply(message, {})))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            error = await failure(upstream)
            assert error.reason is Reason.UPSTREAM_INVALID
            assert "flood" in error.detail
            del server.handlers["tools/call"]
            await ask(upstream)

    @pytest.mark.parametrize("bad", [[PING] * 1_001, PING | {"id": "p" * 1_025}])
    async def test_what_is_too_much_to_keep_is_refused(self, server: Server, bad: Any) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return await stream(http, event(bad), event(reply(message, {})))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_INVALID

    async def test_a_connection_is_used_again_after_a_stream(self, server: Server) -> None:
        ports: set[int] = set()

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            assert http.transport is not None
            ports.add(http.transport.get_extra_info("peername")[1])
            return await stream(http, event(reply(message, {})))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            for _ in range(5):
                await ask(upstream)
                await asyncio.sleep(0.02)  # the end of the stream follows the reply
        assert len(ports) == 1

    async def test_a_stream_that_breaks_off_is_taken_up_again(self, server: Server) -> None:
        asked: list[str | None] = []

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            async def rest(again: web.BaseRequest) -> web.StreamResponse:
                asked.append(again.headers.get("Last-Event-ID"))
                if len(asked) == 1:
                    return await stream(again)
                return await stream(again, event(reply(message, {"at": "last"})))

            server.get = rest
            return await stream(http, event("", "id: ev-7", "retry: 1"))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert await ask(upstream) == ({"at": "last"}, [])
        assert asked == ["ev-7", "ev-7"]
        assert server.calls == 1

    @pytest.mark.parametrize(
        ("status", "content_type", "body", "reason"),
        [
            (200, "text/html", b"<html>", Reason.UPSTREAM_INVALID),
            (200, "application/json", b"", Reason.UPSTREAM_INVALID),
            (200, "application/json", b"nonsense", Reason.UPSTREAM_INVALID),
            (200, "application/json", b'{"jsonrpc":"2.0","id":99999,"result":{}}', Reason.UPSTREAM_INVALID),
            (200, "application/json", b'{"jsonrpc":"2.0","id":"1","result":{}}', Reason.UPSTREAM_INVALID),
            (200, "application/json", b'{"jsonrpc":"2.0","method":"x"}', Reason.UPSTREAM_INVALID),
            (200, "text/event-stream", b"", Reason.UPSTREAM_INVALID),
            (200, "text/event-stream", b"data: nonsense\n\n", Reason.UPSTREAM_INVALID),
            (
                200,
                "text/event-stream",
                b'data: {"jsonrpc":"2.0","id":0,"result":1}\n\n',
                Reason.UPSTREAM_INVALID,
            ),
            (202, "application/json", b"", Reason.UPSTREAM_INVALID),
            (302, "text/plain", b"", Reason.UPSTREAM_INVALID),
            (400, "text/plain", b"secret internals", Reason.UPSTREAM_INVALID),
            (401, "text/plain", b"secret internals", Reason.UPSTREAM_UNAVAILABLE),
            (403, "text/plain", b"secret internals", Reason.UPSTREAM_UNAVAILABLE),
            (429, "text/plain", b"secret internals", Reason.UPSTREAM_UNAVAILABLE),
            (500, "text/plain", b"secret internals", Reason.UPSTREAM_UNAVAILABLE),
            (503, "application/json", b'{"jsonrpc":"2.0","id":5,"error":{}}', Reason.UPSTREAM_UNAVAILABLE),
            (503, "text/html", b"secret internals" * 10_000, Reason.UPSTREAM_UNAVAILABLE),
        ],
    )
    async def test_what_is_no_answer_is_an_error_and_the_next_call_works(
        self, server: Server, status: int, content_type: str, body: bytes, reason: Reason
    ) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=status, content_type=content_type, body=body)

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            error = await failure(upstream)
            assert error.reason is reason
            assert "internals" not in error.detail
            assert status == 200 or str(status) in error.detail
            del server.handlers["tools/call"]
            assert await ask(upstream, ALICE, {"n": 1}) == ({"said": {"n": 1}}, [])
        assert len(server.opened) == 1

    async def test_an_event_that_is_too_large_is_an_error(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.mcp.sse.EventParser.__init__.__defaults__", (1000,))

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return await stream(http, event(reply(message, "x" * 2000)))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_INVALID

    async def test_a_long_page_instead_of_a_session_says_nothing_of_eras(self, server: Server) -> None:
        async def page(_message: dict[str, Any], _http: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=502, content_type="text/html", body=b"down" * 50_000)

        server.handlers |= {"initialize": page, "server/discover": page}
        async with upstream_at(server.url) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_UNAVAILABLE

    @pytest.mark.parametrize("method", ["server/discover", "initialize"])
    async def test_a_handshake_that_fails_keeps_no_connection(self, server: Server, method: str) -> None:
        gone = asyncio.Event()

        async def garbage(_message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            response = await stream(http, b"data: garbage\n\n")
            with suppress(ConnectionError):
                while True:
                    await response.write(b": still there\n\n")
                    await asyncio.sleep(0.01)
            gone.set()
            return response

        server.keeps_sessions = False
        server.handlers[method] = garbage
        async with upstream_at(server.url) as upstream:
            with suppress(UpstreamError):
                await upstream.describe()
            async with asyncio.timeout(5):
                await gone.wait()

    @pytest.mark.parametrize("version", ["1999-12-31", 7, None])
    async def test_a_revision_that_nobody_knows_is_an_error(self, server: Server, version: object) -> None:
        async def initialize(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return web.json_response(reply(message, {"protocolVersion": version, "capabilities": {}}))

        server.handlers["initialize"] = initialize
        async with upstream_at(server.url) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_INVALID


def json_raw(value: object) -> Any:
    import msgspec

    return msgspec.Raw(json.dumps(value).encode())


class TestBrokenConnections:
    async def test_refused(self, unused_tcp_port: int) -> None:
        async with upstream_at(f"http://127.0.0.1:{unused_tcp_port}/mcp") as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_UNAVAILABLE
            with pytest.raises(UpstreamError):
                await upstream.describe()
            await upstream.notify(ALICE, "notifications/x", {})
            await upstream.respond(ALICE, 1, Reply(1, result=json_raw({})))

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"", Reason.UPSTREAM_UNAVAILABLE),
            (b"HTTP/1.1 200 OK\r\nContent-Type: applic", Reason.UPSTREAM_UNAVAILABLE),
            (
                b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"json',
                Reason.UPSTREAM_UNAVAILABLE,
            ),
            (
                (
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"8\r\ndata: {}\r\n"
                ),
                Reason.UPSTREAM_UNAVAILABLE,
            ),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Reason.UPSTREAM_INVALID),
        ],
    )
    async def test_in_the_middle_of_an_answer(self, server: Server, answer: bytes, reason: Reason) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            assert http.transport is not None
            http.transport.write(answer)
            http.transport.close()
            return web.Response()

        server.handlers["tools/call"] = call
        async with upstream_at(server.url) as upstream:
            assert (await failure(upstream)).reason is reason
            assert server.calls == 1  # a call is never sent twice
            del server.handlers["tools/call"]
            await ask(upstream)
        assert len(server.opened) == 1


class TestLimits:
    @pytest.mark.parametrize("begin_stream", [False, True])
    async def test_the_deadline_reaches_the_server(self, server: Server, begin_stream: bool) -> None:
        wire: list[int] = []

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            wire.append(message["id"])
            if begin_stream:
                await stream(http, b": wait\n\n")
            await asyncio.Event().wait()
            raise AssertionError

        server.handlers["tools/call"] = call
        async with upstream_at(server.url, timeout=0.3) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_TIMEOUT
            told = await server.hears("notifications/cancelled")
        assert told["params"]["requestId"] == wire[0]

    async def test_opening_a_session_counts(self, server: Server) -> None:
        async def initialize(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        server.handlers["initialize"] = initialize
        async with upstream_at(server.url, timeout=0.2) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_TIMEOUT
            with pytest.raises(UpstreamError) as caught:
                await upstream.describe()
            assert caught.value.reason is Reason.UPSTREAM_TIMEOUT
        assert server.told == []  # initialize is never cancelled

    async def test_no_more_at_once_than_allowed_and_waiting_counts(self, server: Server) -> None:
        busy, most = 0, 0

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.01)
            busy -= 1
            return web.json_response(reply(message, {}))

        server.handlers["tools/call"] = call
        async with upstream_at(server.url, max_concurrency=3) as upstream:
            await asyncio.gather(*(ask(upstream) for _ in range(12)))
            assert most == 2, "one client has at most half of the places"
            most = 0
            await asyncio.gather(*(ask(upstream, key) for _ in range(6) for key in (ALICE, BOB)))
            assert most == 3
        async with (
            upstream_at(server.url, max_concurrency=1, timeout=0.2) as upstream,
            upstream.request(ALICE, "tools/call", {}),
        ):
            assert (await failure(upstream)).reason is Reason.UPSTREAM_TIMEOUT

    @pytest.mark.parametrize("begin_stream", [False, True])
    async def test_leaving_early_reaches_the_server(self, server: Server, begin_stream: bool) -> None:
        asked = asyncio.Event()

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            asked.set()
            if begin_stream:
                await stream(http, b": wait\n\n")
            await asyncio.Event().wait()
            raise AssertionError

        server.handlers["tools/call"] = call
        async with upstream_at(server.url, max_concurrency=1) as upstream:
            task = asyncio.create_task(ask(upstream))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.hears("notifications/cancelled")
            del server.handlers["tools/call"]
            await ask(upstream)  # the place is free again

    async def test_cancelling_reaches_the_server_and_the_reader(self, server: Server) -> None:
        wire: list[int] = []

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            wire.append(message["id"])
            await stream(http, b": wait\n\n")
            await asyncio.Event().wait()
            raise AssertionError

        server.handlers["tools/call"] = call
        async with (
            upstream_at(server.url) as upstream,
            upstream.request(ALICE, "tools/call", {}) as exchange,
        ):
            reading = asyncio.create_task(exchange.receive())
            await asyncio.sleep(0)
            await exchange.cancel("enough")
            with pytest.raises(CancelledByCaller):
                await reading
            with pytest.raises(CancelledByCaller):
                await exchange.receive()
            await exchange.cancel("again")
        cancelled = [told for told in server.told if told["method"] == "notifications/cancelled"]
        assert [told["params"] for told in cancelled] == [{"requestId": wire[0], "reason": "enough"}]

    async def test_cancelling_reaches_who_takes_up_a_stream_again(self, server: Server) -> None:
        asked, may, never = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def call(_message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            return await stream(http, event("", "id: 1", "retry: 1"))

        async def rest(http: web.BaseRequest) -> web.StreamResponse:
            asked.set()
            await may.wait()
            response = await stream(http, b": here\n\n")
            await never.wait()
            return response

        server.handlers["tools/call"], server.get = call, rest
        async with upstream_at(server.url) as upstream, upstream.request(ALICE, "tools/call", {}) as exchange:
            receiving = asyncio.ensure_future(exchange.receive())
            await asked.wait()
            await exchange.cancel("enough")
            may.set()
            with pytest.raises(CancelledByCaller):
                await asyncio.wait_for(receiving, 5)
        never.set()

    async def test_what_was_answered_is_not_cancelled(self, server: Server) -> None:
        async with upstream_at(server.url) as upstream:
            async with upstream.request(ALICE, "tools/call", {}) as exchange:
                await exchange.receive()
                await exchange.cancel("too late")
            await ask(upstream)
        assert {told["method"] for told in server.told} == {"notifications/initialized", "DELETE"}


class TestProgress:
    @pytest.mark.parametrize("token", ["abc", 5, 0, ""])
    async def test_comes_back_under_the_callers_own_token(self, server: Server, token: int | str) -> None:
        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            wire = message["params"]["_meta"]["progressToken"]
            assert wire == message["id"]
            notes = [
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": t, "progress": 1},
                }
                for t in (wire, wire + 1000, token if isinstance(token, str) else "x", None)
            ]
            return await stream(http, *map(event, notes), event(reply(message, {})))

        server.handlers["tools/call"] = call
        params = {"name": "x", "_meta": {"progressToken": token, "other": [1]}}
        before = copy.deepcopy(params)
        async with upstream_at(server.url) as upstream:
            _, came = await ask(upstream, ALICE, params)
        assert came == [Notification("notifications/progress", {"progressToken": token, "progress": 1})]
        assert isinstance(came[0], Notification)
        assert type(came[0].params["progressToken"]) is type(token)
        assert params == before

    async def test_of_another_client_in_a_shared_session_goes_to_that_client(self, server: Server) -> None:
        wire: dict[str, int] = {}
        both = asyncio.Event()
        heard = Unsolicited()

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            who = message["params"]["who"]
            wire[who] = message["id"]
            if len(wire) == 2:
                both.set()
            await both.wait()
            other = wire["b" if who == "a" else "a"]
            params = {"progressToken": other, "progress": 1}
            note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            response = await stream(http, event(note))
            await asyncio.sleep(0.05)
            await response.write(event(reply(message, {})))
            return response

        server.handlers["tools/call"] = call
        async with upstream_at(server.url, heard, sessions=Sessions.SHARED) as upstream:
            token = {"progressToken": "same"}
            results = await asyncio.gather(
                ask(upstream, ALICE, {"who": "a", "_meta": token}),
                ask(upstream, BOB, {"who": "b", "_meta": token}),
            )
        assert [came for _, came in results] == [[], []]
        assert {heard.get_nowait()[0], heard.get_nowait()[0]} == {ALICE, BOB}


class TestListening:
    async def test_what_belongs_to_no_request_is_unsolicited(self, server: Server) -> None:
        changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        question = {"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage", "params": {"x": 1}}
        heard = Unsolicited()

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            assert http.headers["Mcp-Session-Id"] == "session-1"
            assert http.headers["MCP-Protocol-Version"] == "2025-06-18"
            assert http.headers["Accept"] == "text/event-stream"
            response = await stream(http, event(PING), event(changed), event(question))
            await asyncio.Event().wait()
            return response

        server.get = get
        async with upstream_at(server.url, heard) as upstream:
            await ask(upstream, ALICE)
            upstream.listen(ALICE)
            upstream.listen(ALICE)
            assert await heard.get() == (ALICE, Notification("notifications/tools/list_changed", {}))
            assert await heard.get() == (ALICE, Request(5, "sampling/createMessage", {"x": 1}))
            assert len(server.opened) == 1

    async def test_one_that_floods_it_is_heard_again_only_after_a_pause(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream_http, "FIRST_PAUSE", 0.02)
        changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        heard = Unsolicited()
        at: list[float] = []

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            at.append(asyncio.get_running_loop().time())
            response = await stream(http, event(changed, "retry: 0") * 1_100)
            await asyncio.Event().wait()
            return response

        server.get = get
        async with upstream_at(server.url, heard) as upstream:
            upstream.listen(ALICE)
            while len(at) < 4:
                await heard.get()
        pauses = [later - earlier for earlier, later in pairwise(at)]
        assert pauses[2] > 0.15  # 0.04, 0.08, 0.16

    async def test_progress_of_a_call_is_translated_there_too(self, server: Server) -> None:
        heard = Unsolicited()
        wire: asyncio.Queue[int] = asyncio.Queue()

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            params = {"progressToken": await wire.get(), "progress": 1}
            note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
            response = await stream(http, event(note))
            await asyncio.Event().wait()
            return response

        async def call(message: dict[str, Any], http: web.BaseRequest) -> web.StreamResponse:
            wire.put_nowait(message["id"])
            await asyncio.Event().wait()
            raise AssertionError

        server.get, server.handlers["tools/call"] = get, call
        async with upstream_at(server.url, heard) as upstream:
            upstream.listen(ALICE)
            task = asyncio.create_task(ask(upstream, ALICE, {"_meta": {"progressToken": "mine"}}))
            key, note = await heard.get()
            assert (key, note.params["progressToken"]) == (ALICE, "mine")
            task.cancel()
            await asyncio.wait([task])

    async def test_a_server_that_has_none_is_not_asked_again(self, server: Server) -> None:
        asked = asyncio.Event()

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            assert not asked.is_set()
            asked.set()
            return web.Response(status=405)

        server.get = get
        async with upstream_at(server.url) as upstream:
            upstream.listen(ALICE)
            await asked.wait()
            await ask(upstream, ALICE)
            upstream.listen(BOB)
            await ask(upstream, BOB)
        assert len(server.opened) == 2

    async def test_a_stream_that_ends_is_taken_up_again(self, server: Server) -> None:
        heard = Unsolicited()
        ids: list[str | None] = []

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            ids.append(http.headers.get("Last-Event-ID"))
            note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": len(ids)}}
            return await stream(http, event(note, f"id: {len(ids)}", "retry: 1"))

        server.get = get
        async with upstream_at(server.url, heard) as upstream:
            upstream.listen(ALICE)
            for number in (1, 2, 3):
                assert (await heard.get())[1].params == {"n": number}
        assert ids[:3] == [None, "1", "2"]

    async def test_it_follows_the_session_when_that_was_forgotten(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream_http, "FIRST_PAUSE", 0.01)
        listening: asyncio.Queue[str] = asyncio.Queue()

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            if http.headers["Mcp-Session-Id"] not in server.sessions:
                return web.Response(status=404)
            listening.put_nowait(http.headers["Mcp-Session-Id"])
            response = await stream(http, b": hello\n\n")
            await asyncio.Event().wait()
            return response

        server.get = get
        async with upstream_at(server.url) as upstream:
            upstream.listen(ALICE)
            assert await listening.get() == "session-1"
            server.sessions.clear()
            await ask(upstream, ALICE)
            assert await listening.get() == "session-2"
            assert len(server.opened) == 2

    async def test_ending_the_session_ends_it(self, server: Server) -> None:
        listening, gone = asyncio.Event(), asyncio.Event()

        async def get(http: web.BaseRequest) -> web.StreamResponse:
            response = await stream(http, b": hello\n\n")
            listening.set()
            try:
                while True:
                    await response.write(b": still there\n\n")
                    await asyncio.sleep(0.01)
            except ConnectionError:
                gone.set()
                raise

        server.get = get
        async with upstream_at(server.url) as upstream:
            upstream.listen(ALICE)
            await listening.wait()
            await upstream.end(ALICE)
            await gone.wait()
        assert len(server.opened) == 1

    async def test_who_listens_is_not_idle(self, server: Server) -> None:
        async def get(http: web.BaseRequest) -> web.StreamResponse:
            response = await stream(http, b": hello\n\n")
            await asyncio.Event().wait()
            return response

        server.get = get
        async with upstream_at(server.url, idle=0.02) as upstream:
            await ask(upstream, BOB)
            upstream.listen(GATEWAY)
            await server.hears("DELETE")
            await asyncio.sleep(0.05)
            assert server.ended == ["session-1"]


class Answer(BaseModel):
    name: str


@asynccontextmanager
async def official_server(*, json_response: bool, port: int = 0) -> AsyncIterator[str]:
    sdk = MCPServer("official")

    @sdk.tool()
    async def work(steps: int, ctx: Context[Any, Any]) -> str:
        for step in range(steps):
            await ctx.report_progress(step, steps, f"step {step}")
        return f"did {steps}"

    @sdk.tool()
    async def greet(ctx: Context[Any, Any]) -> str:
        result = await ctx.elicit("Who are you?", Answer)
        return f"{result.action} {result.data.name if result.action == 'accept' else ''}"

    app = sdk.streamable_http_app(json_response=json_response)
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", ws="none"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await task


class TestTheOfficialServer:
    @pytest.mark.parametrize("json_response", [True, False])
    async def test_is_called_many_times_in_one_session(self, json_response: bool) -> None:
        async with official_server(json_response=json_response) as url, upstream_at(url) as upstream:
            info = await upstream.describe()
            assert (info.protocol_version, info.server_info["name"]) == ("2026-07-28", "official")
            params = {"name": "work", "arguments": {"steps": 2}}
            results = await asyncio.gather(*(ask(upstream, ALICE, params) for _ in range(20)))
            assert all(result["content"][0]["text"] == "did 2" for result, _ in results)

    async def test_is_found_again_after_a_restart(self, unused_tcp_port: int) -> None:
        params = {"name": "work", "arguments": {"steps": 1}}
        async with upstream_at(f"http://127.0.0.1:{unused_tcp_port}/mcp") as upstream:
            for _ in range(2):
                async with official_server(json_response=True, port=unused_tcp_port):
                    results = await asyncio.gather(*(ask(upstream, ALICE, params) for _ in range(10)))
                    assert all(result["content"][0]["text"] == "did 1" for result, _ in results)
                assert (await failure(upstream)).reason is Reason.UPSTREAM_UNAVAILABLE

    async def test_its_progress_comes_back(self) -> None:
        async with official_server(json_response=False) as url, upstream_at(url) as upstream:
            params = {"name": "work", "arguments": {"steps": 3}, "_meta": {"progressToken": "tok"}}
            _, came = await ask(upstream, ALICE, params)
            assert [note.params["progressToken"] for note in came if isinstance(note, Notification)] == [
                "tok"
            ] * 3

    async def test_it_may_ask_back(self) -> None:
        key = SessionKey(("t", "alice"), b'{"elicitation":{"form":{}}}')
        async with official_server(json_response=False) as url, upstream_at(url) as upstream:
            async with upstream.request(key, "tools/call", {"name": "greet", "arguments": {}}) as exchange:
                question = await exchange.receive()
                assert isinstance(question, Request)
                assert question.method == "elicitation/create"
                answer = {"action": "accept", "content": {"name": "Ada"}}
                await upstream.respond(key, question.id, Reply(1, result=json_raw(answer)))
                done = await exchange.receive()
            assert isinstance(done, Reply)
            assert loads(done)["content"][0]["text"] == "accept Ada"
