"""Large dictionaries: they are what a plain one is, whatever is done, also while they are written down."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence import large
from persistence.large import BLOCK, Keys, Ordered

KEYS = [f"k{number}" for number in range(30)]
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "pop", "write", "write some", "iterate"]), st.sampled_from(KEYS)),
    max_size=120,
)


def written(lines: Iterator[bytes]) -> list[str]:
    return [msgspec.json.decode(line) for some in lines for line in some.splitlines()]


@given(steps=STEPS, block=st.sampled_from([1, 2, 3, 7]))
@settings(max_examples=200, deadline=None)
def test_whatever_is_done_it_is_an_ordered_dictionary(steps, block):
    before, large.BLOCK = large.BLOCK, block
    try:
        kept: Ordered[str] = Ordered()
        expected: dict[str, str] = {}
        begun: Iterator[bytes] | None = None
        for number, (step, key) in enumerate(steps):
            if step == "put":
                assert kept.put(key, f"{key}:{number}") == expected.get(key)
                expected[key] = f"{key}:{number}"
            elif step == "pop":
                assert kept.pop(key) == expected.pop(key, None)
            elif step == "write":
                assert sorted(written(kept.lines())) == sorted(expected.values())
            elif step == "write some":  # goes on below, after other steps, or never
                begun = kept.lines() if begun is None else begun
                if next(begun, None) is None:
                    begun = None
            assert (len(kept), kept.get(key)) == (len(expected), expected.get(key))
            assert sorted(kept) == sorted(expected.values())
        fresh = [value for value in kept if value in set(expected.values())]
        assert len(fresh) == len(expected)
    finally:
        large.BLOCK = before


def test_the_order_is_that_of_insertion_and_outlives_what_is_removed():
    kept: Ordered[int] = Ordered()
    for number in range(5 * BLOCK):
        kept.put(str(number), number)
    for number in range(0, 5 * BLOCK, 3):
        kept.pop(str(number))
    expected = [number for number in range(5 * BLOCK) if number % 3]
    for _ in range(2):
        assert list(kept) == expected
        assert b"".join(kept.lines()) == b"".join(b"%d\n" % number for number in expected)


def test_what_changes_while_it_is_walked_through():
    kept: Ordered[int] = Ordered()
    for number in range(2 * BLOCK):
        kept.put(str(number), number)
    walk = iter(kept)
    assert next(walk) == 0
    kept.pop(str(2 * BLOCK - 1))
    kept.put("new", -1)
    list(kept.lines())
    assert list(walk) == list(range(1, 2 * BLOCK - 1))


@given(steps=st.lists(st.sampled_from(KEYS), max_size=100), part=st.sampled_from([1, 2, 5]))
@settings(max_examples=100, deadline=None)
def test_keys_are_an_ordered_set(steps, part):
    before, large._PART = large._PART, part
    try:
        kept, expected = Keys(), dict[str, None]()
        for key in steps:
            if key in expected:
                kept.remove(key)
                del expected[key]
            else:
                kept.add(key)
                expected[key] = None
            assert list(kept) == list(expected)
            assert bool(kept) == bool(expected)
    finally:
        large._PART = before
