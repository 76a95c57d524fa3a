"""A template stands for exactly what its pieces can spell out, whatever that costs an attacker to write."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mcp.templates import MAX_COST, MAX_PIECES, MAX_URI, Templates, parse_template

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


WORST = ["{/a}" * 31, "a{+x}" * 31, "a{x}" * 31, "{#a}{/b}{a}" * 10, "a{+x}" + "a" * 1000 + "{x}", "a{x}"]


@pytest.mark.parametrize("filler", ["a", "a/#", "a" * 30 + "-"])
@pytest.mark.parametrize("template", WORST)
@pytest.mark.timeout(20)
def test_all_templates_that_an_upstream_may_have_cost_an_instant(template: str, filler: str) -> None:
    parsed = parse_template(template)
    assert parsed is not None
    templates = Templates([(parsed, n) for n in range(MAX_COST // parsed.cost)])
    began = time.process_time()
    templates.fitting((filler * MAX_URI)[:MAX_URI])
    assert time.process_time() - began < 0.2


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=8), st.text("ab-/?#", max_size=10))
def test_those_are_found_that_fit_in_their_order(texts: list[list[str]], uri: str) -> None:
    parsed = [(parse_template("".join(pieces)), n) for n, pieces in enumerate(texts)]
    read = [(template, n) for template, n in parsed if template is not None]
    assert Templates(read).fitting(uri) == tuple(n for template, n in read if template.fits(uri))


def test_what_is_too_long_fits_nothing() -> None:
    template = parse_template("x://{+rest}")
    assert template is not None
    assert template.fits("x://" + "a" * (MAX_URI - 4))
    assert not template.fits("x://" + "a" * (MAX_URI - 3))


@pytest.mark.parametrize("text", ["x://{a", "x://a}", "x://{{a}}", "{a}" * MAX_PIECES])
def test_what_is_no_template_is_not_read(text: str) -> None:
    assert parse_template(text) is None
