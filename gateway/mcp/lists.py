"""The lists as each caller sees them, ready to be sent, in pages (MCP, server/utilities/pagination).

A cursor says after which entry to go on. It is sealed, and good for the client, the list and the place for which it was
given; where that entry is listed no more, the client begins anew: it would miss something, or see it twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.mcp.catalogue import LISTINGS, Catalogue, Entry, Kind
from gateway.mcp.eras import NOT_KEPT, Era, own_result
from gateway.mcp.messages import encode
from gateway.mcp.sealed import Seal
from gateway.mcp.sessions import owner_of
from gateway.model import ClientContext
from gateway.remembered import Remembered

PAGE: Final = 1000
"""Entries of one page."""
PAGE_BYTES: Final = 4 * 1024 * 1024
"""What a page's definitions come to, at most (but for one that is larger)."""
MAX_LISTS: Final = 512
"""How many different lists are remembered."""


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed in a cursor: the last entry that was listed."""

    upstream: str
    original: str


@dataclass(frozen=True, slots=True)
class _Whole:
    """A list from end to end."""

    result: bytes
    entries: tuple[Entry, ...]
    one_page: bool


class Lists:
    """Makes the result of each list request, once for all callers who may have the same."""

    def __init__(self, catalogue: Catalogue, seal: Seal) -> None:
        self._catalogue = catalogue
        self._seal = seal
        self._made: Remembered[tuple[object, ...], _Whole] = Remembered(MAX_LISTS)

    def visible(self, kind: Kind, only: str | None, context: ClientContext, era: Era) -> bytes:
        """All that the caller may have of that kind, at one upstream (``only``) or at all: JSON."""
        return self._whole(kind, only, context, era).result

    def page(
        self, kind: Kind, only: str | None, context: ClientContext, era: Era, cursor: object
    ) -> bytes | None:
        """The first page of it (``cursor`` None), or the one that follows; None: there is no such cursor."""
        whole = self._whole(kind, only, context, era)
        if cursor is None and whole.one_page:
            return whole.result
        begin = 0 if cursor is None else self._after(whole, kind, only, context, cursor)
        if begin is None:
            return None
        end = _end_of_page(whole.entries, begin)
        more = None
        if end < len(whole.entries):
            last = whole.entries[end - 1]
            more = self._seal.close(Cursor(last.upstream, last.original), *owner_of(context), kind, only)
        return _result(kind, only, era, whole.entries[begin:end], more)

    def _after(
        self, whole: _Whole, kind: Kind, only: str | None, context: ClientContext, cursor: object
    ) -> int | None:
        """Where the list goes on."""
        last = self._seal.open(cursor, Cursor, *owner_of(context), kind, only)
        if last is None:
            return None
        for index, entry in enumerate(whole.entries):
            if (entry.upstream, entry.original) == (last.upstream, last.original):
                return index + 1
        return None

    def _whole(self, kind: Kind, only: str | None, context: ClientContext, era: Era) -> _Whole:
        key = (kind, only, era, self._catalogue.generation, context.permissions.grants)
        known = self._made.get(key)
        if known is not None:
            return known
        entries = tuple(self._catalogue.visible(kind, only, context))
        one_page = _end_of_page(entries, 0) == len(entries)
        made = _Whole(_result(kind, only, era, entries), entries, one_page)
        self._made.put(key, made)
        return made


def _end_of_page(entries: tuple[Entry, ...], begin: int) -> int:
    size = 0
    for index, entry in enumerate(entries[begin : begin + PAGE], begin):
        size += len(bytes(entry.definition))
        if size > PAGE_BYTES and index > begin:
            return index
    return min(begin + PAGE, len(entries))


def _result(
    kind: Kind, only: str | None, era: Era, entries: tuple[Entry, ...], cursor: str | None = None
) -> bytes:
    items = b",".join(_shown(entry, only, era) for entry in entries)
    more = b"" if cursor is None else b',"nextCursor":%b' % encode(cursor)
    result = b'{"%b":[%b]%b}' % (LISTINGS[kind].member.encode(), items, more)
    if era is Era.LEGACY:
        return result
    return encode(own_result(msgspec.json.decode(result, type=dict[str, msgspec.Raw]) | NOT_KEPT))


def _shown(entry: Entry, only: str | None, era: Era) -> bytes:
    """The definition as a client of that era may have it."""
    definition = bytes(entry.definition if only is None else entry.unprefixed)
    if era is Era.MODERN or not entry.modern_output:
        return definition
    members = msgspec.json.decode(definition, type=dict[str, msgspec.Raw])
    return encode({name: value for name, value in members.items() if name != "outputSchema"})
