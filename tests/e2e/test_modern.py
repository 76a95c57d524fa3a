"""The 2026-07-28 revision on the wire: what each request must say, and how it is answered."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.everything_rules import EVERYTHING_RULES
from tests.modern import META, VERSION, Modern, messages

CONFIG = """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = "far_"
timeout = "10s"

[[tools]]
match = "far_echo"
access = "public"

[[resources]]
match = "everything://item/caf%C3%A9*"
permissions = ["all:secret"]
"""


def prepare(home: Any) -> None:
    home.configure("[roles]\nuser = ['all:use']")
    home.client("alice", "--role", "user")
    home.certificate("root")


@pytest.fixture
def upstream(start_script: Callable[..., Any]) -> Any:
    return start_script("tests/servers/everything.py", "http")


@pytest.fixture
def door(home: Any, upstream: Any) -> Any:
    home.configure(CONFIG.format(url=upstream.url) + EVERYTHING_RULES)
    return home


@pytest.fixture
def alice(door: Any, caller: Any) -> Modern:
    return Modern(caller(door.serve(), door.folder / "clients" / "alice"))


def _error(answer: Any) -> tuple[int, int]:
    return answer.status, answer.json["error"]["code"]


def test_discovery(alice: Modern) -> None:
    result = alice.result("server/discover")
    assert result["supportedVersions"][0] == VERSION
    assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
    assert set(result["capabilities"]) >= {"tools", "prompts", "resources"}
    assert result["_meta"][f"{META}serverInfo"]["name"] == "ostiary"


def test_lists_are_filtered_and_private(alice: Modern, door: Any, caller: Any) -> None:
    for method, member, some in (
        ("tools/list", "tools", {"far_echo", "far_count"}),
        ("prompts/list", "prompts", {"far_greet"}),
        ("resources/list", "resources", {"everything://static"}),
        ("resources/templates/list", "resourceTemplates", {"everything://item/{name}"}),
    ):
        result = alice.result(method)
        assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
        names = {one.get("uriTemplate") or one.get("uri") or one["name"] for one in result[member]}
        assert names >= some
        assert not names & {"far_fail", "everything://secret"}
    tools = {tool["name"]: tool for tool in alice.result("tools/list")["tools"]}
    assert tools["far_echo"]["_meta"]["ostiary/permissions"] == []
    assert tools["far_count"]["_meta"]["ostiary/permissions"] == ["all:use"]
    nobody = Modern(caller(door.served[0]))
    assert [tool["name"] for tool in nobody.result("tools/list")["tools"]] == ["far_echo"]


def test_each_kind_is_forwarded(alice: Modern) -> None:
    called = alice.result("tools/call", {"name": "far_echo", "arguments": {"text": "hi"}})
    assert called["resultType"] == "complete"
    assert called["content"][0]["text"] == "hi"
    assert alice.result("prompts/get", {"name": "far_greet", "arguments": {"name": "Ada"}})["messages"]
    read = alice.result("resources/read", {"uri": "everything://item/7"})
    assert read["contents"][0]["text"] == "item 7"
    assert (read["ttlMs"], read["cacheScope"]) == (0, "private")


def test_progress_comes_on_the_requests_own_stream(alice: Modern) -> None:
    params = {"name": "far_count", "arguments": {"steps": 3, "seconds": 0.1}}
    answer = alice.ask("tools/call", params, meta={"progressToken": "mine"})
    *progress, last = messages(answer)
    assert answer.headers["x-accel-buffering"] == "no"
    assert [one["params"]["progress"] for one in progress] == [1, 2, 3]
    assert {one["params"]["progressToken"] for one in progress} == {"mine"}
    assert last["result"]["resultType"] == "complete"


@pytest.mark.parametrize(
    "headers",
    [
        {"MCP-Protocol-Version": None},
        {"MCP-Protocol-Version": "2025-11-25"},
        {"Mcp-Method": None},
        {"Mcp-Method": "tools/list"},
        {"Mcp-Method": "=?base64?dG9vbHMvY2FsbA==?="},
        {"MCP-Protocol-Version": "=?base64?MjAyNi0wNy0yOA==?="},
        {"Mcp-Name": None},
        {"Mcp-Name": "far_fail"},
        {"Mcp-Name": "FAR_ECHO"},
        {"Mcp-Name": "=?base64?ZmFyX2VjaG8?="},
        {"Mcp-Name": "=?base64?!!!?="},
    ],
)
def test_headers_that_do_not_say_what_the_body_says(alice: Modern, headers: dict[str, str | None]) -> None:
    answer = alice.ask("tools/call", {"name": "far_echo", "arguments": {"text": "x"}}, headers=headers)
    assert _error(answer) == (400, -32020)


def test_a_legacy_request_whose_headers_say_something_else(alice: Modern) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "far_echo"}}
    body, fields = json.dumps(call), {"Content-Type": "application/json"}
    for wrong in ({"Mcp-Method": "tools/list"}, {"Mcp-Method": "tools/call", "Mcp-Name": "harmless"}):
        for version in ({}, {"MCP-Protocol-Version": "2025-11-25"}):
            answer = alice.caller.ask("POST", "/mcp", body, {**fields, **version, **wrong})
            assert _error(answer) == (400, -32020)


def test_a_name_may_be_encoded(alice: Modern) -> None:
    encoded = f"=?base64?{base64.b64encode(b'far_echo').decode()}?="
    params = {"name": "far_echo", "arguments": {"text": "x"}}
    assert alice.result("tools/call", params, headers={"Mcp-Name": encoded})["content"][0]["text"] == "x"


def test_what_a_request_must_say_of_itself(alice: Modern) -> None:
    for missing in ("protocolVersion", "clientCapabilities"):
        assert _error(alice.ask("tools/list", meta={f"{META}{missing}": None})) == (400, -32602)
    for level in ("bogus", "INFO", 7, ["info"]):
        assert _error(alice.ask("tools/list", meta={f"{META}logLevel": level})) == (400, -32602)
    assert alice.ask("tools/list", meta={f"{META}logLevel": "info"}).status == 200
    wrong = alice.ask(
        "tools/list",
        meta={f"{META}protocolVersion": "1900-01-01"},
        headers={"MCP-Protocol-Version": "1900-01-01"},
    )
    assert _error(wrong) == (400, -32022)
    assert wrong.json["error"]["data"]["requested"] == "1900-01-01"
    assert VERSION in wrong.json["error"]["data"]["supported"]


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/list", "no/such"]
)
def test_methods_that_the_era_has_not(alice: Modern, method: str) -> None:
    assert _error(alice.ask(method)) == (404, -32601)


def test_a_legacy_handshake_under_a_modern_header(alice: Modern) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    headers = {"Content-Type": "application/json", "MCP-Protocol-Version": VERSION}
    assert _error(alice.caller.ask("POST", "/mcp", json.dumps(body), headers)) == (404, -32601)


def test_what_is_not_there_and_what_is_hidden(alice: Modern) -> None:
    for name in ("far_fail", "far_nothing"):
        answer = alice.ask("tools/call", {"name": name})
        assert answer.json["error"]["code"] == -32602
        assert answer.json["error"]["message"] == f"Unknown tool: {name}"
    hidden = ("everything://item/caf%C3%A9", "everything://item/caf%c3%a9", "everything://item/caf%C3%A9%21")
    for uri in ("everything://secret", "other://x", *hidden):
        error = alice.ask("resources/read", {"uri": uri}).json["error"]
        assert (error["code"], error["data"]["uri"]) == (-32602, uri)


def test_there_are_no_sessions_notifications_are_taken_and_responses_refused(alice: Modern) -> None:
    answer = alice.ask("tools/list", headers={"Mcp-Session-Id": "made-up"})
    assert answer.status == 200
    assert "mcp-session-id" not in answer.headers
    headers = {"Content-Type": "application/json", "MCP-Protocol-Version": VERSION}
    told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    assert alice.caller.ask("POST", "/mcp", json.dumps(told), headers).status == 202
    reply = {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert alice.caller.ask("POST", "/mcp", json.dumps(reply), headers).status == 400


def test_the_audit_says_how_each_call_went(alice: Modern, door: Any, caller: Any) -> None:
    arguments = {"text": "ü", "a": 1}
    alice.ask("tools/call", {"name": "far_echo", "arguments": arguments})
    alice.ask("tools/call", {"name": "far_fail"})
    legacy = caller(door.served[0], door.folder / "clients" / "alice")
    legacy.call("far_echo", {"text": "x"})
    root = caller(door.served[0], door.folder / "clients" / "root")
    last, denied, first = root.ask("GET", "/audit?event=tool_call").json["entries"]
    canonical = json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert first["arguments_digest"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert (first["era"], first["upstream"], first["rule"], first["status"]) == (
        "modern",
        "far",
        "far_echo",
        "ok",
    )
    assert first["request_bytes"] > 100
    assert first["response_bytes"] > 50
    assert (denied["status"], denied["rule"], denied["era"]) == ("denied", "*_fail", "modern")
    assert (last["era"], last["status"]) == ("legacy", "ok")
