"""The official Python SDK's clients, through mutual TLS, with upstreams over HTTP and stdio."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult, PromptReference

from tests.everything_rules import EVERYTHING_RULES

ROOT = Path(__file__).resolve().parent.parent.parent
ROLES = """
[roles]
user = ["all:use"]
"""
CONFIG = (
    EVERYTHING_RULES
    + """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = "far_"
timeout = "10s"

[[upstreams]]
name = "near"
transport = "stdio"
command = ["{python}", "{script}", "stdio"]
prefix = "near_"
"""
)


@pytest.fixture
def upstream(start_script: Callable[..., Any]) -> Any:
    return start_script("tests/servers/everything.py", "http")


def prepare(home: Any) -> None:
    """Clients and their certificates."""
    home.configure(ROLES)
    home.client("alice", "--role", "user")
    home.client("bob", "--role", "user")
    home.certificate("root")


@pytest.fixture
def door(home: Any, upstream: Any) -> Any:
    """A gateway with one server over HTTP and one over stdio."""
    script = ROOT / "tests" / "servers" / "everything.py"
    home.configure(CONFIG.format(url=upstream.url, python=sys.executable, script=script))
    return home


@asynccontextmanager
async def _client(door: Any, served: Any, name: str, path: str = "/mcp", **options: Any) -> Any:
    async with (
        httpx2.AsyncClient(verify=door.tls(door.folder / "clients" / name), timeout=30) as http,
        Client(streamable_http_client(f"{served.url}{path}", http_client=http), **options) as client,
    ):
        yield client


def _state(upstream: Any) -> dict[str, Any]:
    with urllib.request.urlopen(upstream.url.replace("/mcp", "/state")) as answer:
        state: dict[str, Any] = json.load(answer)
        return state


def _text(result: Any) -> str:
    return str(result.content[0].text)


async def test_lists_are_merged_filtered_and_prefixed(door: Any) -> None:
    served = door.serve()
    async with _client(door, served, "alice") as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert tools == [
            f"{prefix}_{name}"
            for prefix in ("far", "near")
            for name in ("echo", "count", "favourite", "wish", "add_tool", "touch")
        ]
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == [
            "far_greet",
            "near_greet",
        ]
    async with _client(door, served, "alice", "/mcp/far") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "echo",
            "count",
            "favourite",
            "wish",
            "add_tool",
            "touch",
        ]
        assert _text(await client.call_tool("echo", {"text": "hi"})) == "hi"


@pytest.mark.parametrize("prefix", ["far", "near"])
async def test_one_of_each(door: Any, prefix: str) -> None:
    served = door.serve()
    heard: list[tuple[float, float | None]] = []

    async def progress(done: float, total: float | None, _message: str | None) -> None:
        heard.append((done, total))

    async def ask(_context: Any, _params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"colour": "green"})

    async with _client(door, served, "alice", mode="legacy", elicitation_callback=ask) as client:
        assert _text(await client.call_tool(f"{prefix}_echo", {"text": "ünï ☃"})) == "ünï ☃"
        counted = await client.call_tool(
            f"{prefix}_count", {"steps": 3, "seconds": 0.1}, progress_callback=progress
        )
        assert _text(counted) == "counted to 3"
        assert heard == [(1, 3), (2, 3), (3, 3)]
        assert _text(await client.call_tool(f"{prefix}_favourite")) == "accept: green"
        wrong = await client.call_tool(f"{prefix}_echo", {"wrong": 1})
        assert wrong.is_error
        prompt = await client.get_prompt(f"{prefix}_greet", {"name": "Ada"})
        assert prompt.messages[0].content.text == "Say hello to Ada."
        with pytest.raises(MCPError, match=f"Unknown tool: {prefix}_fail"):
            await client.call_tool(f"{prefix}_fail")
        with pytest.raises(MCPError, match="Unknown prompt: nothing"):
            await client.get_prompt("nothing")


async def test_resources_follow_their_own_rules(door: Any) -> None:
    served = door.serve()
    async with _client(door, served, "alice", "/mcp/far") as client:
        assert [str(r.uri) for r in (await client.list_resources()).resources] == ["everything://static"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [t.uri_template for t in templates] == ["everything://item/{name}"]
        assert (await client.read_resource("everything://static")).contents[0].text == "static text"
        assert (await client.read_resource("everything://item/7")).contents[0].text == "item 7"
        for uri in ("everything://secret", "everything://item/../secret", "other://x"):
            with pytest.raises(MCPError, match="Unknown resource"):
                await client.read_resource(uri)
        with pytest.raises(MCPError):
            await client.complete(
                PromptReference(type="ref/prompt", name="nothing"), {"name": "n", "value": "v"}
            )


@pytest.mark.parametrize("prefix", ["far", "near"])
async def test_cancelling_reaches_the_upstream(door: Any, upstream: Any, caller: Any, prefix: str) -> None:
    served = door.serve()
    async with _client(door, served, "alice") as client:
        await client.call_tool(f"{prefix}_echo", {"text": "x"})
        began = asyncio.Event()

        async def progress(*_: Any) -> None:
            began.set()

        call = asyncio.create_task(
            client.call_tool(f"{prefix}_count", {"steps": 100, "seconds": 30}, progress_callback=progress)
        )
        await asyncio.wait_for(began.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert _text(await client.call_tool(f"{prefix}_echo", {"text": "still here"})) == "still here"
    root = caller(served, door.folder / "clients" / "root")
    for _attempt in range(100):
        ended = root.ask("GET", f"/audit?tool_name={prefix}_count").json["entries"]
        if ended:
            break
        await asyncio.sleep(0.05)
    assert [entry["status"] for entry in ended] == ["cancelled"]
    if prefix == "far":
        assert _state(upstream)["cancelled"] == 1


async def test_a_thousand_calls_open_one_upstream_session(door: Any, upstream: Any) -> None:
    served = door.serve()
    async with _client(door, served, "alice", "/mcp/far", mode="legacy") as client:
        before = _state(upstream)["sessions"]
        limit = asyncio.Semaphore(20)

        async def one(number: int) -> None:
            async with limit:
                assert _text(await client.call_tool("echo", {"text": str(number)})) == str(number)

        await asyncio.gather(*(one(number) for number in range(1000)))
        assert _state(upstream)["sessions"] - before == 1
    async with _client(door, served, "alice", mode="legacy") as again:
        await again.call_tool("far_echo", {"text": "x"})
    assert _state(upstream)["sessions"] - before == 1
    async with _client(door, served, "bob", mode="legacy") as other:
        await other.call_tool("far_echo", {"text": "x"})
    assert _state(upstream)["sessions"] - before == 2
    async with _client(door, served, "bob", mode="2026-07-28") as modern:
        await modern.call_tool("far_echo", {"text": "x"})
    assert _state(upstream)["sessions"] - before == 2, "the modern era has none"


async def test_a_changed_list_is_told_to_whom_it_changed_for(door: Any) -> None:
    served = door.serve()
    told: dict[str, int] = {"alice": 0, "root": 0}

    def hear(name: str) -> Any:
        async def handler(message: Any) -> None:
            if "list_changed" in str(getattr(message, "method", "")):
                told[name] += 1

        return handler

    async with (
        _client(door, served, "alice", mode="legacy", message_handler=hear("alice")) as alice,
        _client(door, served, "root", mode="legacy", message_handler=hear("root")) as root,
    ):
        await alice.list_tools()
        await root.list_tools()
        for number in range(
            10
        ):  # the server speaks on alice's stream, which may not be open at the first call
            await alice.call_tool("far_add_tool", {"name": f"more_{number}"})
            for _attempt in range(40):
                if told["alice"] and told["root"]:
                    break
                await asyncio.sleep(0.05)
            if told["alice"]:
                break
        assert told == {"alice": 1, "root": 1}
        assert f"far_more_{number}" in [
            tool.name for tool in (await alice.list_tools(cache_mode="bypass")).tools
        ]


async def test_the_callers_token_never_reaches_the_upstream(door: Any, upstream: Any, caller: Any) -> None:
    served = door.serve()
    alice = caller(served, door.folder / "clients" / "alice")
    alice.token = alice.ask("GET", "/auth/token").json["access_token"]
    assert "result" in alice.call("far_echo", {"text": "x"})
    assert _state(upstream)["authorization"] is None


async def test_sessions_belong_to_who_opened_them(door: Any, caller: Any) -> None:
    served = door.serve()
    alice, bob = (caller(served, door.folder / "clients" / name) for name in ("alice", "bob"))
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opened = alice.rpc("initialize", hello)
    assert opened.json["result"]["protocolVersion"] == "2025-06-18"
    session = opened.headers["mcp-session-id"]
    assert alice.rpc("ping", session=session).status == 200
    for stranger in (bob, caller(served)):
        for method in ("POST", "GET", "DELETE"):
            headers = {
                "Mcp-Session-Id": session,
                "Accept": "application/json, text/event-stream",
                "Content-Type": "application/json",
            }
            body = '{"jsonrpc":"2.0","id":1,"method":"ping"}' if method == "POST" else None
            answer = stranger.ask(method, "/mcp", body, headers)
            told = answer.json["error"]["data"] if method == "POST" else answer.json
            assert (answer.status, told["reason"]) == (404, "session_unknown")
    assert alice.ask("DELETE", "/mcp", headers={"Mcp-Session-Id": session}).status == 204
    assert alice.rpc("ping", session=session).status == 404
