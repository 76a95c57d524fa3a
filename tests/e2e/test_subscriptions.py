"""Many subscriptions at once: what one client may have of them, and what they cost the gateway."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from gateway.mcp.listeners import MAX_LISTENERS_OF_ONE
from tests.modern import META, VERSION

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
