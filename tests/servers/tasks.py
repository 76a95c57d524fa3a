"""A stdio server whose tool ``work`` becomes a task: ``tasks.py legacy`` (2025-11-25) or ``tasks.py modern`` (2026-07-28).

Its tasks' ids can be guessed, and it gives any task to anybody: it knows one client only.
"""

from __future__ import annotations

import json
import sys
from typing import Any

EXTENSION = "io.modelcontextprotocol/tasks"
RELATED = "io.modelcontextprotocol/related-task"
MODERN = sys.argv[1] == "modern"
TIMES = {"createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:00Z"}
TIMES |= {"ttlMs": 60_000, "pollIntervalMs": 10} if MODERN else {"ttl": 60_000, "pollInterval": 10}
tasks: dict[str, dict[str, Any]] = {}


def send(**message: Any) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


class RefusedError(Exception):
    """Its arguments: code and message."""


def find(params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    task_id = params.get("taskId")
    if task_id not in tasks:
        raise RefusedError(-32602, f"There is no task {task_id}.")
    return task_id, tasks[task_id]


def result_of(task_id: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": f"result of {task_id}"}]}


def call(params: dict[str, Any]) -> dict[str, Any]:
    declared = params.get("_meta", {}).get("io.modelcontextprotocol/clientCapabilities", {})
    wanted = EXTENSION in declared.get("extensions", {}) if MODERN else "task" in params
    if not wanted:
        return {"content": [{"type": "text", "text": f"at once; told {sorted(params)}"}]}
    task_id = f"task-{len(tasks) + 1}"
    tasks[task_id] = {"status": "input_required" if params.get("arguments", {}).get("ask") else "working"}
    task = {"taskId": task_id, "status": "working", **TIMES}
    send(method="notifications/tasks/status", params=task)
    return {"resultType": "task", **task} if MODERN else {"task": task}


def state_of(task_id: str, task: dict[str, Any]) -> dict[str, Any]:
    state = {"taskId": task_id, **task, **TIMES}
    if not MODERN:
        return state
    if task["status"] == "input_required":
        asked = {"method": "elicitation/create", "params": {"message": "Which?", "requestedSchema": {}}}
        state["inputRequests"] = {"which": asked}
    if task["status"] == "completed":
        state["result"] = result_of(task_id)
    return state


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    params = message.get("params", {})
    match message["method"], MODERN:
        case "server/discover", True:
            capabilities = {"tools": {}, "extensions": {EXTENSION: {}}}
            return {"supportedVersions": ["2026-07-28"], "capabilities": capabilities}
        case "initialize", False:
            offered = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
            return {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}, "tasks": offered},
                "serverInfo": {"name": "tasks", "version": "1"},
            }
        case "tools/list", _:
            support = {} if MODERN else {"execution": {"taskSupport": "optional"}}
            return {"tools": [{"name": "work", "inputSchema": {"type": "object"}, **support}]}
        case "tools/call", _:
            return call(params)
        case "tasks/get", _:
            task_id, task = find(params)
            return state_of(task_id, task)
        case "tasks/cancel", _:
            task_id, task = find(params)
            task["status"] = "cancelled"
            return {} if MODERN else state_of(task_id, task)
        case "tasks/update", True:
            _, task = find(params)
            task |= {"status": "completed", "answers": params["inputResponses"]}
            return {}
        case "tasks/result", False:
            task_id, task = find(params)
            meta = {RELATED: {"taskId": task_id}}
            if task["status"] == "input_required":
                task["waiting"] = message["id"]
                send(id="tasks", method="tasks/list", params={})
                asked = {"message": "Which?", "requestedSchema": {"type": "object"}, "_meta": meta}
                send(id=task_id, method="elicitation/create", params={**asked, "task": {"ttl": 1}})
                return None
            task["status"] = "completed"
            return {**result_of(task_id), "_meta": meta}
    raise RefusedError(-32601, "Unknown method.")


def heard(reply: dict[str, Any]) -> None:
    """What the client answers: the task goes on."""
    task = tasks.get(reply["id"])
    if task is None:
        tasks["refused"] = {"status": "working", "error": reply.get("error", {}).get("code")}
        return
    task["status"] = "completed"
    answered = reply.get("result", {})
    if answered.get("_meta", {}).get(RELATED) == {"taskId": reply["id"]}:
        answered["_meta"][RELATED] = "this one"
    seen = {"answer": answered or reply, "tasks/list": tasks["refused"]["error"]}
    text = {"content": [{"type": "text", "text": json.dumps(seen)}]}
    send(id=task["waiting"], result={**text, "_meta": {RELATED: {"taskId": reply["id"]}}})


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "method" not in message:
            heard(message)
        elif "id" in message:
            try:
                result = answer(message)
            except RefusedError as error:
                send(id=message["id"], error={"code": error.args[0], "message": error.args[1]})
            else:
                if result is not None:
                    send(id=message["id"], result=result)


if __name__ == "__main__":
    main()
