"""Whose turn it is at an upstream."""

from __future__ import annotations

import asyncio

import pytest

from gateway.mcp.places import MAX_ASKING, Place, Places
from gateway.mcp.upstream import GATEWAY

ALICE, BOB, CAROL = ("t", "alice"), ("t", "bob"), ("t", "carol")


async def _waiting(places: Places, owner: tuple[str, str], log: list[str]) -> asyncio.Task[Place]:
    async def wait() -> Place:
        place = Place(places, owner)
        await place.take()
        log.append(owner[1])
        return place

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    return task


async def test_one_client_leaves_places_for_the_others() -> None:
    places, log = Places(4), list[str]()
    alices = [await _waiting(places, ALICE, log) for _ in range(4)]
    assert log == ["alice"] * 2
    await _waiting(places, BOB, log)
    await _waiting(places, CAROL, log)
    assert log == ["alice", "alice", "bob", "carol"]
    (await alices[0]).leave()
    await asyncio.sleep(0)
    assert log[4:] == ["alice"]


async def test_a_place_goes_to_whoever_has_the_fewest() -> None:
    places, log = Places(4), list[str]()
    bobs = [await (await _waiting(places, owner, log)) for owner in (ALICE, ALICE, BOB, BOB)][2:]
    for owner in (BOB, BOB, CAROL):
        await _waiting(places, owner, log)
    for _ in range(2):
        bobs[0].leave()  # once is enough
    await asyncio.sleep(0)
    assert log[4:] == ["carol"]
    bobs[1].leave()
    await asyncio.sleep(0)
    assert log[5:] == ["bob"]


@pytest.mark.parametrize("given", [False, True])
async def test_who_waits_no_more_keeps_no_place(given: bool) -> None:
    places, log = Places(1), list[str]()
    first = await (await _waiting(places, ALICE, log))
    bob = await _waiting(places, BOB, log)
    if given:
        first.leave()
    bob.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bob
    first.leave()
    await asyncio.wait_for(Place(places, CAROL).take(), 1)


@pytest.mark.parametrize("left_first", [False, True])
async def test_a_place_that_is_left_while_whose_turn_it_is_gives_up_is_not_lost(left_first: bool) -> None:
    places, log = Places(1), list[str]()
    first = await (await _waiting(places, ALICE, log))
    bob = await _waiting(places, BOB, log)
    carol = await _waiting(places, CAROL, log)
    steps = [bob.cancel, first.leave]
    for step in reversed(steps) if left_first else steps:
        step()
    (await asyncio.wait_for(carol, 1)).leave()
    await asyncio.wait_for(Place(places, ALICE).take(), 1)


async def test_who_waits_for_its_client_lends_its_place() -> None:
    places, log = Places(1), list[str]()
    asking = await (await _waiting(places, ALICE, log))
    bob = await _waiting(places, BOB, log)
    asking.lend()
    asking.lend()
    others = await asyncio.wait_for(bob, 1)
    asking.reclaim()  # the upstream goes on with it at once
    carol = await _waiting(places, CAROL, log)
    others.leave()
    await asyncio.sleep(0)
    assert not carol.done(), "there is one place, and it is taken"
    asking.leave()
    asking.reclaim()
    (await asyncio.wait_for(carol, 1)).leave()
    assert repr(places) == "<Places free=1 taken={}>"


async def test_who_is_asked_without_end_keeps_its_places() -> None:
    places, log = Places(1), list[str]()
    asking = [await (await _waiting(places, ALICE, log)) for _ in range(1)]
    for _ in range(MAX_ASKING):
        asking[-1].lend()
        asking.append(await asyncio.wait_for(await _waiting(places, ALICE, log), 1))
    asking[-1].lend()
    bob = await _waiting(places, BOB, log)
    assert not bob.done()
    for place in asking:
        place.leave()
    await asyncio.wait_for(bob, 1)


async def test_the_gateway_itself_never_waits() -> None:
    places = Places(1)
    await Place(places, ALICE).take()
    for _ in range(3):
        await asyncio.wait_for(Place(places, GATEWAY.owner).take(), 1)
