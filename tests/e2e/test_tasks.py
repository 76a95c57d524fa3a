"""Tasks of upstreams, in each era: an id is good for the client that made the task, and for nobody else."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Caller, Home
from tests.modern import META, Modern, messages

SERVER = Path(__file__).parent.parent / "servers" / "tasks.py"
EXTENSION = "io.modelcontextprotocol/tasks"
RELATED = "io.modelcontextprotocol/related-task"
DECLARED = {f"{META}clientCapabilities": {"extensions": {EXTENSION: {}}}}
CONFIG = """
[roles]
user = ["tasks:use"]

[[upstreams]]
name = "old"
transport = "stdio"
command = ["{python}", "{server}", "legacy"]
prefix = "old_"

[[upstreams]]
name = "own"
transport = "stdio"
command = ["{python}", "{server}", "legacy"]
prefix = "own_"
sessions = "client"

[[upstreams]]
name = "new"
transport = "stdio"
command = ["{python}", "{server}", "modern"]
prefix = "new_"

[[tools]]
match = "*"
permissions = ["tasks:use"]
"""


def prepare(home: Home) -> None:
    home.configure(CONFIG.format(python=sys.executable, server=SERVER))
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


@pytest.fixture
def people(door: Home) -> Iterator[dict[str, Caller]]:
    made = {name: Caller(door, door.served[0], door.folder / "clients" / name) for name in ("alice", "bob")}
    yield made
    for one in made.values():
        one.close()


def _result(answer: Any) -> Any:
    assert answer.status == 200, answer
    return messages(answer)[-1]["result"]


def _error(answer: Any) -> tuple[int, int, str]:
    error = messages(answer)[-1]["error"]
    return answer.status, error["code"], error["message"]


UNKNOWN = (200, -32602, "Unknown task.")


def test_a_legacy_task_from_its_making_to_its_result(people: dict[str, Caller], door: Home) -> None:
    alice, bob = people["alice"], people["bob"]
    offered = _result(alice.rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}}))
    assert offered["capabilities"]["tasks"] == {"cancel": {}, "requests": {"tools": {"call": {}}}}
    made = alice.rpc("tools/call", {"name": "old_work", "arguments": {}, "task": {"ttl": 60_000}})
    assert [m.get("method") for m in messages(made)] == [None], "news of a task are not passed on"
    task = _result(made)["task"]
    assert task["status"] == "working"
    assert "task-" not in task["taskId"]
    mine = {"taskId": task["taskId"]}
    for path in ("/mcp", "/mcp/old"):
        state = _result(alice.rpc("tasks/get", mine, path=path))
        assert (state["taskId"], state["status"]) == (task["taskId"], "working")
    done = _result(alice.rpc("tasks/result", mine))
    assert done["content"][0]["text"].startswith("result of task-")
    assert done["_meta"][RELATED] == mine
    assert _result(alice.rpc("tasks/cancel", mine))["status"] == "cancelled"

    guessed = done["content"][0]["text"].removeprefix("result of ")
    for caller, path, task_id in (
        (bob, "/mcp", task["taskId"]),
        (bob, "/mcp/old", task["taskId"]),
        (alice, "/mcp/new", task["taskId"]),
        (alice, "/mcp", guessed),
        (bob, "/mcp", guessed),
        (alice, "/mcp", task["taskId"][:-4] + "AAA="),
        (alice, "/mcp", "x" * 9000),
        (alice, "/mcp", 7),
        (alice, "/mcp", None),
    ):
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            assert _error(caller.rpc(method, {"taskId": task_id}, path=path)) == UNKNOWN
    assert _error(bob.rpc("tasks/list"))[:2] == (200, -32601)
    with Caller(door, door.served[0]) as nobody:
        assert _error(nobody.rpc("tasks/get", mine)) == UNKNOWN

    entries = door.json("audit", "query", "--client", "alice", "--event", "task_result")["entries"]
    assert {(e["status"], e["tool_name"], e["upstream"]) for e in entries if e["status"] == "ok"} == {
        ("ok", "old_work", "old")
    }
    denied = door.json("audit", "query", "--client", "bob", "--event", "task_cancel")["entries"]
    assert {entry["status"] for entry in denied} == {"denied"}


def test_a_task_is_reached_only_while_its_tool_is(people: dict[str, Caller], door: Home) -> None:
    door.client("carol", "--role", "user")
    with Caller(door, door.served[0], door.folder / "clients" / "carol") as carol:
        made = _result(carol.rpc("tools/call", {"name": "old_work", "task": {}}))["task"]
        assert _result(carol.rpc("tasks/get", {"taskId": made["taskId"]}))["status"] == "working"
        door.cli("clients", "roles", "carol", "--no-roles")
        assert carol.tools() == []
        assert _error(carol.rpc("tasks/get", {"taskId": made["taskId"]})) == UNKNOWN


def test_what_a_legacy_task_asks_reaches_its_client_under_the_clients_id(
    people: dict[str, Caller], door: Home
) -> None:
    alice = people["alice"]
    capabilities = {"elicitation": {}, "tasks": {"list": {}, "requests": {"elicitation": {"create": {}}}}}
    opened = alice.rpc("initialize", {"protocolVersion": "2025-11-25", "capabilities": capabilities})
    session = opened.headers["mcp-session-id"]
    call = {"name": "own_work", "arguments": {"ask": True}, "task": {}}
    made = _result(alice.rpc("tools/call", call, session=session))["task"]
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Mcp-Session-Id": session,
    }
    wanted = {"jsonrpc": "2.0", "id": 9, "method": "tasks/result", "params": {"taskId": made["taskId"]}}
    connection = alice._connection
    connection.request("POST", "/mcp", json.dumps(wanted), headers)
    stream = connection.getresponse()
    question = _next(stream)
    assert question["method"] == "elicitation/create", "not tasks/list: a client's tasks are its own"
    assert question["params"]["_meta"][RELATED] == {"taskId": made["taskId"]}
    assert "task" not in question["params"]
    with Caller(door, door.served[0], door.folder / "clients" / "alice") as second:
        said = {"action": "decline", "_meta": {RELATED: {"taskId": made["taskId"]}}}
        reply = {"jsonrpc": "2.0", "id": question["id"], "result": said}
        assert second.ask("POST", "/mcp", json.dumps(reply), headers).status == 202
    done = _next(stream)["result"]
    answered = {"action": "decline", "_meta": {RELATED: "this one"}}
    assert json.loads(done["content"][0]["text"]) == {"answer": answered, "tasks/list": -32601}
    assert done["_meta"][RELATED] == {"taskId": made["taskId"]}
    stream.read()


def test_nobody_speaks_of_another_clients_task(people: dict[str, Caller]) -> None:
    alice, bob = people["alice"], people["bob"]
    made = _result(alice.rpc("tools/call", {"name": "own_work", "task": {}}))["task"]
    for related in ({"taskId": made["taskId"]}, {"taskId": "1"}, {}, None):
        meta = {"_meta": {RELATED: related}}
        assert _error(bob.rpc("tools/call", {"name": "own_work", "task": {}, **meta})) == UNKNOWN
        own = _result(bob.rpc("tools/call", {"name": "own_work", "task": {}}))["task"]
        assert _error(bob.rpc("tasks/get", {"taskId": own["taskId"], **meta})) == UNKNOWN
    about = {"_meta": {RELATED: {"taskId": made["taskId"]}}}
    assert _result(alice.rpc("tools/call", {"name": "own_work", "task": {}, **about}))["task"]


def test_a_modern_task_from_its_making_to_its_result(people: dict[str, Caller], door: Home) -> None:
    alice, bob = Modern(people["alice"]), Modern(people["bob"])
    assert alice.result("server/discover")["capabilities"]["extensions"] == {EXTENSION: {}}
    call = {"name": "new_work", "arguments": {"ask": True}}
    made = alice.result("tools/call", call, meta=DECLARED)
    assert (made["resultType"], made["status"]) == ("task", "working")
    assert "task-" not in made["taskId"]
    mine = {"taskId": made["taskId"]}
    asked = alice.result("tasks/get", mine, meta=DECLARED)
    assert (asked["resultType"], asked["taskId"], asked["status"]) == (
        "complete",
        made["taskId"],
        "input_required",
    )
    assert asked["inputRequests"]["which"]["method"] == "elicitation/create"
    answers = {"which": {"action": "accept", "content": {}}}
    assert alice.result("tasks/update", {**mine, "inputResponses": answers}, meta=DECLARED)
    done = alice.result("tasks/get", mine, meta=DECLARED)
    assert (done["status"], done["answers"]) == ("completed", answers)
    assert done["result"]["content"][0]["text"].startswith("result of task-")
    assert alice.result("tasks/cancel", mine, meta=DECLARED)["resultType"] == "complete"

    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        assert _error(bob.ask(method, mine, meta=DECLARED)) == UNKNOWN
        assert _error(alice.ask(method, {"taskId": "task-1"}, meta=DECLARED)) == UNKNOWN
        assert _error(alice.ask(method, mine))[:2] == (400, -32021)
        mismatch = alice.ask(method, mine, meta=DECLARED, headers={"Mcp-Name": "another"})
        assert _error(mismatch)[:2] == (400, -32020)
    for method in ("tasks/list", "tasks/result"):
        assert _error(alice.ask(method, mine, meta=DECLARED))[:2] == (404, -32601)
    news = alice.ask("subscriptions/listen", {"notifications": {"taskIds": [made["taskId"]]}})
    assert _error(news)[:2] == (400, -32021)


def test_tasks_are_not_translated_from_one_era_to_the_other(people: dict[str, Caller]) -> None:
    modern, legacy = Modern(people["alice"]), people["alice"]
    at_once = modern.result("tools/call", {"name": "old_work", "arguments": {}, "task": {}}, meta=DECLARED)
    assert at_once["content"][0]["text"] == "at once; told ['arguments', 'name']"
    at_once = _result(legacy.rpc("tools/call", {"name": "new_work", "arguments": {}, "task": {}}))
    assert at_once["content"][0]["text"] == "at once; told ['_meta', 'arguments', 'name']"
    made = _result(legacy.rpc("tools/call", {"name": "old_work", "task": {}}))["task"]
    other = modern.ask("tasks/get", {"taskId": made["taskId"]}, meta=DECLARED)
    assert _error(other) == UNKNOWN


def test_a_modern_client_that_knows_no_tasks_gets_none(people: dict[str, Caller]) -> None:
    result = Modern(people["alice"]).result("tools/call", {"name": "new_work", "arguments": {}})
    assert result["resultType"] == "complete"


def _next(stream: Any) -> Any:
    """The next message on a stream of events."""
    while True:
        line = stream.readline().decode()
        assert line, "the stream ended"
        if line.startswith("data: {"):
            return json.loads(line.removeprefix("data: "))
