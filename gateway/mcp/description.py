"""What ``/openapi.json`` says of the MCP endpoint. What the messages mean is MCP's to say."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.description import Description, Refusals
from gateway.mcp.messages import LEGACY_VERSIONS, MODERN_VERSIONS

_SessionId = Annotated[str, Meta(pattern=r"^[!-~]+$", max_length=128)]
_Version = Annotated[
    str, Meta(extra_json_schema={"enum": [*MODERN_VERSIONS, *LEGACY_VERSIONS]}, max_length=32)
]


class JsonRpcMessage(msgspec.Struct, frozen=True, kw_only=True):
    """JSON-RPC 2.0 section 4: a request, or without ``id`` a notification. Replies (section 5) are taken, too."""

    jsonrpc: Literal["2.0"]
    id: int | str | msgspec.UnsetType = msgspec.UNSET
    method: str
    params: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class JsonRpcReply(msgspec.Struct, frozen=True, kw_only=True):
    """JSON-RPC 2.0 section 5: ``result`` or ``error``."""

    jsonrpc: Literal["2.0"]
    id: int | str | None
    result: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    error: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class _MessageHeaders(msgspec.Struct, frozen=True, kw_only=True):
    version: _Version | msgspec.UnsetType = msgspec.field(name="MCP-Protocol-Version", default=msgspec.UNSET)
    session_id: _SessionId | msgspec.UnsetType = msgspec.field(name="Mcp-Session-Id", default=msgspec.UNSET)


class _SessionHeaders(msgspec.Struct, frozen=True, kw_only=True):
    session_id: _SessionId = msgspec.field(name="Mcp-Session-Id")


_PARAMETERS: Final = {"upstream": "one upstream alone, with its own names"}

POST: Final = Description(
    "A message from an MCP client.",
    {200: JsonRpcReply, 202: None},
    body=JsonRpcMessage,
    headers=_MessageHeaders,
    refusals=(404, 406),
    form_of_refusals=Refusals.MCP,
    streams=True,
    template="{upstream}",
    parameters=_PARAMETERS,
)
GET: Final = Description(
    "The session's stream for what belongs to no request.",
    {200: None},
    headers=_SessionHeaders,
    refusals=(404, 406),
    streams=True,
    template="{upstream}",
    parameters=_PARAMETERS,
)
DELETE: Final = Description(
    "Ends the session.",
    {204: None},
    headers=_SessionHeaders,
    refusals=(404,),
    template="{upstream}",
    parameters=_PARAMETERS,
)
