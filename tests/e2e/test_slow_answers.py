"""A person may think for longer than an upstream may work, also where client and upstream are both legacy."""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Home

SERVERS = Path(__file__).parent.parent / "servers"
CONFIG = f"""
[[tools]]
match = "*"
permissions = ["ask:use"]

[[upstreams]]
name = "near"
transport = "stdio"
command = ["{sys.executable}", "{SERVERS / "asking.py"}", "legacy"]
prefix = "near_"
sessions = "client"
timeout = "2s"
"""
FAR = """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = "far_"
timeout = "2s"
"""
ACCEPTED = {"action": "accept", "content": {"colour": "green"}}
ROOTS = {"roots": [{"uri": "file:///home/alice"}]}


def prepare(home: Home) -> None:
    home.configure(CONFIG)
    home.client("alice", "--permission", "ask:use")


@pytest.mark.parametrize(
    ("tool", "answer", "said"),
    [("far_favourite", ACCEPTED, "accept: green"), ("near_roots", ROOTS, "file:///home/alice")],
)
def test_what_the_client_is_asked_costs_the_upstream_no_time(
    home: Home, start_script: Any, caller: Any, tool: str, answer: Any, said: str
) -> None:
    if tool.startswith("far"):
        home.configure(
            FAR.format(url=start_script(str(SERVERS / "everything.py"), "http", "0", "legacy").url)
        )
    served = home.serve()
    alice = caller(served, home.folder / "clients" / "alice")
    client = {"capabilities": {"elicitation": {}, "roots": {}}, "clientInfo": {"name": "a", "version": "1"}}
    opened = alice.rpc("initialize", {"protocolVersion": "2025-11-25", **client})
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Mcp-Session-Id": opened.headers["mcp-session-id"],
    }
    tls = home.tls(home.folder / "clients" / "alice")
    connection = http.client.HTTPSConnection("localhost", served.port, context=tls, timeout=20)
    call = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
    connection.request("POST", "/mcp", json.dumps(call), headers)
    stream = connection.getresponse()
    question = _next(stream)
    assert question["method"] in {"elicitation/create", "roots/list"}
    time.sleep(2.5)
    reply = json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": answer})
    assert alice.ask("POST", "/mcp", reply, headers).status == 202
    assert said in _next(stream)["result"]["content"][0]["text"]
    connection.close()


def _next(stream: http.client.HTTPResponse) -> Any:
    """The next message of a stream."""
    while line := stream.readline():
        if line.startswith(b"data: {"):
            return json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream has ended")
