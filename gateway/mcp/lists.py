"""The lists as each caller sees them, ready to be sent."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.mcp.catalogue import LISTINGS, Catalogue, Kind
from gateway.mcp.eras import NOT_KEPT, Era, own_result
from gateway.mcp.messages import encode
from gateway.model import ClientContext
from gateway.remembered import Remembered

MAX_LISTS: Final = 512
"""How many different lists are remembered."""


class Lists:
    """Makes the result of each list request, once for all callers who may have the same."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._made: Remembered[tuple[object, ...], bytes] = Remembered(MAX_LISTS)

    def visible(self, kind: Kind, only: str | None, context: ClientContext, era: Era = Era.LEGACY) -> bytes:
        """What the caller may have of that kind, at one upstream (``only``) or at all: JSON."""
        key = (kind, only, era, self._catalogue.generation, context.permissions.grants)
        known = self._made.get(key)
        if known is not None:
            return known
        entries = self._catalogue.visible(kind, only, context)
        items = b",".join(bytes(entry.definition if only is None else entry.unprefixed) for entry in entries)
        result = b'{"%b":[%b]}' % (LISTINGS[kind].member.encode(), items)
        if era is Era.MODERN:
            result = encode(own_result(msgspec.json.decode(result, type=dict[str, msgspec.Raw]) | NOT_KEPT))
        self._made.put(key, result)
        return result
