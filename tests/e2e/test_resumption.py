"""A legacy client whose stream broke off takes it up again (Last-Event-ID)."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
CONFIG = """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = ""

[[tools]]
match = "*"
permissions = ["all:use"]
"""


def prepare(home: Any) -> None:
    home.configure("[roles]\nuser = ['all:use']")
    for name in ("alice", "bob"):
        home.client(name, "--role", "user")


@pytest.fixture
def served(home: Any, start_script: Callable[..., Any]) -> Any:
    home.configure(CONFIG.format(url=start_script("tests/servers/everything.py", "http").url))
    return home.serve()


@pytest.fixture
def stream(home: Any, served: Any) -> Iterator[Callable[[str, str], Stream]]:
    """Makes streams of a client's session, and closes them."""
    made: list[Stream] = []

    def make(name: str, session: str) -> Stream:
        made.append(Stream(home, served, name, session))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Stream:
    """One answer of events, read as it comes."""

    def __init__(self, home: Any, served: Any, name: str, session: str) -> None:
        self.connection = http.client.HTTPSConnection(
            "localhost", served.port, context=home.tls(home.folder / "clients" / name), timeout=20
        )
        self.headers = {"Accept": "application/json, text/event-stream", "Mcp-Session-Id": session}

    def call(self, arguments: dict[str, Any]) -> None:
        params = {"name": "count", "arguments": arguments, "_meta": {"progressToken": "p"}}
        body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})
        self.connection.request("POST", "/mcp", body, {**self.headers, "Content-Type": "application/json"})
        self.response = self.connection.getresponse()

    def resume(self, last_id: str) -> int:
        headers = {**self.headers, "Accept": "text/event-stream", "Last-Event-ID": last_id}
        self.connection.request("GET", "/mcp", headers=headers)
        self.response = self.connection.getresponse()
        return self.response.status

    def close(self) -> None:
        self.response.close()
        self.connection.close()

    def event(self) -> tuple[str, Any] | None:
        """The next event's id and message; None: the stream has ended."""
        said: dict[str, str] = {}
        while True:
            line = self.response.readline().decode()
            if not line:
                return None
            if line == "\n" and "data" in said:
                return said.get("id", ""), json.loads(said["data"]) if said["data"] else None
            name, _, value = line.rstrip("\n").partition(": ")
            said[name] = value


def test_nothing_is_lost_and_nothing_comes_twice(
    home: Any, served: Any, caller: Any, stream: Callable[[str, str], Stream]
) -> None:
    alice = caller(served, home.folder / "clients" / "alice")
    session = alice.rpc("initialize", HELLO).headers["mcp-session-id"]
    first = stream("alice", session)
    first.call({"steps": 8, "seconds": 1.6})
    primed = first.event()
    assert primed is not None
    assert primed[1] is None
    heard = [first.event(), first.event()]
    first.close()
    again = stream("alice", session)
    assert again.resume(heard[-1][0]) == 200
    while (event := again.event()) is not None:
        heard.append(event)
    progress = [message["params"]["progress"] for _, message in heard[:-1]]
    assert progress == [1, 2, 3, 4, 5, 6, 7, 8]
    assert heard[-1][1]["id"] == 7
    assert heard[-1][1]["result"]["content"][0]["text"] == "counted to 8"
    assert len({event_id for event_id, _ in heard}) == len(heard)
    whole = stream("alice", session)
    assert whole.resume(primed[0]) == 200
    assert [whole.event() for _ in heard] == heard, "it can be read again, from its beginning"


def test_a_stream_belongs_to_its_session(
    home: Any, served: Any, caller: Any, stream: Callable[[str, str], Stream]
) -> None:
    alice, bob = (caller(served, home.folder / "clients" / name) for name in ("alice", "bob"))
    session, other = (one.rpc("initialize", HELLO).headers["mcp-session-id"] for one in (alice, bob))
    own = stream("alice", session)
    own.call({"steps": 2, "seconds": 0.1})
    event = own.event()
    assert event is not None
    assert stream("bob", session).resume(event[0]) == 404
    stranger = stream("bob", other)
    assert stranger.resume(event[0]) == 200
    opened = stranger.event()
    assert opened is not None
    assert opened[1] is None, "an id that the session does not know opens its own stream"
