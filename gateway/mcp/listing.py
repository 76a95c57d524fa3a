"""What can be listed, and how one upstream is asked for all of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from gateway.mcp.eras import Era, as_modern_request
from gateway.mcp.exchange import CAPABILITIES
from gateway.mcp.messages import Params, Reply
from gateway.mcp.upstream import GATEWAY, MODERN_GATEWAY, Upstream, UpstreamError
from gateway.model import Reason

MAX_PAGES: Final = 1000
MAX_LISTED: Final = 10_000
"""Entries of one list of one upstream."""
MAX_LISTED_BYTES: Final = 32 * 1024 * 1024


class Kind(StrEnum):
    """What can be listed."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    TEMPLATE = "template"


INSTRUCTIONS: Final = "instructions"
"""What a server says of its use, beside its lists."""


@dataclass(frozen=True, slots=True)
class Listing:
    """How a kind is listed on the wire."""

    method: str
    member: str
    key: str
    capability: str


LISTINGS: Final = {
    Kind.TOOL: Listing("tools/list", "tools", "name", "tools"),
    Kind.PROMPT: Listing("prompts/list", "prompts", "name", "prompts"),
    Kind.RESOURCE: Listing("resources/list", "resources", "uri", "resources"),
    Kind.TEMPLATE: Listing("resources/templates/list", "resourceTemplates", "uriTemplate", "resources"),
}


LISTS_OF: Final = {
    "notifications/tools/list_changed": (Kind.TOOL,),
    "notifications/prompts/list_changed": (Kind.PROMPT,),
    "notifications/resources/list_changed": (Kind.RESOURCE, Kind.TEMPLATE),
}
"""The lists of which each notification tells."""


async def list_all(upstream: Upstream, era: Era, kind: Kind, listing: Listing) -> list[object]:
    """Every page of one list. Raises UpstreamError."""
    key = MODERN_GATEWAY if era is Era.MODERN else GATEWAY
    found: list[object] = []
    cursor: str | None = None
    size, cursors = 0, set[str]()
    for _page in range(MAX_PAGES):
        params: Params = {} if cursor is None else {"cursor": cursor}
        if era is Era.MODERN:
            params = as_modern_request(params, CAPABILITIES)
        async with upstream.request(key, listing.method, params) as exchange:
            message = await exchange.receive()
            while not isinstance(message, Reply):
                message = await exchange.receive()
        if message.result is None:
            if kind is Kind.TEMPLATE:  # many servers have resources, and no method for templates
                return found
            raise UpstreamError(Reason.UPSTREAM_INVALID, f"It refused {listing.method}.")
        try:
            result = msgspec.json.decode(message.result)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            result = None
        items = result.get(listing.member) if isinstance(result, dict) else None
        if not isinstance(items, list):
            raise UpstreamError(
                Reason.UPSTREAM_INVALID, f"Its answer to {listing.method} has no {listing.member}."
            )
        found += items
        size += len(bytes(message.result))
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str):
            return found
        if cursor in cursors:
            raise UpstreamError(
                Reason.UPSTREAM_INVALID, f"Its answer to {listing.method} goes round in a circle."
            )
        cursors.add(cursor)
        if len(found) > MAX_LISTED or size > MAX_LISTED_BYTES:
            break
    raise UpstreamError(Reason.UPSTREAM_INVALID, f"Its answer to {listing.method} never ends.")
