"""Whose time counts when, in a request at an upstream."""

from __future__ import annotations

import asyncio

import pytest

from gateway.mcp.time_limit import TimeLimit


def limit(seconds: float) -> TimeLimit:
    made = TimeLimit(asyncio.get_running_loop(), "files", seconds)
    made.begin()
    return made


async def ends(time: TimeLimit, within: float) -> str:
    """What is said once its time is over."""
    async with asyncio.timeout(within):
        with pytest.raises(TimeoutError), time.within():
            await asyncio.Event().wait()
    return time.passed().detail


async def test_the_clients_time_is_not_the_upstreams() -> None:
    time = limit(0.01)
    time.asked(60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ends(time, 60)


async def test_the_time_begins_anew_with_the_last_answer() -> None:
    time = limit(0.05)
    time.asked(60)
    time.asked(60)
    waiting = asyncio.create_task(ends(time, 60))
    await asyncio.sleep(0)
    time.answered()
    await asyncio.sleep(0.1)
    assert not waiting.done()
    time.answered()
    assert await asyncio.wait_for(waiting, 10) == "Upstream files did not answer within 0.05 s."


async def test_a_client_that_never_answers() -> None:
    time = limit(60)
    time.asked(0.01)
    assert await ends(time, 10) == "The client did not answer what upstream files asked."


async def test_an_answer_to_nothing_gives_no_time() -> None:
    time = limit(0.01)
    for _ in range(3):
        time.answered()
    await ends(time, 10)
