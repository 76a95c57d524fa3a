"""What one caller's calls cost the others, where they are slow, large or fail."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tests.conftest import Answer, Caller, Home, Served

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


def test_an_upstream_that_does_not_answer_fails_at_once_until_it_does(
    home: Home, start_script: Any, wait_until: Callable[..., Any]
) -> None:
    server = start_script(str(SERVER))
    home.configure(_upstream(server.url, timeout="2s"))
    served = home.serve()
    with Caller(home, served) as caller:
        for _ in range(3):  # it is the tool that is slow
            assert caller.call("u_slow", {"seconds": 60})["error"]["data"]["reason"] == "upstream_timeout"
        assert _text(caller.call("u_slow", {"seconds": 0})) == "done"
        wait_until(lambda: _text(caller.call("u_counted", {"method": "ping"})) == "1")  # it was asked
        server.process.send_signal(signal.SIGSTOP)
        refused = wait_until(partial(_refused_at_once, caller), seconds=30)
        error = refused.json["error"]
        assert error["data"]["reason"] == "upstream_unavailable"
        assert error["message"] == "Upstream u does not answer: try later."
        assert int(refused.headers["retry-after"]) == error["data"]["retry_after"] >= 1
        wait_until(lambda: not caller.tools())
        server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "result" in caller.call("u_counted", {"method": "ping"}))
        wait_until(caller.tools)
    entries = home.json("audit", "query", "--status", "error")["entries"]
    assert {entry["reason"] for entry in entries} == {"upstream_unavailable"}
    assert "does not answer" in served.log.read_text()


def _refused_at_once(caller: Caller) -> Answer | None:
    started = time.monotonic()
    answer = caller.rpc("tools/call", {"name": "u_slow", "arguments": {"seconds": 0}})
    return answer if time.monotonic() - started < 0.5 and "error" in answer.json else None


def test_a_tool_that_fails_is_not_a_dead_upstream(home: Home, start_script: Any) -> None:
    server = start_script(str(SERVER))
    home.configure(_upstream(server.url))
    served = home.serve()
    with Caller(home, served) as caller:
        assert len(caller.tools()) == 5
        for _ in range(30):
            assert "HTTP status 500" in caller.call("u_broken")["error"]["message"]
        assert int(_text(caller.call("u_counted", {"method": "tools/list"}))) <= 3
        assert int(_text(caller.call("u_counted", {"method": "ping"}))) <= 2
    assert "does not answer" not in served.log.read_text()


def test_who_does_not_read_large_answers_takes_no_memory_of_the_others(
    home: Home, start_script: Any, wait_until: Callable[..., Any]
) -> None:
    server = start_script(str(SERVER))
    home.configure(_upstream(server.url))
    served = home.serve()
    large, mebibyte = {"size": 12 * 1024 * 1024}, 1024 * 1024
    with _alice(home, served) as alice, Caller(home, served) as anybody:
        assert len(_text(alice.call("u_large", large))) == large["size"]
        at_first = _memory(served)
        with ExitStack() as stack:

            def filled() -> Any:
                for _ in range(5):
                    _begin(stack.enter_context(Caller(home, served)), "u_large", **large)
                return _refusal(anybody, large)

            full = wait_until(filled, seconds=30)
            assert full["data"]["reason"] == "rate_limited"
            assert full["message"].endswith("This call was made, its answer is lost.")
            assert _memory(served) - at_first < 150 * mebibyte
            assert _text(anybody.call("u_slow", {"seconds": 0})) == "done", "small answers come all the same"
            assert len(_text(alice.call("u_large", large))) == large["size"]
        wait_until(lambda: _refusal(anybody, large) is None, seconds=30)


def _refusal(caller: Caller, arguments: dict[str, Any]) -> Any:
    return caller.call("u_large", arguments).get("error")


def _memory(served: Served) -> int:
    """Bytes."""
    pages = Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_who_leaves_a_question_open_keeps_nobody_waiting(home: Home, start_script: Any) -> None:
    server = start_script("tests/servers/everything.py", "http", "0", "legacy")
    home.configure(_upstream(server.url, max_concurrency=1))
    served = home.serve()
    with _alice(home, served) as alice, Caller(home, served) as carol, _alice(home, served) as second:
        said = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}}
        session = alice.rpc("initialize", said).headers["mcp-session-id"]
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        headers["Mcp-Session-Id"] = session
        call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "u_favourite"}}
        alice._connection.request("POST", "/mcp", json.dumps(call), headers)
        stream = alice._connection.getresponse()
        question = _next(stream)
        assert question["method"] == "elicitation/create"
        began = time.monotonic()
        assert _text(carol.call("u_echo", {"text": "meanwhile"})) == "meanwhile"
        assert time.monotonic() - began < 10
        reply = {
            "jsonrpc": "2.0",
            "id": question["id"],
            "result": {"action": "accept", "content": {"colour": "blue"}},
        }
        assert second.ask("POST", "/mcp", json.dumps(reply), headers).status == 202
        assert "blue" in _text(_next(stream))
        assert _text(carol.call("u_echo", {"text": "afterwards"})) == "afterwards"


def _next(stream: Any) -> Any:
    """The next message on a stream of events."""
    while True:
        line = stream.readline()
        assert line, "the stream has ended"
        if line.startswith(b"data: {"):
            return json.loads(line[6:])
