"""Lists and calls of tools, one request at a time: MCP 2025-11-25 without a session."""

from __future__ import annotations

import itertools
from typing import Any, Final

from gateway.client.answers import json_object, messages
from gateway.client.errors import ClientError
from gateway.client.session import Session, told
from gateway.mcp.messages import LEGACY_VERSIONS, Params, encode_request

ENDPOINT: Final = "/mcp"
_HEADERS: Final = (
    ("Content-Type", "application/json"),
    ("Accept", "application/json, text/event-stream"),
    ("MCP-Protocol-Version", LEGACY_VERSIONS[0]),
)


class Tools:
    """What a session's user may call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids = itertools.count(1)

    async def list(self) -> list[dict[str, Any]]:
        """Every tool, as the gateway describes it. Raises ClientError."""
        tools: list[dict[str, Any]] = []
        params: Params = {}
        while True:
            page = await self._ask("tools/list", params)
            tools += [tool for tool in page.get("tools", []) if isinstance(tool, dict)]
            if not isinstance(page.get("nextCursor"), str):
                return tools
            params = {"cursor": page["nextCursor"]}

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the tool answers. Raises ClientError."""
        return await self._ask("tools/call", {"name": name, "arguments": arguments})

    async def _ask(self, method: str, params: Params) -> dict[str, Any]:
        message = encode_request(next(self._ids), method, params)
        response = await self._session.send("POST", ENDPOINT, _HEADERS, message)
        async for line in messages(response):
            reply = json_object(line)
            if "method" in reply:  # what is told on the way
                continue
            response.drain()
            if isinstance(reply.get("result"), dict):
                result: dict[str, Any] = reply["result"]
                return result
            raise ClientError(f"{self._session.origin}: {told(reply)}")
        raise ClientError(f"{self._session.origin} ended its answer without a reply; try again")
