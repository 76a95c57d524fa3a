"""Strict JSON: the fast way for compact text, and the thorough one for all other, accept and give the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.strict_json import StrictJsonError, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)
PIECES = st.sampled_from(
    ['"a"', '"b"', ":", ",", "{", "}", "[", "]", "1", "1e400", "-0", "1.50", "null", "NaN", '"\\ud800"', "\\"]
)


def outcome(raw: bytes) -> tuple[type, Any] | str:
    """What ``raw`` says, with floats and whole numbers told apart; or that it is refused."""
    try:
        document = parse(raw)
    except StrictJsonError:
        return "refused"
    return type(document), repr(document)


def both_ways(raw: bytes) -> None:
    """A space in front makes no difference; with it, no text is as compact as can be."""
    assert outcome(raw) == outcome(b" " + raw)


@given(VALUES)
def test_whatever_was_encoded_compactly(value):
    both_ways(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))


@given(st.lists(PIECES, max_size=12).map("".join))
def test_whatever_looks_like_json(text):
    both_ways(text.encode())


@given(st.binary(max_size=30))
def test_whatever_does_not(raw):
    both_ways(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":1,"\\u0061":2}',
        b"NaN",
        b"[Infinity]",
        b"1e400",
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
        b"[" * 100_000,
        b"9" * 5_000,
    ],
)
def test_what_readers_differ_on_is_refused_either_way(raw):
    assert outcome(raw) == outcome(b" " + raw) == "refused"
