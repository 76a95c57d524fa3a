"""What clients are told by themselves, and how that goes with what they may have at that moment."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.mcp.streams import WATCH_SECONDS
from tests.conftest import Caller, Home, Started
from tests.modern import META, VERSION, Modern

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {"sampling": {}}}
CONFIG = """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = ""

[[tools]]
match = "echo"
permissions = ["far:use"]
"""
TALKATIVE = """
[[upstreams]]
name = "talk"
transport = "http"
url = "{url}"
prefix = "talk_"

[[prompts]]
match = "talk_*"
permissions = ["talk:use"]
"""


def prepare(home: Home) -> None:
    home.client("alice", "--permission", "far:use")


@pytest.fixture
def far(start_script: Callable[..., Started], home: Home) -> str:
    """The address of the upstream, with which the gateway is configured."""
    url = start_script("tests/servers/guarded.py", "--stream").url
    home.configure(CONFIG.format(url=url))
    return url.removesuffix("/mcp")


@contextmanager
def listening(
    home: Home, path: str, method: str, body: Any, fields: dict[str, str]
) -> Iterator[Callable[[], Any]]:
    """Reads the next message of alice's stream."""
    tls = home.tls(home.folder / "clients" / "alice")
    connection = http.client.HTTPSConnection("localhost", home.served[0].port, context=tls, timeout=10)
    connection.request(method, path, body, fields)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()

    def read() -> Any:
        while not (line := answer.readline().decode()).startswith("data: {"):
            assert line, "the stream has ended"
        return json.loads(line[6:])

    try:
        yield read
    finally:
        connection.close()


def of_session(home: Home, session: str) -> Any:
    fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
    return listening(home, "/mcp", "GET", None, fields)


def of_subscription(home: Home, *wanted: str) -> Any:
    meta = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}}
    params = {"notifications": dict.fromkeys(wanted, True), "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params})
    fields = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "subscriptions/listen",
    }
    return listening(home, "/mcp", "POST", body, fields)


def grant(home: Home, *options: str) -> None:
    home.cli("clients", "roles", "alice", *options)


def logged(text: str) -> dict[str, Any]:
    return {"method": "notifications/message", "params": {"level": "info", "data": text}}


ASKS = {"id": 7, "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}


@pytest.fixture
def say(far: str) -> Callable[..., int]:
    """Has the upstream say something on all its streams; how many those are."""

    def say(**message: Any) -> int:
        with urllib.request.urlopen(
            f"{far}/say", json.dumps({"jsonrpc": "2.0", **message}).encode()
        ) as answer:
            return int(answer.read())

    return say


def test_whose_permission_was_taken_hears_an_upstream_no_more_and_is_not_asked_by_it(
    home: Home, say: Callable[..., int], caller: Callable[..., Caller], wait_until: Callable[..., Any]
) -> None:
    alice = caller(home.serve(), home.folder / "clients" / "alice")
    session = alice.rpc("initialize", HELLO).headers["mcp-session-id"]
    with of_session(home, session) as read:
        assert "result" in alice.rpc("tools/call", {"name": "echo"}, session=session).json
        wait_until(lambda: say(**logged("before")) == 2)  # on the gateway's own stream, and on alice's
        assert read()["params"]["data"] == "before"
        say(**ASKS)
        assert read()["method"] == ASKS["method"]

        grant(home, "--remove-permission", "far:use")
        assert "error" in alice.rpc("tools/call", {"name": "echo"}, session=session).json
        say(**logged("between"))
        say(**ASKS)
        grant(home, "--add-permission", "far:use")
        say(**logged("after"))
        while (heard := read())["method"] == "notifications/tools/list_changed":
            pass
        assert heard["params"].get("data") == "after"


CHANGED = "notifications/tools/list_changed"


def test_a_list_that_changed_with_the_clients_permissions_is_told_of(
    home: Home, say: Callable[..., int], caller: Callable[..., Caller], wait_until: Callable[..., Any]
) -> None:
    home.cli("roles", "add", "helper", "--permission", "far:use")
    alice = caller(home.serve(), home.folder / "clients" / "alice")
    session = alice.rpc("initialize", HELLO).headers["mcp-session-id"]

    def listed() -> list[str]:
        return [tool["name"] for tool in alice.rpc("tools/list", session=session).json["result"]["tools"]]

    assert listed() == ["echo"]
    assert "result" in alice.rpc("tools/call", {"name": "echo"}, session=session).json
    with of_session(home, session) as read, of_subscription(home, "toolsListChanged") as subscribed:
        assert subscribed()["params"]["notifications"] == {"toolsListChanged": True}
        for change, now in (
            (("clients", "roles", "alice", "--remove-permission", "far:use"), []),
            (("clients", "roles", "alice", "--add-role", "helper"), ["echo"]),
            (("roles", "set", "helper", "--permission", "near:use"), []),
            (("clients", "roles", "alice", "--add-permission", "far:use"), ["echo"]),
        ):
            home.cli(*change)
            assert [read()["method"], subscribed()["method"]] == [CHANGED, CHANGED], change
            assert listed() == now
        home.cli("roles", "set", "helper", "--permission", "other:use")  # which changes nothing to be seen
        time.sleep(2 * WATCH_SECONDS)
        wait_until(lambda: say(**logged("the next")) == 2)
        assert read()["params"].get("data") == "the next"


def test_a_list_is_told_of_that_changed_because_an_upstream_went_down_or_came_back(
    home: Home, far: str, caller: Callable[..., Caller]
) -> None:
    def describe(text: str) -> None:
        urllib.request.urlopen(f"{far}/describe", text.encode()).close()

    alice = caller(home.serve(), home.folder / "clients" / "alice")
    assert alice.tools() == ["echo"]
    with of_subscription(home, "toolsListChanged") as read:
        read()
        describe("down")
        assert read()["method"] == CHANGED
        assert alice.tools() == []
        describe("Says it again.")
        assert read()["method"] == CHANGED
        assert alice.tools() == ["echo"]


@pytest.mark.usefixtures("far")
def test_a_subscription_to_lists_that_there_are_not_for_the_client_is_not_acknowledged(
    home: Home, start_script: Callable[..., Started], caller: Callable[..., Caller]
) -> None:
    home.configure(TALKATIVE.format(url=start_script("tests/servers/guarded.py", "--talkative").url))
    alice = Modern(caller(home.serve(), home.folder / "clients" / "alice"))

    def told() -> set[str]:
        with of_subscription(
            home, *(f"{each}ListChanged" for each in ("tools", "prompts", "resources"))
        ) as read:
            told: dict[str, bool] = read()["params"]["notifications"]
        assert set(told.values()) == {True}
        return {name.removesuffix("ListChanged") for name in told}

    assert told() == {"tools"} == set(alice.result("server/discover")["capabilities"])
    grant(home, "--add-permission", "talk:use")
    assert told() == {"tools", "prompts", "resources"}
