"""What a running gateway sees to by itself: streams of those who may no longer come in, and what is idle or expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.api.account_rooms import AccountRooms
from gateway.mcp.announcements import Announcements
from gateway.mcp.sessions import Sessions
from gateway.mcp.streams import WATCH_SECONDS, Watch
from gateway.memory import Allocator
from persistence.protocols import Stores

log = logging.getLogger("ostiary.errors")

SWEEP_EVERY: Final = 120
"""Every so many rounds of the watch, what is idle or expired is cleared away."""
PURGE_SLICE: Final = 100
"""Tokens that are forgotten at a time (about a millisecond) before requests get their turn."""


async def keep_house(
    watch: Watch,
    sessions: Sessions,
    announcements: Announcements,
    accounts: AccountRooms,
    stores: Stores,
    *,
    leeway: float,
    now: Callable[[], float],
) -> None:
    """End streams whose caller is no longer valid, and tell of lists that changed with their caller's permissions.

    Now and then clear away what is idle or expired.

    ``leeway``: seconds for which an expired token is kept. ``now``: seconds since the epoch.
    """
    allocator = Allocator()
    rounds = 0
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        rounds += 1
        try:
            watch.sweep()
            announcements.sweep()
            accounts.sweep()
            if rounds % SWEEP_EVERY == 0:
                sessions.sweep()
                await _purge(stores, leeway, now)
                await accounts.purge()
                await asyncio.to_thread(allocator.give_back)
        except Exception:
            log.exception("housekeeping failed; it goes on")


async def _purge(stores: Stores, leeway: float, now: Callable[[], float]) -> None:
    """Forget the expired tokens, however many, without keeping requests waiting."""
    more = True
    while more:
        more = stores.tokens.purge(now() - leeway, PURGE_SLICE) == PURGE_SLICE
        await asyncio.sleep(0)
