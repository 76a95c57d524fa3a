"""What clients are told by themselves, and how that goes with what they may have at that moment."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import Caller, Home, Started

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {"sampling": {}}}
CONFIG = """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = ""

[[tools]]
match = "*"
permissions = ["far:use"]
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


def grant(home: Home, *options: str) -> None:
    home.cli("clients", "roles", "alice", *options)


def logged(text: str) -> dict[str, Any]:
    return {"method": "notifications/message", "params": {"level": "info", "data": text}}


ASKS = {"id": 7, "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}


def test_whose_permission_was_taken_hears_an_upstream_no_more_and_is_not_asked_by_it(
    home: Home, far: str, caller: Callable[..., Caller], wait_until: Callable[..., Any]
) -> None:
    def say(**message: Any) -> int:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        with urllib.request.urlopen(f"{far}/say", body) as answer:
            return int(answer.read())

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
