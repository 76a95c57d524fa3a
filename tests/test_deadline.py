"""Deadlines: they end what takes too long, and nobody else's cancellation is taken for theirs."""

from __future__ import annotations

import asyncio

import pytest

from gateway.deadline import Deadline


def within(seconds: float) -> Deadline:
    loop = asyncio.get_running_loop()
    return Deadline(loop, loop.time() + seconds)


async def test_what_ends_in_time_is_left_alone():
    with within(60):
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_what_takes_too_long_is_ended():
    with pytest.raises(TimeoutError), within(0.01):
        await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # no cancellation is left behind


async def test_one_that_is_over_ends_the_first_wait():
    with pytest.raises(TimeoutError), within(-1):
        await asyncio.Event().wait()


async def test_an_error_of_the_block_comes_through():
    with pytest.raises(ValueError, match="ours"), within(60):
        raise ValueError("ours")


async def test_a_cancellation_by_somebody_else_stays_one():
    entered = asyncio.Event()

    async def work() -> None:
        with within(60):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_beside_the_deadline_wins():
    async def work() -> None:
        try:
            with within(0.01):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert asyncio.current_task().cancelling() == 1
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, task.cancel)  # in the same turn as the deadline, behind it
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await task


async def test_the_inner_of_two_does_not_end_the_outer():
    with within(60):
        with pytest.raises(TimeoutError), within(0.01):
            await asyncio.Event().wait()
        await asyncio.sleep(0)


async def test_one_that_is_put_off_ends_later_and_one_that_has_ended_not_at_all():
    deadline = within(0.01)
    loop = asyncio.get_running_loop()
    with deadline:
        deadline.reschedule(loop.time() + 60)
        await asyncio.sleep(0.05)
    deadline.reschedule(loop.time())
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError), deadline:
        await _cut_short(deadline)


async def _cut_short(deadline: Deadline) -> None:
    deadline.reschedule(0)
    await asyncio.Event().wait()
