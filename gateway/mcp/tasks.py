"""Tasks: calls whose result is fetched later (MCP 2025-11-25, basic/utilities/tasks; in the modern era the extension of SEP-2663).

An upstream sees one client, the gateway, and could not tell whose a task is. So a client is given another id than the
upstream's: a sealed one, which says of which upstream and tool the task is, and opens for that client alone. Nothing is
kept of tasks here: an id is good after a restart, and at every gateway with the same secret.

The two eras' tasks differ, and are not translated: a task is asked for in the era in which it was made.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.mcp.catalogue import Catalogue, Entry, Kind
from gateway.mcp.eras import Era
from gateway.mcp.messages import (
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    Params,
    Rejected,
    Reply,
    Request,
    RequestId,
    encode,
)
from gateway.mcp.negotiation import Metadata
from gateway.mcp.replies import error_reply
from gateway.mcp.results import members
from gateway.mcp.sealed import Seal
from gateway.mcp.sessions import Owner
from gateway.mcp.target import TASKS, UNKNOWN_TASK, Target

EXTENSION: Final = "io.modelcontextprotocol/tasks"
RELATED: Final = "io.modelcontextprotocol/related-task"
STATUS_NEWS: Final = frozenset({"notifications/tasks", "notifications/tasks/status"})
"""Not passed on: they do not say of which tool a task is. Clients may not rely on them, and poll."""


class Task(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed in the id of a task."""

    era: Era
    upstream: str
    tool: str
    """Its name at the upstream."""
    id: str
    """The upstream's."""


class Tasks:
    """Gives tasks their ids for clients, and reads them."""

    def __init__(self, seal: Seal, catalogue: Catalogue) -> None:
        self._ids = seal
        self._catalogue = catalogue

    def open(self, owner: Owner, task_id: object) -> Task | None:
        """The task of that id; None: it is none of ours, or not that client's."""
        return self._ids.open(task_id, Task, *owner)

    def target(self, task: Task, only: str | None, method: str) -> Target | None:
        """The tool of that task, as it is called at that place; None: there is none such there."""
        if task.upstream not in self._catalogue or only not in {None, task.upstream}:
            return None
        name = task.tool if only is not None else self._catalogue.prefixed(task.tool, task.upstream)
        return Target(Kind.TOOL, name, TASKS[method])

    def reply(self, owner: Owner, era: Era, entry: Entry, reply: Reply) -> Reply:
        """An upstream's reply, with the client's ids of tasks."""
        if entry.kind is not Kind.TOOL or reply.result is None:
            return reply
        try:
            result = members(bytes(reply.result), "taskId")
            if result is None:
                return reply
            task = msgspec.json.decode(result.get("task", b"{}"))
            meta = msgspec.json.decode(result.get("_meta", b"{}"))
            task_id = msgspec.json.decode(result.get("taskId", b"null"))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return reply
        renamed: dict[str, Any] = {}
        if isinstance(task_id, str):
            renamed["taskId"] = self._seal(owner, era, entry, task_id)
        if isinstance(task, dict) and isinstance(task.get("taskId"), str):
            renamed["task"] = {**task, "taskId": self._seal(owner, era, entry, task["taskId"])}
        if isinstance(meta, dict) and RELATED in meta:
            renamed["_meta"] = self._related(owner, era, entry, meta)
        return Reply(reply.id, result=msgspec.Raw(encode({**result, **renamed}))) if renamed else reply

    def params(self, owner: Owner, era: Era, entry: Entry, params: Params) -> Params:
        """The parameters of what an upstream sends meanwhile, with the client's ids of tasks."""
        meta = params.get("_meta")
        if entry.kind is not Kind.TOOL or not isinstance(meta, dict) or RELATED not in meta:
            return params
        return {**params, "_meta": self._related(owner, era, entry, meta)}

    def opened(self, owner: Owner, era: Era, entry: Entry, params: Params) -> Params | None:
        """What a client sends, with the upstream's id of the task that it is about; None: that is no such task."""
        meta = params.get("_meta")
        if not isinstance(meta, dict) or RELATED not in meta:
            return params
        related = meta[RELATED]
        task = self.open(owner, related.get("taskId")) if isinstance(related, dict) else None
        if task is None or (task.era, task.upstream) != (era, entry.upstream):
            return None
        return {**params, "_meta": {**meta, RELATED: {**related, "taskId": task.id}}}

    def answer(self, owner: Owner, era: Era, entry: Entry, reply: Reply) -> Reply:
        """What a client answers an upstream, with that one's ids of tasks."""
        if reply.result is None or RELATED.encode() not in bytes(reply.result):
            return reply
        result = msgspec.json.decode(reply.result)
        opened = self.opened(owner, era, entry, result) if isinstance(result, dict) else result
        if opened is None:
            return error_reply(INVALID_PARAMS, UNKNOWN_TASK)
        return Reply(reply.id, result=msgspec.Raw(encode(opened)))

    def _related(self, owner: Owner, era: Era, entry: Entry, meta: dict[str, Any]) -> dict[str, Any]:
        related = meta[RELATED]
        if not isinstance(related, dict) or not isinstance(related.get("taskId"), str):
            return meta
        ours = self._seal(owner, era, entry, related["taskId"])
        return {**meta, RELATED: {**related, "taskId": ours}}

    def _seal(self, owner: Owner, era: Era, entry: Entry, task_id: str) -> str:
        return self._ids.close(Task(era, entry.upstream, entry.original, task_id), *owner)


def asks_of_tasks(request: Request) -> bool:
    """Whether a server asks of the tasks that a client runs for servers: each server would see those of the others."""
    return request.method.startswith("tasks/")


def without_task(params: Params) -> Params:
    """What a server asks of a client, to be answered at once."""
    return {key: value for key, value in params.items() if key != "task"}


def require_extension(metadata: Metadata | None, message_id: RequestId) -> None:
    """Whether a modern client has said that it knows of tasks. Raises Rejected where it has not."""
    if metadata is None:
        return
    extensions = metadata.capabilities.get("extensions")
    if not isinstance(extensions, dict) or EXTENSION not in extensions:
        detail = f"This is for clients that declare the extension {EXTENSION}."
        required: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise Rejected(MISSING_CAPABILITY, detail, message_id, required)


def task_capabilities(era: Era, offered: list[dict[str, Any]]) -> dict[str, Any]:
    """What the gateway can do with tasks in that era, where its upstreams of that era can do as much as ``offered``."""
    if era is Era.MODERN:
        extended = any(EXTENSION in _inner(capabilities, "extensions") for capabilities in offered)
        return {"extensions": {EXTENSION: {}}} if extended else {}
    able = [_inner(capabilities, "tasks") for capabilities in offered]
    able = [tasks for tasks in able if "call" in _inner(_inner(tasks, "requests"), "tools")]
    if not able:
        return {}
    cancel: dict[str, Any] = {"cancel": {}} if any("cancel" in tasks for tasks in able) else {}
    return {"tasks": {**cancel, "requests": {"tools": {"call": {}}}}}


def _inner(value: dict[str, Any], name: str) -> dict[str, Any]:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}
