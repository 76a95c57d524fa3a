"""The lists as each caller sees them, ready to be sent."""

from __future__ import annotations

from typing import Final

from gateway.mcp.catalogue import LISTINGS, Catalogue, Kind
from gateway.model import ClientContext
from gateway.remembered import Remembered

MAX_LISTS: Final = 512
"""How many different lists are remembered."""


class Lists:
    """Makes the result of each list request, once for all callers who may have the same."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._made: Remembered[tuple[object, ...], bytes] = Remembered(MAX_LISTS)

    def visible(self, kind: Kind, scope: str | None, context: ClientContext) -> bytes:
        """What the caller may have of that kind, at one upstream (``scope``) or at all: JSON."""
        key = (kind, scope, self._catalogue.generation, context.permissions.grants)
        known = self._made.get(key)
        if known is not None:
            return known
        entries = self._catalogue.visible(kind, scope, context)
        items = b",".join(bytes(entry.definition if scope is None else entry.unprefixed) for entry in entries)
        result = b'{"%b":[%b]}' % (LISTINGS[kind].member.encode(), items)
        self._made.put(key, result)
        return result
