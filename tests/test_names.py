"""Whose a name is, where upstreams are merged: what two of them list is nobody's, whichever came up first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mcp.catalogue import Catalogue, Kind, Rules
from gateway.mcp.names import MAX_TOOL_NAME, HeldBack, Names
from gateway.mcp.target import Target
from gateway.mcp.upstream import UpstreamError
from gateway.model import Reason
from persistence.records import UPSTREAM_NAMES
from tests.stores import store, until
from tests.test_catalogue import NAMES, PREFIXES, Clock, Scripted, _rule

GONE = UpstreamError(Reason.UPSTREAM_UNAVAILABLE, "gone")


def _catalogue(
    *upstreams: tuple[Scripted, str], names: Names | None = None, clock: Clock | None = None
) -> Catalogue:
    return Catalogue(
        [(u, prefix, 5.0) for u, prefix in upstreams], Rules(), monotonic=clock or Clock(), names=names
    )


def _served(catalogue: Catalogue, kind: Kind = Kind.TOOL, only: str | None = None) -> set[str]:
    listed = {entry.name if only is None else entry.original for entry in catalogue.entries(kind, only)}
    assert all(catalogue.find(kind, name, only) is not None for name in listed)
    return listed


async def test_what_two_upstreams_list_is_nobodys_and_both_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[HeldBack] = []
    one, two = Scripted("one", ["b_x", "only"]), Scripted("two", ["x", "other"])
    two.resources = ["data://two"]
    catalogue = _catalogue((one, ""), (two, "b_"), names=Names(tell=told.append))
    await catalogue.refresh(None)
    assert _served(catalogue) == {"only", "b_other"}
    assert catalogue.find(Kind.TOOL, "b_x", None) is None
    assert _served(catalogue, only="one") == {"b_x", "only"}
    assert _served(catalogue, only="two") == {"x", "other"}
    assert set(catalogue.held_back()) == {"one", "two"}
    (message,) = caplog.messages
    assert "the tool 'b_x' is of upstream two and of upstream one: it is not served; give" in message
    two.resources = ["data://fixed"]
    for _ in range(2):
        for name in ("one", "two"):
            catalogue.invalidate(name)
        await catalogue.refresh(None)
    assert len(caplog.messages) == 2, "each is told once"
    assert [(held.kind, held.name) for held in told] == [
        (Kind.TOOL, "b_x"),
        (Kind.RESOURCE, "data://fixed"),
    ]
    assert catalogue.find_resource("data://fixed", None) is None
    assert catalogue.find_resource("data://fixed", "two") is not None


async def test_an_upstream_that_is_down_keeps_its_names_and_gives_them_up_when_it_lists_them_no_more() -> (
    None
):
    one, two = Scripted("one", ["x"]), Scripted("two", ["y"])
    two.resources = []
    clock = Clock()
    catalogue = _catalogue((one, ""), (two, ""), clock=clock)
    await catalogue.refresh(None)
    one.fault = GONE
    two.tools = ["x", "y"]
    for name in ("one", "two"):
        catalogue.invalidate(name)
    await catalogue.refresh(None)
    assert catalogue.down() == ("one",)
    assert _served(catalogue) == {"y"}
    assert catalogue.find(Kind.TOOL, "x", None) is None
    one.fault, one.tools = None, ["z"]
    clock.time += 60.0
    await catalogue.refresh(None)
    assert _served(catalogue) == {"x", "y", "z"}
    assert catalogue.held_back() == ()


async def test_names_are_known_after_a_restart_before_their_upstream_is_up(tmp_path: Path) -> None:
    prefixes = {"one": "", "two": ""}
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(UPSTREAM_NAMES)
        one, two = Scripted("one", ["x"]), Scripted("two", ["y"])
        two.resources = []
        await _catalogue((one, ""), (two, ""), names=Names(prefixes, kept)).refresh(None)
        await until(lambda: len(kept) == 2)
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(UPSTREAM_NAMES)
        one.fault = GONE
        two.tools = ["x", "y"]
        assert Names(prefixes, kept).concerned() == ()
        again = _catalogue((one, ""), (two, ""), names=Names(prefixes, kept))
        await again.refresh(None)
        assert _served(again) == {"y"}
        assert again.find(Kind.TOOL, "x", None) is None
        await until(lambda: len(kept.get("two").digests) == 2)  # type: ignore[union-attr]
        assert set(Names(prefixes, kept).concerned()) == {"one", "two"}, "before anybody is up"
        # Under another prefix, or taken out of the configuration, it has other names, or none.
        for prefixes_now in ({"one": "1_", "two": ""}, {"two": ""}):
            other = _catalogue((two, ""), names=Names(prefixes_now, kept))
            await other.refresh(None)
            assert _served(other) == {"x", "y"}


async def test_what_an_upstream_listed_before_a_restart_is_served_by_no_other_ones_template(
    tmp_path: Path,
) -> None:
    prefixes = {"one": "", "two": ""}
    one, two = Scripted("one", [], ["data://literal"]), Scripted("two", [], ["data://{+all}"])
    two.resources = ["data://literal"]
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(UPSTREAM_NAMES)
        await _catalogue((one, ""), (two, ""), names=Names(prefixes, kept)).refresh(None)
        await until(lambda: len(kept) == 2)
        one.fault = GONE
        again = _catalogue((one, ""), (two, ""), names=Names(prefixes, kept))
        await again.refresh(None)
        for target in (
            Target(Kind.RESOURCE, "data://fixed", "resource_read"),
            Target(Kind.TEMPLATE, "data://literal", "completion"),
        ):
            assert again.locate(target, None) is None
            absent = again.absent(target, None)
            assert absent is not None
            assert absent.upstream == "one"
            assert again.locate(target, "two") is not None, "at its own place it is alone"
        other = again.find_resource("data://other", None)
        assert other is not None
        assert other.upstream == "two"


async def test_a_template_of_before_a_restart_goes_before_those_of_later_upstreams(tmp_path: Path) -> None:
    prefixes = {"one": "", "two": ""}
    one, two = Scripted("one", [], ["data://one/{x}"]), Scripted("two", [], ["data://{+all}"])
    two.resources = []
    rules = Rules(resources=(_rule("data://one/secret", "secret:read"), _rule("data://one/{x}", "one:read")))
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(UPSTREAM_NAMES)
        await _catalogue((one, ""), (two, ""), names=Names(prefixes, kept)).refresh(None)
        await until(lambda: len(kept) == 2)
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(UPSTREAM_NAMES)
        one.fault = GONE

        def after_restart(*upstreams: Scripted) -> Catalogue:
            named = [(upstream, "", 5.0) for upstream in upstreams]
            return Catalogue(named, rules, monotonic=Clock(), names=Names(prefixes, kept))

        again = after_restart(one, two)
        await again.refresh(None)
        secret = Target(Kind.RESOURCE, "data://one/secret", "resource_read")
        assert again.locate(secret, None) is None
        absent = again.absent(secret, None)
        assert absent is not None
        assert (absent.upstream, set(absent.permissions)) == ("one", {"one:read", "secret:read"})
        for uri in ("data://one/%2e%2e/x", "data://one/x/y", "other://x"):
            assert again.absent(Target(Kind.RESOURCE, uri, "resource_read"), None) is None
        assert again.locate(secret, "two") is not None, "at its own place it is alone"
        assert again.find_resource("data://other", None) is not None
        later = after_restart(two, one)
        await later.refresh(None)
        assert later.locate(secret, None) is not None, "it stands first in the configuration"


async def test_a_tool_whose_name_is_too_long_is_held_back_and_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fits = "n" * (MAX_TOOL_NAME - 2)
    upstream = Scripted("u", [fits, f"{fits}n", "short"])
    catalogue = _catalogue((upstream, "p_"))
    await catalogue.refresh(None)
    assert _served(catalogue) == {f"p_{fits}", "p_short"}
    assert catalogue.find(Kind.TOOL, f"p_{fits}n", None) is None
    assert _served(catalogue, only="u") == {fits, f"{fits}n", "short"}
    assert catalogue.held_back() == ("u",)
    assert "its name is not of 1 to 128 characters; give that upstream a shorter prefix" in caplog.text


async def test_a_template_that_two_upstreams_have_serves_nothing() -> None:
    one, two = (Scripted(name, [], ["data://{id}"]) for name in ("one", "two"))
    catalogue = _catalogue((one, ""), (two, ""))
    await catalogue.refresh(None)
    assert catalogue.find_resource("data://7", None) is None
    assert catalogue.find_resource("data://fixed", None) is None
    assert catalogue.find_resource("data://7", "two") is not None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(NAMES, PREFIXES), min_size=1, max_size=4).flatmap(
        lambda offers: st.tuples(st.just(offers), st.permutations(range(len(offers))))
    )
)
def test_it_does_not_matter_who_comes_up_first(
    drawn: tuple[list[tuple[list[str], str]], list[int]],
) -> None:
    offers, order = drawn

    async def run() -> None:
        upstreams = [(Scripted(f"u{n}", names), prefix) for n, (names, prefix) in enumerate(offers)]
        catalogue = _catalogue(*upstreams)
        for number in order:
            await catalogue.refresh(f"u{number}")
        whole = [prefix + name for names, prefix in offers for name in names]
        assert _served(catalogue) == {name for name in whole if whole.count(name) == 1}
        await catalogue.close()

    asyncio.run(run())
