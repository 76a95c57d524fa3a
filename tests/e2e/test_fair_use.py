"""What one caller's calls cost the others, where they are slow, large or fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.conftest import Caller, Home, Served

SERVER = Path(__file__).parent.parent / "servers" / "burdensome.py"
PUBLIC = '[[tools]]\nmatch = "*"\naccess = "public"\n'


def prepare(home: Home) -> None:
    home.client("alice")


def _upstream(url: str, **settings: Any) -> str:
    more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    return f'[[upstreams]]\nname = "u"\ntransport = "http"\nurl = "{url}"\nprefix = "u_"\n{more}{PUBLIC}'


def _alice(home: Home, served: Served) -> Caller:
    return Caller(home, served, home.folder / "clients" / "alice")


def _text(message: Any) -> str:
    return str(message["result"]["content"][0]["text"])


def _begin(caller: Caller, tool: str, **arguments: Any) -> None:
    """Call a tool, and do not wait for the answer."""
    params = {"name": tool, "arguments": arguments}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    caller._connection.request("POST", "/mcp", body, headers)


def test_slow_calls_of_one_caller_leave_places_to_others_and_to_the_gateway(
    home: Home, start_script: Any, wait_until: Callable[..., Any]
) -> None:
    server = start_script(str(SERVER))
    home.configure(_upstream(server.url, max_concurrency=2))
    served = home.serve()
    with _alice(home, served) as alice, Caller(home, served) as carol, ExitStack() as stack:
        assert "u_new" not in carol.tools()
        for _ in range(4):
            _begin(stack.enter_context(Caller(home, served)), "u_slow", seconds=60)
        wait_until(lambda: int(_text(alice.call("u_counted", {"method": "tools/call"}))) > 1)
        _begin(alice, "u_add", name="new")  # takes the last place, and says that the list changed
        wait_until(lambda: "u_new" in carol.tools(), seconds=5)
