"""Clients of one era, upstreams of the other: the official SDK at both ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult

from tests.everything_rules import EVERYTHING_RULES
from tests.modern import META, VERSION, Modern, messages

CONFIG = (
    EVERYTHING_RULES
    + """
[[upstreams]]
name = "new"
transport = "http"
url = "{new}"
prefix = "new_"
timeout = "10s"

[[upstreams]]
name = "old"
transport = "http"
url = "{old}"
prefix = "old_"
timeout = "10s"

[[resources]]
match = "classic://*"
permissions = ["all:use"]
"""
)
ELICITATION = {f"{META}clientCapabilities": {"elicitation": {"form": {}}}}


def prepare(home: Any) -> None:
    home.configure("[roles]\nuser = ['all:use']")
    for name in ("alice", "bob"):
        home.client(name, "--role", "user")
    home.certificate("root")


@pytest.fixture
def upstreams(start_script: Callable[..., Any]) -> dict[str, Any]:
    return {
        era: start_script("tests/servers/everything.py", "http", "0", *words)
        for era, words in (("old", ("legacy", "classic")), ("new", ("modern",)))
    }


@pytest.fixture
def door(home: Any, upstreams: dict[str, Any]) -> Any:
    home.configure(CONFIG.format(old=upstreams["old"].url, new=upstreams["new"].url))
    return home


@asynccontextmanager
async def client_of(door: Any, served: Any, name: str, mode: str, **options: Any) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(verify=door.tls(door.folder / "clients" / name), timeout=30) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode=mode, **options) as client,
    ):
        yield client


def state(upstream: Any) -> Any:
    with urllib.request.urlopen(upstream.url.replace("/mcp", "/state")) as answer:
        return json.load(answer)


def text(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("prefix", ["old", "new"])
async def test_each_kind_in_each_era(door: Any, mode: str, prefix: str) -> None:
    served = door.serve()
    heard: list[float] = []

    async def progress(done: float, _total: float | None, _message: str | None) -> None:
        heard.append(done)

    async with client_of(door, served, "alice", mode) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert {f"{prefix}_echo", f"{prefix}_count"} <= set(tools)
        assert text(await client.call_tool(f"{prefix}_echo", {"text": "ü ☃"})) == "ü ☃"
        counted = await client.call_tool(
            f"{prefix}_count", {"steps": 3, "seconds": 0.1}, progress_callback=progress
        )
        assert text(counted) == "counted to 3"
        assert heard == [1, 2, 3]
        assert (await client.call_tool(f"{prefix}_echo", {"wrong": 1})).is_error
        prompt = await client.get_prompt(f"{prefix}_greet", {"name": "Ada"})
        assert prompt.messages[0].content.text == "Say hello to Ada."
        scheme = "classic" if prefix == "old" else "everything"
        assert (await client.read_resource(f"{scheme}://item/7")).contents[0].text == "item 7"
        with pytest.raises(MCPError, match=f"Unknown tool: {prefix}_fail"):
            await client.call_tool(f"{prefix}_fail")


@pytest.mark.parametrize(("mode", "tool"), [("2026-07-28", "old_favourite"), ("legacy", "old_favourite")])
async def test_a_legacy_server_asks_its_client(door: Any, mode: str, tool: str) -> None:
    async def ask(_context: Any, params: Any) -> ElicitResult:
        assert params.message == "Which colour?"
        return ElicitResult(action="accept", content={"colour": "green"})

    async with client_of(door, door.serve(), "alice", mode, elicitation_callback=ask) as client:
        assert text(await client.call_tool(tool)) == "accept: green"
        assert text(await client.call_tool(tool)) == "accept: green"


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_a_modern_server_needs_input(door: Any, mode: str) -> None:
    async def ask(_context: Any, params: Any) -> ElicitResult:
        assert params.message == "Which wish?"
        return ElicitResult(action="accept", content={"wish": "rain"})

    async with client_of(door, door.serve(), "alice", mode, elicitation_callback=ask) as client:
        assert text(await client.call_tool("new_wish")) == "accept: {'wish': 'rain'} after asked once"


@pytest.mark.filterwarnings("ignore:resources/:mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_legacy_client_hears_of_a_modern_servers_resource(door: Any) -> None:
    heard: list[str] = []

    async def hear(message: Any) -> None:
        if "updated" in str(getattr(message, "method", "")):
            heard.append(str(message.params.uri))

    async with client_of(door, door.serve(), "alice", "legacy", message_handler=hear) as client:
        await client.subscribe_resource("everything://static")
        for _attempt in range(50):
            await client.call_tool("new_touch", {"uri": "everything://item/1"})
            await client.call_tool("new_touch", {"uri": "everything://static"})
            await asyncio.sleep(0.1)
            if heard:
                break
        assert set(heard) == {"everything://static"}
        await client.unsubscribe_resource("everything://static")


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("prefix", ["old", "new"])
async def test_cancelling_reaches_the_upstream(
    door: Any, upstreams: dict[str, Any], caller: Any, mode: str, prefix: str
) -> None:
    served = door.serve()
    async with client_of(door, served, "alice", mode) as client:
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
        assert text(await client.call_tool(f"{prefix}_echo", {"text": "still here"})) == "still here"
        for _attempt in range(100):
            if state(upstreams[prefix])["cancelled"]:
                break
            await asyncio.sleep(0.05)
        assert state(upstreams[prefix])["cancelled"] == 1
    root = caller(served, door.folder / "clients" / "root")
    entries = root.ask("GET", f"/audit?tool_name={prefix}_count").json["entries"]
    assert [(entry["status"], entry["reason"]) for entry in entries] == [("cancelled", None)]


class TestRequestState:
    """What a client hands back is its own, for that request."""

    @pytest.fixture
    def served(self, door: Any) -> Any:
        return door.serve()

    def of(self, door: Any, served: Any, caller: Any, name: str) -> Modern:
        return Modern(caller(served, door.folder / "clients" / name))

    @pytest.mark.parametrize(
        ("tool", "answer", "said"),
        [
            ("old_favourite", {"colour": "green"}, "accept: green"),
            ("new_wish", {"wish": "rain"}, "accept: {'wish': 'rain'} after asked once"),
        ],
    )
    def test_nobody_else_can_go_on(
        self, door: Any, served: Any, caller: Any, tool: str, answer: Any, said: str
    ) -> None:
        alice, bob = (self.of(door, served, caller, name) for name in ("alice", "bob"))
        asked = alice.result("tools/call", {"name": tool}, meta=ELICITATION)
        assert asked["resultType"] == "input_required"
        ((key, question),) = asked["inputRequests"].items()
        assert question["method"] == "elicitation/create"
        assert "asked once" not in asked["requestState"]
        responses = {key: {"action": "accept", "content": answer}}
        again = {"name": tool, "inputResponses": responses, "requestState": asked["requestState"]}
        for who, params in (
            (bob, again),
            (alice, {**again, "requestState": asked["requestState"][:-8] + "AAAAAAA="}),
            (alice, {**again, "requestState": "made up"}),
            (alice, {**again, "requestState": None}),
            (alice, {**again, "arguments": {"other": 1}}),
            (alice, {**again, "name": "old_echo"}),
        ):
            refused = who.ask("tools/call", params, meta=ELICITATION)
            assert (refused.status, refused.json["error"]["code"]) == (400, -32602), params
        went_on = messages(alice.ask("tools/call", again, meta=ELICITATION))[-1]["result"]
        assert went_on["content"][0]["text"] == said

    def test_an_answer_is_taken_once_and_asked_for_until_it_comes(
        self, door: Any, served: Any, caller: Any
    ) -> None:
        alice = self.of(door, served, caller, "alice")
        first = alice.result("tools/call", {"name": "old_favourite"}, meta=ELICITATION)
        params = {"name": "old_favourite", "requestState": first["requestState"]}
        second = alice.result("tools/call", params, meta=ELICITATION)
        assert second["inputRequests"] == first["inputRequests"]
        params = {
            "name": "old_favourite",
            "requestState": second["requestState"],
            "inputResponses": {key: {"action": "decline"} for key in second["inputRequests"]},
        }
        assert alice.result("tools/call", params, meta=ELICITATION)["content"][0]["text"] == "decline: -"
        twice = alice.ask("tools/call", params, meta=ELICITATION)
        assert twice.json["error"]["code"] == -32602

    def test_who_cannot_be_asked_is_not_asked(self, door: Any, served: Any, caller: Any) -> None:
        alice = self.of(door, served, caller, "alice")
        answer = alice.ask("tools/call", {"name": "old_favourite"})
        assert (answer.status, answer.json["error"]["code"]) == (400, -32021)
        assert answer.json["error"]["data"] == {"requiredCapabilities": {"elicitation": {}}}
        legacy = caller(served, door.folder / "clients" / "alice")
        assert "open a session" in legacy.call("new_wish")["error"]["message"]


@contextmanager
def listening(home: Any, served: Any, name: str, wanted: dict[str, Any]) -> Iterator[Callable[[], Any]]:
    """An open subscription; what is yielded reads its next message."""
    connection = http.client.HTTPSConnection(
        "localhost", served.port, context=home.tls(home.folder / "clients" / name), timeout=20
    )
    meta = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}}
    params = {"notifications": wanted, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": "sub-1", "method": "subscriptions/listen", "params": params})
    fields = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "subscriptions/listen",
    }
    connection.request("POST", "/mcp", body, fields)
    response = connection.getresponse()
    assert (response.status, response.getheader("Content-Type")) == (200, "text/event-stream")

    def read() -> Any:
        while True:
            line = response.readline().decode()
            assert line, "the stream has ended"
            if line.startswith("data: "):
                return json.loads(line[6:])

    try:
        yield read
    finally:
        connection.close()


class TestListening:
    """subscriptions/listen: what is acknowledged, and who is told."""

    def test_only_what_was_asked_for_and_may_be_read(self, door: Any) -> None:
        served = door.serve()
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": False,
            "resourceSubscriptions": ["everything://static", "everything://secret", "other://x", 7],
        }
        with listening(door, served, "alice", wanted) as read:
            acknowledged = read()
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
            assert acknowledged["params"]["_meta"] == {f"{META}subscriptionId": "sub-1"}
            assert acknowledged["params"]["notifications"] == {
                "toolsListChanged": True,
                "resourceSubscriptions": ["everything://static"],
            }

    def test_an_update_at_a_modern_upstream(self, door: Any, caller: Any) -> None:
        served = door.serve()
        alice = Modern(caller(served, door.folder / "clients" / "alice"))
        with listening(
            door, served, "alice", {"resourceSubscriptions": ["everything://static", "everything://item/1"]}
        ) as read:
            read()
            told: list[Any] = []
            reader = threading.Thread(target=lambda: told.append(read()))
            reader.start()
            for _attempt in range(50):  # the gateway subscribes beside the acknowledgement
                alice.result("tools/call", {"name": "new_touch", "arguments": {"uri": "everything://item/2"}})
                alice.result("tools/call", {"name": "new_touch", "arguments": {"uri": "everything://static"}})
                reader.join(0.1)
                if told:
                    break
            assert told[0]["method"] == "notifications/resources/updated"
            assert told[0]["params"] == {
                "uri": "everything://static",
                "_meta": {f"{META}subscriptionId": "sub-1"},
            }

    def test_a_changed_list_is_told_to_whom_it_changed_for(self, door: Any, caller: Any) -> None:
        served = door.serve()
        root = Modern(caller(served, door.folder / "clients" / "root"))
        told: list[tuple[str, str | None]] = []
        with (
            listening(door, served, "root", {"toolsListChanged": True}) as of_root,
            listening(door, served, "alice", {"toolsListChanged": True}) as of_alice,
        ):
            assert of_root()["method"] == of_alice()["method"] == "notifications/subscriptions/acknowledged"

            def hear(name: str, read: Callable[[], Any]) -> None:
                with contextlib.suppress(AttributeError, ValueError, OSError, AssertionError):
                    told.append((name, read().get("method")))  # until the connection is closed

            readers = [
                threading.Thread(target=hear, args=one) for one in (("root", of_root), ("alice", of_alice))
            ]
            for reader in readers:
                reader.start()
            for number in range(50):
                arguments = {"name": f"x{number}_fail"}  # alice may not have those
                root.result("tools/call", {"name": "new_add_tool", "arguments": arguments})
                readers[0].join(0.2)
                if told:
                    break
            assert told == [("root", "notifications/tools/list_changed")]
            assert "new_x0_fail" in [tool["name"] for tool in root.result("tools/list")["tools"]]
            served.stop()
            for reader in readers:
                reader.join(10)

    def test_it_ends_with_a_result_when_the_gateway_stops(self, door: Any) -> None:
        served = door.serve()
        with listening(door, served, "alice", {"toolsListChanged": True}) as read:
            read()
            threading.Thread(target=served.stop, daemon=True).start()
            last = read()
            assert (last["id"], last["result"]["resultType"]) == ("sub-1", "complete")
            assert last["result"]["_meta"][f"{META}subscriptionId"] == "sub-1"
