"""A caller of the 2026-07-28 revision, by hand."""

from __future__ import annotations

import json
from typing import Any

VERSION = "2026-07-28"
META = "io.modelcontextprotocol/"


class Modern:
    """Speaks the modern era, correctly unless told otherwise."""

    def __init__(self, caller: Any, path: str = "/mcp") -> None:
        self.caller = caller
        self.path = path

    def ask(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        meta: dict[str, Any] | None = None,
        headers: dict[str, str | None] | None = None,
    ) -> Any:
        """POST a request; a header of None is left out."""
        full_meta = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}} | (meta or {})
        full_meta = {key: value for key, value in full_meta.items() if value is not None}
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**(params or {}), "_meta": full_meta}}
        fields: dict[str, str | None] = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": method,
        }
        named = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}.get(method)
        named = "taskId" if method.startswith("tasks/") else named
        if named and params and named in params:
            fields["Mcp-Name"] = params[named]
        fields |= headers or {}
        sent = {name: value for name, value in fields.items() if value is not None}
        return self.caller.ask("POST", self.path, json.dumps(body), sent)

    def result(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        answer = self.ask(method, params, **more)
        assert answer.status == 200, answer
        return messages(answer)[-1]["result"]


def messages(answer: Any) -> list[Any]:
    """The messages of an answer, be it JSON or a stream."""
    if answer.headers["content-type"] == "application/json":
        return [answer.json]
    lines = answer.body.decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
