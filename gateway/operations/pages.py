"""A page of records in the order of their ids, found with turns for others in between, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from persistence.large import in_turns

V = TypeVar("V")


async def page_of(
    values: Iterable[V],
    id_of: Callable[[V], str],
    *,
    wanted: Callable[[V], bool],
    after: str | None,
    limit: int,
) -> tuple[list[V], str | None]:
    """The first ``limit`` that are wanted and come after the id ``after``, and the id to go on after; None: that is all."""
    first: list[V] = []
    async for value in in_turns(values):
        if id_of(value) > (after or "") and wanted(value):
            first.append(value)
            if len(first) > 4 * limit:
                first = sorted(first, key=id_of)[: limit + 1]
    first.sort(key=id_of)
    page = first[:limit]
    return page, id_of(page[-1]) if len(first) > limit else None
