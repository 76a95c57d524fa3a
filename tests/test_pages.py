"""Lists in pages: from upstreams that have them, and to clients, each of which has its own cursors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp import listing, lists
from gateway.mcp.catalogue import Catalogue, Kind, Rules
from gateway.mcp.eras import Era
from gateway.mcp.messages import Params, encode
from gateway.mcp.sealed import Seal
from gateway.mcp.upstream import ServerInfo
from gateway.model import ANONYMOUS, ClientContext, Permissions
from tests.test_catalogue import Clock, Scripted
from tests.test_one_decision import Offering, World

EVERYTHING = Permissions(frozenset({"*:*"}))
ALICE = ClientContext(client_id="alice", permissions=EVERYTHING)
BOB = ClientContext(client_id="bob", permissions=EVERYTHING)
LEGACY = frozenset({Era.LEGACY})


def _world(*offers: list[str]) -> World:
    upstreams = [
        (
            Offering(
                f"u{n}", LEGACY, {"tools": names, "prompts": names, "resources": [], "resourceTemplates": []}
            ),
            f"{n}_",
        )
        for n, names in enumerate(offers)
    ]
    return World(upstreams, Rules())


async def _pages(world: World, era: Era, path: str = "/mcp", client: ClientContext = ALICE) -> list[Any]:
    """The pages of a list, one after the other."""
    pages: list[Any] = []
    params: dict[str, Any] = {}
    while True:
        answer, _ = await world.ask(era, path, client, "tools/list", params)
        pages.append(answer["result"])
        if "nextCursor" not in pages[-1]:
            return pages
        params = {"cursor": pages[-1]["nextCursor"]}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "PAGE", 2)


@pytest.mark.parametrize("era", Era)
async def test_pages_go_across_upstreams_in_stable_order(era: Era, short: None) -> None:
    world = _world(["c", "a", "b"], ["z", "y"], [])
    pages = await _pages(world, era)
    assert [[tool["name"] for tool in page["tools"]] for page in pages] == [
        ["0_c", "0_a"],
        ["0_b", "1_z"],
        ["1_y"],
    ]
    assert all(
        (page.get("ttlMs"), page.get("cacheScope")) == ((0, "private") if era is Era.MODERN else (None, None))
        for page in pages
    )
    assert [len(page["tools"]) for page in await _pages(world, era, "/mcp/u1")] == [2]
    assert await _pages(world, era) == pages, "the same again"
    await world.catalogue.close()


async def test_a_cursor_is_good_for_its_client_its_list_and_its_place(short: None) -> None:
    world = _world(["c", "a", "b"], ["z", "y", "x"])
    first, _ = await world.ask(Era.LEGACY, "/mcp", ALICE, "tools/list", {})
    cursor = first["result"]["nextCursor"]
    for era, path, client, method, said in (
        (Era.LEGACY, "/mcp", BOB, "tools/list", cursor),
        (Era.MODERN, "/mcp", BOB, "tools/list", cursor),
        (Era.LEGACY, "/mcp", ANONYMOUS, "tools/list", cursor),
        (Era.LEGACY, "/mcp", ALICE, "prompts/list", cursor),
        (Era.LEGACY, "/mcp/u0", ALICE, "tools/list", cursor),
        (Era.LEGACY, "/mcp", ALICE, "tools/list", cursor[:-4]),
        (Era.LEGACY, "/mcp", ALICE, "tools/list", "1"),
        (Era.LEGACY, "/mcp", ALICE, "tools/list", ""),
        (Era.LEGACY, "/mcp", ALICE, "tools/list", 1),
        (Era.MODERN, "/mcp", ALICE, "tools/list", {"a": 1}),
        (Era.LEGACY, "/mcp", ALICE, "tools/list", "x" * 100_000),
    ):
        answer, _ = await world.ask(era, path, client, method, {"cursor": said})
        assert answer["error"]["code"] == -32602, (era, path, client, method, said)
    again, _ = await world.ask(Era.LEGACY, "/mcp", ALICE, "tools/list", {"cursor": cursor})
    assert [tool["name"] for tool in again["result"]["tools"]] == ["0_b", "1_z"]
    await world.catalogue.close()


async def test_a_list_that_changed_goes_on_where_it_can(short: None) -> None:
    world = _world(["a", "b", "c", "d"])
    first, _ = await world.ask(Era.LEGACY, "/mcp", ALICE, "tools/list", {})
    cursor = {"cursor": first["result"]["nextCursor"]}
    offered = world.upstreams[0].offers["tools"]
    for names, expected in ((["new", "a", "b", "c", "d"], ["0_c", "0_d"]), (["a", "c", "d"], None)):
        offered[:] = names
        world.catalogue.invalidate("u0")
        await world.catalogue.refresh(None)
        answer, _ = await world.ask(Era.LEGACY, "/mcp", ALICE, "tools/list", cursor)
        if expected is None:
            assert answer["error"]["message"] == "Unknown cursor, or the list has changed: begin anew."
        else:
            assert [tool["name"] for tool in answer["result"]["tools"]] == expected
    await world.catalogue.close()


async def test_pages_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "PAGE_BYTES", 1)
    world = _world(["a", "b"])
    assert [len(page["tools"]) for page in await _pages(world, Era.LEGACY)] == [1, 1]
    await world.catalogue.close()


class Paging(Scripted):
    """Answers ``tools/list`` with what it is told for each cursor."""

    def __init__(self, pages: dict[str | None, tuple[list[str], object]], *, endless: bool = False) -> None:
        super().__init__("paging", [])
        self.pages = pages
        self.endless = endless
        self.turned = 0
        """How many pages were asked for."""
        self.resources = []

    def request(self, key: Any, method: str, params: Params, fields: Any = ()) -> Any:
        if method == "tools/list":
            self.turned += 1
            cursor: Any = params.get("cursor")
            names, more = self.pages.get(cursor, ([], None)) if not self.endless else ([], str(self.turned))
            result: dict[str, Any] = {
                "tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]
            }
            self.raw = encode(result if more is None else {**result, "nextCursor": more})
        else:
            self.raw = None
        return super().request(key, method, {}, fields)


async def _gathered(upstream: Paging) -> tuple[list[str], tuple[str, ...]]:
    catalogue = Catalogue([(upstream, "", 5.0)], Rules(), monotonic=Clock())
    await catalogue.refresh(None)
    names = [entry.name for entry in catalogue.entries(Kind.TOOL, None)]
    down = catalogue.down()
    await catalogue.close()
    return names, down


async def test_an_output_that_is_no_object_is_told_to_modern_clients_alone() -> None:
    """Legacy clients take none of the list where one tool has such a schema."""
    schema = {"type": "object"}
    tools: list[object] = [
        {"name": "array", "inputSchema": schema, "outputSchema": {"type": "array"}},
        {"name": "object", "inputSchema": schema, "outputSchema": schema},
    ]

    class Described(Scripted):
        async def describe(self) -> ServerInfo:
            return ServerInfo("2026-07-28", {"tools": {}}, era=Era.MODERN)

    described = Described("described", [])
    described.raw_tools = tools
    catalogue = Catalogue([(described, "", 5.0)], Rules(), monotonic=Clock())
    await catalogue.refresh(None)
    made = lists.Lists(catalogue, Seal("", "cursors"))
    shown = {era: json.loads(made.visible(Kind.TOOL, None, ALICE, era))["tools"] for era in Era}
    outputs = {era: [tool.get("outputSchema") for tool in listed] for era, listed in shown.items()}
    assert outputs == {Era.LEGACY: [None, schema], Era.MODERN: [{"type": "array"}, schema]}
    await catalogue.close()


async def test_an_upstreams_pages_are_read_to_their_end() -> None:
    pages: dict[str | None, tuple[list[str], object]] = {
        None: (["a", "b"], ""),
        "": (["c"], "last"),
        "last": (["d"], None),
    }
    assert await _gathered(Paging(pages)) == (["a", "b", "c", "d"], ())
    assert await _gathered(Paging({None: (["a"], 7)})) == (["a"], ()), "no cursor, so no more pages"


async def test_pages_that_go_round_in_a_circle_are_an_upstreams_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream = Paging({None: (["a"], "1"), "1": (["b"], "2"), "2": (["c"], "1")})
    assert await _gathered(upstream) == ([], ("paging",))
    assert upstream.turned == 3
    assert "Its answer to tools/list goes round in a circle." in caplog.text


async def test_pages_without_end_are_an_upstreams_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_PAGES", 20)
    upstream = Paging({}, endless=True)
    assert await _gathered(upstream) == ([], ("paging",))
    assert upstream.turned == 20
    assert "Its answer to tools/list never ends." in caplog.text
    monkeypatch.setattr(listing, "MAX_LISTED", 3)
    upstream = Paging({None: (["a", "b"], "1"), "1": (["c", "d"], "2"), "2": (["e"], None)})
    assert await _gathered(upstream) == ([], ("paging",))


@given(st.text(max_size=80), st.lists(st.one_of(st.none(), st.text(max_size=10)), max_size=3))
def test_what_was_not_sealed_here_does_not_open(said: str, bound: list[str | None]) -> None:
    seal = Seal("s" * 32, "cursors")
    cursor = lists.Cursor("upstream", "name")
    assert seal.open(said, lists.Cursor, *bound) is None
    sealed = seal.close(cursor, *bound)
    assert seal.close(cursor, *bound) == sealed
    assert seal.open(sealed, lists.Cursor, *bound) == cursor
    assert seal.open(sealed, lists.Cursor, *bound, "more") is None
    assert Seal("s" * 32, "task ids").open(sealed, lists.Cursor, *bound) is None
    assert Seal("", "cursors").open(sealed, lists.Cursor, *bound) is None
