"""Lists and calls of tools, one request at a time: MCP 2025-11-25 without a session."""

from __future__ import annotations

import itertools
from typing import Any, Final

import msgspec

from gateway.client.errors import ClientError
from gateway.client.session import MAX_ANSWER, Session, json_object
from gateway.mcp.messages import LEGACY_VERSIONS, Params, Reply, encode_request, parse_upstream_message
from gateway.mcp.messages import Rejected as NotAMessage
from gateway.mcp.sse import EventParser, EventTooLargeError
from gateway.outbound import OutboundError, Response

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
        try:
            reply = await _reply(response)
        except (OutboundError, EventTooLargeError, NotAMessage):
            raise ClientError(f"{self._session.origin} broke off its answer; try again") from None
        if reply.result is not None:
            return json_object(bytes(reply.result))
        error = json_object(bytes(reply.error or b"{}"))
        raise ClientError(f"{self._session.origin}: {error.get('message', 'refused')}")


async def _reply(response: Response) -> Reply:
    """The reply in an answer, whatever form that has. Raises OutboundError, EventTooLargeError and Rejected."""
    kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        parser = EventParser()
        while piece := await response.chunk():
            for event in parser.feed(piece):
                message = parse_upstream_message(event.data)
                if isinstance(message, Reply):
                    response.drain()
                    return message
        raise NotAMessage(0, "the stream ended")
    raw = await response.read(MAX_ANSWER)
    document = json_object(raw)
    if "jsonrpc" not in document:
        told = str(document.get("detail") or f"status {response.status}")
        return Reply(None, error=msgspec.Raw(msgspec.json.encode({"message": told})))
    message = parse_upstream_message(raw)
    if not isinstance(message, Reply):
        raise NotAMessage(0, "not a reply")
    return message
