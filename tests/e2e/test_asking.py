"""Sampling and roots from one era to the other: what a server asks reaches the client in its own era, and the answer goes back."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.sessions import MAX_ASKED
from tests.conftest import Caller, Home
from tests.modern import META, Modern, messages
from tests.servers.asking import SAMPLING

SERVER = Path(__file__).parent.parent / "servers" / "asking.py"
UPSTREAM = """
[[upstreams]]
name = "{name}"
transport = "stdio"
command = ["{python}", "{server}", "{era}"]
prefix = "{name}_"
sessions = "client"
"""
CONFIG = '[roles]\nuser = ["ask:use"]\n\n[[tools]]\nmatch = "*"\npermissions = ["ask:use"]\n'
WORD = {"role": "assistant", "content": {"type": "text", "text": "word"}, "model": "m"}
ROOTS = {"roots": [{"uri": "file:///home/alice", "name": "home"}]}
CASES = [("sample", "sampling", WORD), ("roots", "roots", ROOTS)]


def prepare(home: Home) -> None:
    upstreams = "".join(
        UPSTREAM.format(name=name, python=sys.executable, server=SERVER, era=era)
        for name, era in (("old", "legacy"), ("new", "modern"))
    )
    home.configure(CONFIG + upstreams)
    for name in ("alice", "bob"):
        home.client(name, "--role", "user")


@pytest.fixture(scope="module")
def door(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One gateway for all tests here."""
    home = Home(tmp_path_factory.mktemp("door") / "gateway")
    shutil.copytree(prepared, home.folder)
    served = home.serve()
    yield home
    assert served.stop() == 0
    served.close()
    assert "Traceback" not in served.log.read_text()


def _caller(door: Home, name: str = "alice") -> Caller:
    return Caller(door, door.served[0], door.folder / "clients" / name)


def _told(result: Any) -> Any:
    return json.loads(result["content"][0]["text"])


@pytest.mark.parametrize(("tool", "capability", "answer"), CASES)
def test_a_legacy_server_asks_a_modern_client(door: Home, tool: str, capability: str, answer: Any) -> None:
    with _caller(door) as caller, _caller(door, "bob") as other:
        alice, bob = Modern(caller), Modern(other)
        able = {f"{META}clientCapabilities": {capability: {}}}
        call = {"name": f"old_{tool}", "arguments": {}}
        asked = alice.result("tools/call", call, meta=able)
        assert asked["resultType"] == "input_required"
        expected = {"method": "sampling/createMessage", "params": SAMPLING}
        assert asked["inputRequests"] == {"input": expected if tool == "sample" else {"method": "roots/list"}}
        again = {**call, "requestState": asked["requestState"], "inputResponses": {"input": answer}}
        assert messages(bob.ask("tools/call", again, meta=able))[-1]["error"]["code"] == -32602
        done = alice.result("tools/call", again, meta=able)
        assert _told(done) == {"answer": answer, "declared": {capability: {}}}
        assert messages(alice.ask("tools/call", again, meta=able))[-1]["error"]["code"] == -32602, "once"


@pytest.mark.parametrize(("tool", "capability", "answer"), CASES)
def test_a_modern_client_is_not_asked_what_it_has_not_declared(
    door: Home, tool: str, capability: str, answer: Any
) -> None:
    with _caller(door) as caller:
        refused = Modern(caller).ask("tools/call", {"name": f"old_{tool}", "arguments": {}})
        error = messages(refused)[-1]["error"]
        assert (refused.status, error["code"]) == (400, -32021)
        assert error["data"] == {"requiredCapabilities": {capability: {}}}


def test_a_legacy_server_wants_a_url_opened(door: Home) -> None:
    able = {f"{META}clientCapabilities": {"elicitation": {"url": {}}}}
    call = {"name": "old_open", "arguments": {}}
    with _caller(door) as caller:
        alice = Modern(caller)
        asked = alice.result("tools/call", call, meta=able)
        assert asked["resultType"] == "input_required"
        params = {"mode": "url", "url": "https://example.org/sign-in", "message": "Sign in."}
        assert asked["inputRequests"] == {"url0": {"method": "elicitation/create", "params": params}}
        again = {**call, "inputResponses": {"url0": {"action": "accept"}}}
        assert _told(alice.result("tools/call", again, meta=able))["answer"] == "opened"
    with _caller(door, "bob") as caller:
        refused = Modern(caller).ask("tools/call", call)
        assert (refused.status, refused.json["error"]["code"]) == (400, -32021)
        assert refused.json["error"]["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}


def test_a_call_goes_on_where_it_is_whatever_its_retries_declare(door: Home) -> None:
    call: dict[str, Any] = {"name": "old_twice", "arguments": {}}
    declared: dict[str, Any] = {"sampling": {}}
    with _caller(door) as caller:
        alice = Modern(caller)
        asked = alice.result("tools/call", call, meta={f"{META}clientCapabilities": declared})
        for answer, also in ((WORD, {"roots": {}}), (ROOTS, {"elicitation": {}})):
            declared |= also
            again = {**call, "requestState": asked["requestState"], "inputResponses": {"input": answer}}
            asked = alice.result("tools/call", again, meta={f"{META}clientCapabilities": declared})
        assert _told(asked) == {"answer": ROOTS, "declared": {"sampling": {}}}


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize(("tool", "capability", "answer"), CASES)
def test_a_modern_server_asks_a_legacy_client(
    door: Home, tool: str, capability: str, answer: Any, refuses: bool
) -> None:
    with _caller(door) as alice, _caller(door) as second:
        said = {"protocolVersion": "2025-11-25", "capabilities": {capability: {}}}
        session = alice.rpc("initialize", said).headers["mcp-session-id"]
        headers = {"Content-Type": "application/json", "Mcp-Session-Id": session}
        headers["Accept"] = "application/json, text/event-stream"
        call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": f"new_{tool}"}}
        alice._connection.request("POST", "/mcp", json.dumps(call), headers)
        stream = alice._connection.getresponse()
        question = _next(stream)
        assert question["method"] == ("sampling/createMessage" if tool == "sample" else "roots/list")
        assert question.get("params", {}) == (SAMPLING if tool == "sample" else {})
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": question["id"]}
        reply |= {"error": {"code": -1, "message": "no"}} if refuses else {"result": answer}
        assert second.ask("POST", "/mcp", json.dumps(reply), headers).status == 202
        done = _next(stream)
        stream.read()
    if refuses:
        assert done["error"] == {"code": -32600, "message": "The client refused what the server asked."}
        return
    assert "resultType" not in done["result"]
    told = {"answers": {"it": answer}, "state": "asked once"}
    assert _told(done["result"]) == {"answer": told, "declared": {capability: {}}}


@pytest.mark.parametrize("server", ["old", "new"])
def test_the_end_of_a_session_cancels_what_waits_for_its_clients_answer(door: Home, server: str) -> None:
    with _caller(door) as alice, _caller(door) as second:
        said = {"protocolVersion": "2025-11-25", "capabilities": {"sampling": {}}}
        session = alice.rpc("initialize", said).headers["mcp-session-id"]
        headers = {"Content-Type": "application/json", "Mcp-Session-Id": session}
        headers["Accept"] = "application/json, text/event-stream"
        call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": f"{server}_sample"}}
        alice._connection.request("POST", "/mcp", json.dumps(call), headers)
        stream = alice._connection.getresponse()
        assert _next(stream)["method"] == "sampling/createMessage"
        assert second.ask("DELETE", "/mcp", headers={"Mcp-Session-Id": session}).status == 204
        assert b"data: {" not in stream.read(), "nobody waits for an answer any more"
    wanted = ("audit", "query", "--client", "alice", "--event", "tool_call", "--status", "cancelled")
    assert f"{server}_sample" in {entry["tool_name"] for entry in door.json(*wanted)["entries"]}


@pytest.mark.parametrize("server", ["old", "new"])
def test_who_gives_up_what_it_was_asked_for_can_be_asked_again(door: Home, server: str) -> None:
    with _caller(door) as alice, _caller(door) as second:
        said = {"protocolVersion": "2025-11-25", "capabilities": {"sampling": {}}}
        session = alice.rpc("initialize", said).headers["mcp-session-id"]
        headers = {"Content-Type": "application/json", "Mcp-Session-Id": session}
        headers["Accept"] = "application/json, text/event-stream"
        for number in range(MAX_ASKED + 1):
            call = {
                "jsonrpc": "2.0",
                "id": number,
                "method": "tools/call",
                "params": {"name": f"{server}_sample"},
            }
            alice._connection.request("POST", "/mcp", json.dumps(call), headers)
            stream = alice._connection.getresponse()
            assert _next(stream)["method"] == "sampling/createMessage", "it is asked, not refused"
            no_more = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
            assert second.ask("POST", "/mcp", json.dumps(no_more), headers).status == 202
            assert b"data: {" not in stream.read()


@pytest.mark.parametrize("tool", ["sample", "roots"])
def test_a_legacy_client_without_a_session_cannot_be_asked(door: Home, tool: str) -> None:
    with _caller(door) as alice:
        refused = alice.call(f"new_{tool}")
        assert refused["error"]["code"] == -32600
        assert "open a session" in refused["error"]["message"]
        answered = alice.call(f"old_{tool}")
        assert _told(answered["result"])["answer"]["code"] == -32601, (
            "the server is told that nobody can be asked"
        )


def _next(stream: Any) -> Any:
    """The next message on a stream of events."""
    while True:
        line = stream.readline().decode()
        assert line, "the stream ended"
        if line.startswith("data: {"):
            return json.loads(line.removeprefix("data: "))
