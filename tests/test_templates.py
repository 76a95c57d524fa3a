"""A template stands for exactly what its pieces can spell out, whatever that costs an attacker to write."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mcp.templates import MAX_PIECES, MAX_URI, parse_template

MEANING = {"a": "[^/?#]*", "+a": ".*", "#a": "(?:#.*)?", "/a": "(?:/[^?#]*)?", "?a": "[^#]*", ".a": "[^#]*"}
"""Each expression as a regular expression, which is right, but slow at its worst."""
PIECES = st.lists(
    st.one_of(
        st.sampled_from(sorted(MEANING)).map(lambda name: f"{{{name}}}"),
        st.text("ab-/?#", min_size=1, max_size=3),
    ),
    max_size=6,
)


@settings(max_examples=500)
@given(PIECES, st.text("ab-/?#", max_size=10))
def test_it_fits_what_the_regular_expression_would(pieces: list[str], uri: str) -> None:
    template = parse_template("".join(pieces))
    assert template is not None
    pattern = "".join(MEANING[piece[1:-1]] if piece.startswith("{") else re.escape(piece) for piece in pieces)
    assert template.fits(uri) is (re.fullmatch(pattern, uri) is not None)


@settings(max_examples=200)
@given(st.lists(st.text("ab-/?#", max_size=4), min_size=1, max_size=6))
def test_it_fits_what_it_expands_to(parts: list[str]) -> None:
    template = parse_template("x://" + "-".join(f"{{+v{n}}}" for n in range(len(parts))))
    assert template is not None
    assert template.fits("x://" + "-".join(parts))


@pytest.mark.parametrize("operator", ["", "+", "?"])
@pytest.mark.parametrize("separator", ["-", "--", "-a", "a"])
@pytest.mark.timeout(20)
def test_the_worst_uri_for_many_variables_is_quickly_refused(operator: str, separator: str) -> None:
    template = parse_template(
        "x://" + separator.join(f"{{{operator}v{n}}}" for n in range(20)) + separator + "!"
    )
    assert template is not None
    for filler in ("-", "a", "-a", "a-"):
        assert not template.fits(("x://" + filler * MAX_URI)[:MAX_URI])


class CountingUri(str):
    """A URI that counts how often it is searched."""

    __slots__ = ()
    searches: ClassVar[int] = 0

    def find(self, *arguments: Any) -> int:
        CountingUri.searches += 1
        return super().find(*arguments)


def test_the_searches_are_at_most_the_pieces_times_the_length() -> None:
    template = parse_template("x://" + "-".join(f"{{v{n}}}" for n in range(20)) + "!")
    assert template is not None
    counts = []
    for length in (MAX_URI // 2, MAX_URI):
        CountingUri.searches = 0
        assert not template.fits(CountingUri(("x://" + "-" * length)[:length]))
        counts.append(CountingUri.searches)
        assert CountingUri.searches <= len(template.pieces) * (length + 1)
    assert counts[1] <= 2.1 * counts[0], "twice the length costs twice as much"


def test_what_is_too_long_fits_nothing() -> None:
    template = parse_template("x://{+rest}")
    assert template is not None
    assert template.fits("x://" + "a" * (MAX_URI - 4))
    assert not template.fits("x://" + "a" * (MAX_URI - 3))


@pytest.mark.parametrize("text", ["x://{a", "x://a}", "x://{{a}}", "{a}" * MAX_PIECES])
def test_what_is_no_template_is_not_read(text: str) -> None:
    assert parse_template(text) is None
