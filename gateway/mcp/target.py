"""What a request is after: the one reading of it that every decision goes by. Sans I/O."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.mcp.listing import Kind
from gateway.mcp.messages import INVALID_PARAMS, Params, Rejected, Request


class Target(msgspec.Struct, frozen=True):
    """A tool, prompt, resource or template, as the client names it."""

    kind: Kind
    """TEMPLATE: what a completion refers to by its URI, be it a template or a resource."""
    name: str
    event: str
    """What the audit calls such a request."""

    @property
    def unknown(self) -> str:
        """What the client is told where there is none, or none that it may have."""
        if self.event in TASKS.values():
            return UNKNOWN_TASK
        if self.event == "completion":
            return f"Unknown reference: {self.name}"
        return f"Unknown {self.kind}: {self.name}"

    def params_for(self, params: Params, original: str) -> Params:
        """The parameters with the name that the upstream knows."""
        if original == self.name or self.kind not in {Kind.TOOL, Kind.PROMPT}:
            return params
        if self.event == "completion":
            return {**params, "ref": {**params["ref"], "name": original}}
        return {**params, "name": original}


SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"
SUBSCRIBING: Final = frozenset({SUBSCRIBE, UNSUBSCRIBE})
"""The methods by which a legacy client says of which resources it wants to hear."""
METHODS: Final = {
    "tools/call": (Kind.TOOL, "name", "tool_call"),
    "prompts/get": (Kind.PROMPT, "name", "prompt_get"),
    "resources/read": (Kind.RESOURCE, "uri", "resource_read"),
    SUBSCRIBE: (Kind.RESOURCE, "uri", "resource_subscribe"),
    UNSUBSCRIBE: (Kind.RESOURCE, "uri", "resource_unsubscribe"),
}
"""The methods that name what they are after: its kind, the parameter, the event in the audit."""
TASKS: Final = {
    "tasks/get": "task_get",
    "tasks/result": "task_result",
    "tasks/update": "task_update",
    "tasks/cancel": "task_cancel",
}
"""The methods that name a task, and with it a tool; the event in the audit."""
UNKNOWN_TASK: Final = "Unknown task."
COMPLETE: Final = "completion/complete"
_REFERENCES: Final = {"ref/prompt": (Kind.PROMPT, "name"), "ref/resource": (Kind.TEMPLATE, "uri")}


def target_of(message: Request) -> Target:
    """What the request is after. Raises Rejected where it does not say."""
    if message.method == COMPLETE:
        reference = message.params.get("ref")
        reference = reference if isinstance(reference, dict) else {}
        said = reference.get("type")
        kind, member = _REFERENCES.get(said if isinstance(said, str) else "", (Kind.PROMPT, ""))
        name, event = reference.get(member), "completion"
        wrong = "ref must name a prompt or a resource."
    else:
        kind, member, event = METHODS[message.method]
        name, wrong = message.params.get(member), f"{member} must be a string."
    if not isinstance(name, str):
        raise Rejected(INVALID_PARAMS, wrong, message.id)
    return Target(kind, name, event)
