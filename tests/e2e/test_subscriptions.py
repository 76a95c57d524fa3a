"""Many subscriptions at once: what one client may have of them, and what they cost the gateway."""

from __future__ import annotations

import http.client
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.interests import MAX_RESOURCES, MAX_RESOURCES_OF_ONE
from gateway.mcp.listeners import MAX_LISTENERS_OF_ONE
from tests.commands import ROOT
from tests.modern import META, VERSION, Modern

CONFIG = """
[[upstreams]]
name = "new"
transport = "http"
url = "{url}"
prefix = ""

[[tools]]
match = "*"
access = "public"

[[resources]]
match = "*"
access = "public"
"""


@pytest.fixture
def served(home: Any, start_script: Callable[..., Any]) -> Any:
    upstream = start_script("tests/servers/everything.py", "http", "0", "modern")
    home.configure(CONFIG.format(url=upstream.url))
    return home.serve()


@contextmanager
def asked(home: Any, served: Any, wanted: dict[str, Any]) -> Iterator[http.client.HTTPSConnection]:
    """A connection on which ``subscriptions/listen`` was sent; its answer is still to be read."""
    connection = http.client.HTTPSConnection("localhost", served.port, context=home.tls(), timeout=20)
    meta = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}}
    params = {"notifications": wanted, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params})
    fields = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "subscriptions/listen",
    }
    connection.request("POST", "/mcp", body, fields)
    try:
        yield connection
    finally:
        connection.close()


def test_however_fast_one_network_opens_them_it_has_so_many(home: Any, served: Any) -> None:
    wanted = {"resourceSubscriptions": ["everything://static", "everything://item/1"]}
    with ExitStack() as opened:
        connections = [
            opened.enter_context(asked(home, served, wanted)) for _ in range(MAX_LISTENERS_OF_ONE + 4)
        ]
        answers = [connection.getresponse() for connection in connections]
        refused = [answer for answer in answers if answer.getheader("Content-Type") == "application/json"]
        assert len(refused) == 4
        assert json.loads(refused[0].read())["error"] == {
            "code": -32600,
            "message": "You have too many subscriptions open: close some.",
        }


def agreed(connection: http.client.HTTPSConnection) -> tuple[list[str], Callable[[], Any]]:
    """The resources of which it is told, and what reads its next message."""
    answer = connection.getresponse()

    def read() -> Any:
        while not (line := answer.readline().decode()).startswith("data: "):
            assert line, "the stream has ended"
        return json.loads(line[6:])

    return read()["params"]["notifications"]["resourceSubscriptions"], read


def test_however_many_resources_they_are_for_they_cost_no_connections(
    home: Any, served: Any, caller: Any
) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))

    anonymous = Modern(caller(served))
    anonymous.result("tools/list")
    before = descriptors()
    at_most = MAX_RESOURCES_OF_ONE // MAX_RESOURCES
    with ExitStack() as opened:
        for number in range(at_most + 1):
            uris = [f"everything://item/{number}-{each}" for each in range(MAX_RESOURCES)]
            connection = opened.enter_context(asked(home, served, {"resourceSubscriptions": uris}))
            taken, read = agreed(connection)
            assert taken == (uris if number < at_most else [])  # no more of one network
            if number == 0:
                of_first = read
        assert descriptors() - before < 4 * at_most
        touched = {"uri": "everything://item/0-255"}  # the server has agreed before the client is told so
        anonymous.result("tools/call", {"name": "touch", "arguments": touched})
        assert of_first()["params"]["uri"] == touched["uri"]


def test_what_a_server_does_not_tell_of_is_not_acknowledged(
    home: Any, start_script: Callable[..., Any], caller: Any
) -> None:
    home.configure(CONFIG.format(url=start_script("tests/servers/choosy.py").url))
    served = home.serve()
    told, untold = "choosy://told", "choosy://untold"
    with asked(home, served, {"resourceSubscriptions": [told, untold]}) as connection:
        assert agreed(connection)[0] == [told]
    anonymous = caller(served)
    opening = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    session = anonymous.rpc("initialize", opening).headers["mcp-session-id"]
    assert anonymous.rpc("resources/subscribe", {"uri": told}, session=session).json["result"] == {}
    answer = anonymous.rpc("resources/subscribe", {"uri": untold}, session=session)
    assert answer.json["error"]["message"] == "Upstream new does not tell of that resource."


def test_the_gateway_may_open_as_many_files_as_the_system_lets_it(home: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    started = ["sh", "-c", f"ulimit -S -n 256; exec {sys.executable} -m gateway serve --config {home.config}"]
    environment = {**os.environ, "OSTIARY_SERVER_PORT": "0"}
    with subprocess.Popen(started, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"ostiary listening on ")
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (most, hard)
        finally:
            process.terminate()
