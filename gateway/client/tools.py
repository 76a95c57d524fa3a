"""Lists and calls of tools, one request at a time: MCP 2025-11-25 without a session."""

from __future__ import annotations

import itertools
from typing import Any, Final

import msgspec

from gateway.client.answers import printable, reply_to
from gateway.client.errors import ClientError
from gateway.client.session import Session
from gateway.mcp.messages import LEGACY_VERSIONS, Params, encode_request

ENDPOINT: Final = "/mcp"
_HEADERS: Final = (
    ("Content-Type", "application/json"),
    ("Accept", "application/json, text/event-stream"),
    ("MCP-Protocol-Version", LEGACY_VERSIONS[0]),
)


class _Page(msgspec.Struct):
    """A part of the list."""

    tools: list[dict[str, Any]]
    nextCursor: str | None = None  # noqa: N815 - as MCP spells it


class _Answered(msgspec.Struct):
    """What a tool answers."""

    content: list[dict[str, Any]] = []
    isError: bool = False  # noqa: N815


class Tools:
    """What a session's user may call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids = itertools.count(1)

    async def list(self) -> list[dict[str, Any]]:
        """Every tool, as the gateway describes it. Raises ClientError."""
        tools: list[dict[str, Any]] = []
        params: Params = {}
        async with self._session.answering():
            while True:
                page = self._session.shaped(await self._ask("tools/list", params), _Page)
                tools += page.tools
                if page.nextCursor is None:
                    return tools
                params = {"cursor": page.nextCursor}

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the tool answers. Raises ClientError."""
        result = await self._ask("tools/call", {"name": name, "arguments": arguments})
        self._session.shaped(result, _Answered)
        return result

    async def _ask(self, method: str, params: Params) -> dict[str, Any]:
        request_id = next(self._ids)
        message = encode_request(request_id, method, params)
        response = await self._session.send("POST", ENDPOINT, _HEADERS, message)
        reply = await reply_to(request_id, response, _nobody)
        if reply.error is not None:
            raise ClientError(f"{self._session.origin}: {printable(reply.error.message)}")
        return reply.result


async def _nobody(_line: bytes) -> None:
    """What is told on the way is for nobody."""
