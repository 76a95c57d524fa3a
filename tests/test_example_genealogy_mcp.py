"""The example genealogy's MCP server: the real process, driven by the official SDK's client in both eras."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mcp import Client, MCPError
from mcp.types import INVALID_PARAMS, TextContent, TextResourceContents

SERVER = str(Path(__file__).resolve().parent.parent / "examples" / "genealogy" / "mcp_server.py")
Start = Callable[..., Any]

ERAS = [pytest.param("legacy", id="with initialize"), pytest.param("2026-07-28", id="without")]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
HEADERS = {"Accept": "application/json, text/event-stream"}


@pytest.fixture
def url(start_script: Start) -> str:
    return str(start_script(SERVER, "--port", "0").url)


async def stats(url: str) -> dict[str, int]:
    """What the server counted."""
    async with aiohttp.ClientSession() as http, http.get(url.replace("/mcp", "/stats")) as response:
        counted: dict[str, int] = await response.json()
        return counted


async def call(client: Client, tool: str, arguments: dict[str, Any] | None = None) -> Any:
    """The structured content of a call that succeeds."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


@pytest.mark.parametrize("era", ERAS)
async def test_every_tool_works(url: str, era: str) -> None:
    async with Client(url, mode=era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["list_persons", "find_person", "ancestors", "add_person", "slow_count"]
        assert all(tool.description and tool.output_schema for tool in tools.values())
        annotations = tools["add_person"].annotations
        assert annotations is not None
        assert annotations.read_only_hint is False

        page = await call(client, "list_persons", {"surname": "martin", "limit": 1, "offset": 1})
        assert page == {"persons": [{"key": "Jean.1.Martin", "name": "Jean Martin"}], "total": 6}

        found = await call(client, "find_person", {"key": "Thérèse.0.de La Tour"})
        assert found["person"]["key"] == "Th%C3%A9r%C3%A8se.0.de%20La%20Tour"
        assert found["relatives"]["parents"]["husband"]["name"] == "Gaston de La Tour"
        assert found["relatives"]["families"][0]["children"][0]["name"] == "Isabelle Lefèvre"

        ancestry = await call(client, "ancestors", {"key": "Claire.0.Martin", "generations": 1})
        assert [(each["sosa"], each["person"]["first_name"]) for each in ancestry["ancestors"]] == [
            (1, "Claire"),
            (2, "Philippe"),
            (3, "Isabelle"),
        ]

        born = {"birth_date": "2020-02-29", "birth_place": "Lyon"}
        added = await call(client, "add_person", {"first_name": "Jean", "surname": "Martin", **born})
        assert added["occurrence"] == 2
        assert added["birth"] == {"date": "2020-02-29", "place": "Lyon"}
        assert (await call(client, "find_person", {"key": added["key"]}))["person"] == added

        assert await call(client, "slow_count", {"seconds": 0, "steps": 3}) == {"result": "counted to 3"}


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("find_person", {"key": "Nobody.0.Nowhere"}, "nobody has the key"),
        ("find_person", {}, "Field required"),
        ("ancestors", {"key": "Claire.0.Martin", "generations": 17}, "less than or equal to 16"),
        ("list_persons", {"limit": "many"}, "valid integer"),
        ("add_person", {"first_name": "Jean", "surname": "Martin", "occurrence": 0}, "there already"),
        ("add_person", {"first_name": "A.B", "surname": "C"}, "is no name"),
        ("add_person", {"first_name": "A", "surname": "C", "birth_date": "2021-02-29"}, "is no date"),
        ("no_such_tool", {}, "Unknown tool"),
    ],
)
async def test_a_refused_call_is_an_error_result(
    url: str, tool: str, arguments: dict[str, Any], said: str
) -> None:
    async with Client(url) as client:
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        assert isinstance(result.content[0], TextContent)
        assert said in result.content[0].text
        assert (await call(client, "list_persons"))["total"] == 20


@pytest.mark.parametrize("era", ERAS)
async def test_resources_and_the_prompt_are_there(url: str, era: str) -> None:
    async with Client(url, mode=era) as client:
        assert [each.uri for each in (await client.list_resources()).resources] == ["genealogy://persons"]
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "genealogy://person/{key}"
        (prompt,) = (await client.list_prompts()).prompts
        assert prompt.arguments is not None
        assert [(each.name, each.required) for each in prompt.arguments] == [("key", True)]

        (contents,) = (await client.read_resource("genealogy://persons")).contents
        assert isinstance(contents, TextResourceContents)
        persons = json.loads(contents.text)
        assert len(persons) == 20
        for person in persons:
            (contents,) = (await client.read_resource(f"genealogy://person/{person['key']}")).contents
            assert isinstance(contents, TextResourceContents)
            assert json.loads(contents.text)["person"]["key"] == person["key"]

        (message,) = (await client.get_prompt("biography", {"key": "Claire.0.Martin"})).messages
        assert isinstance(message.content, TextContent)
        assert "Claire Martin" in message.content.text

        with pytest.raises(MCPError, match="nobody has the key") as refused:
            await client.read_resource("genealogy://person/Nobody.0.Nowhere")
        assert refused.value.code == INVALID_PARAMS
        with pytest.raises(MCPError, match="nobody has the key") as refused:
            await client.get_prompt("biography", {"key": "Nobody.0.Nowhere"})
        assert refused.value.code == INVALID_PARAMS


@pytest.mark.parametrize("era", ERAS)
async def test_progress_is_reported_step_by_step(url: str, era: str) -> None:
    reported: list[tuple[float, float | None, str | None]] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    async with Client(url, mode=era) as client:
        await client.call_tool("slow_count", {"seconds": 0, "steps": 3}, progress_callback=report)
    assert reported == [(1, 3, "1 of 3"), (2, 3, "2 of 3"), (3, 3, "3 of 3")]


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_call_ends_on_the_server_too(url: str, era: str) -> None:
    begun = asyncio.Event()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    async with Client(url, mode=era) as client, asyncio.timeout(30):
        endless = client.call_tool("slow_count", {"seconds": 3600, "steps": 10_000}, progress_callback=report)
        counting = asyncio.create_task(endless)
        await begun.wait()
        counting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await counting
        # What ends on the server cannot be awaited from here: it is asked for until it is so.
        while (await stats(url))["cancelled"] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert (await call(client, "list_persons"))["total"] == 20


async def test_sessions_and_calls_are_counted(url: str) -> None:
    assert await stats(url) == {"sessions_opened": 0, "deleted": 0, "calls": 0, "cancelled": 0}
    async with Client(url, mode="legacy") as first, Client(url, mode="legacy") as second:
        for client in (first, second, first):
            await client.call_tool("list_persons")
        assert await stats(url) == {"sessions_opened": 2, "deleted": 0, "calls": 3, "cancelled": 0}
    assert await stats(url) == {"sessions_opened": 2, "deleted": 2, "calls": 3, "cancelled": 0}
    async with Client(url, mode="2026-07-28") as modern:
        await modern.call_tool("list_persons")
    assert await stats(url) == {"sessions_opened": 2, "deleted": 2, "calls": 4, "cancelled": 0}


@pytest.mark.parametrize(
    ("options", "content_type", "has_session"),
    [
        ((), "text/event-stream", True),
        (("--json-response",), "application/json", True),
        (("--stateless",), "text/event-stream", False),
        (("--stateless", "--json-response"), "application/json", False),
    ],
)
async def test_how_it_answers_is_an_option(
    start_script: Start, options: tuple[str, ...], content_type: str, *, has_session: bool
) -> None:
    url = start_script(SERVER, "--port", "0", *options).url
    async with (
        aiohttp.ClientSession(headers=HEADERS) as http,
        http.post(url, json=INITIALIZE) as response,
    ):
        assert response.status == 200
        assert response.content_type == content_type
        assert ("Mcp-Session-Id" in response.headers) == has_session
    async with Client(url, mode="legacy") as client:
        assert (await call(client, "list_persons"))["total"] == 20


async def test_a_session_that_is_not_known_is_a_404(url: str) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with (
        aiohttp.ClientSession(headers={**HEADERS, "Mcp-Session-Id": "gone"}) as http,
        http.post(url, json=ping) as response,
    ):
        assert response.status == 404
    assert (await stats(url))["sessions_opened"] == 0


async def test_sigterm_ends_open_sessions_and_calls_and_exits_0(start_script: Start) -> None:
    started = start_script(SERVER, "--port", "0")
    begun = asyncio.Event()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    async with Client(started.url, mode="legacy") as client, asyncio.timeout(60):
        cut_off = client.call_tool("slow_count", {"seconds": 60, "steps": 600}, progress_callback=report)
        counting = asyncio.create_task(cut_off)
        await begun.wait()
        started.process.terminate()
        assert await asyncio.to_thread(started.process.wait, 20) == 0
        with pytest.raises(MCPError):
            await counting
