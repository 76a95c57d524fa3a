"""Pages of the administrative lists: together they are the whole list, in order, each once."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.operations.pages import page_of


@given(st.sets(st.text(min_size=1, max_size=3), max_size=60), st.integers(1, 7))
def test_the_pages_are_the_list(ids: set[str], limit: int) -> None:
    wanted = {each for each in ids if each < "m"}
    found: list[str] = []
    after: str | None = None
    while True:
        page, cursor = asyncio.run(page_of(ids, str, wanted=wanted.__contains__, after=after, limit=limit))
        found += page
        assert len(page) <= limit
        if cursor is None:
            break
        assert len(page) == limit
        after = cursor
    assert found == sorted(wanted)
