"""Calls that are held open at a legacy upstream, which has asked its client something, until the modern client answers.

The client's request is over meanwhile: its answer said what is asked (``input_required``). A held call takes no place
within the upstream's ``max_concurrency``, and is given up HOLD_SECONDS after the question, however often it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.mcp.exchange import Errands
from gateway.mcp.messages import RequestId
from gateway.mcp.sessions import NOBODY, Owner
from gateway.mcp.upstream import Exchange, SessionKey

log = logging.getLogger("ostiary.mcp")

HOLD_SECONDS: Final = 120.0
"""How long a client has to answer."""
MAX_HELD: Final = 1_000
MAX_HELD_OF_ONE: Final = 16
"""Of them, of one client, or of one network where the callers are anonymous."""
MAX_HELD_ANONYMOUS: Final = 500
"""Of them, of all anonymous callers together."""


def _deadline() -> float:
    return asyncio.get_running_loop().time() + HOLD_SECONDS


@dataclass(frozen=True, slots=True, eq=False)
class HeldCall:
    """One of them."""

    counted: Owner
    """With whose held calls it is counted."""
    key: SessionKey
    """Whose session at the upstream it is in."""
    context: AbstractAsyncContextManager[Exchange]
    exchange: Exchange
    question: RequestId
    """The upstream's id for what it asks."""
    asked: dict[str, Any]
    """What it asks: method and params."""
    until: float = field(default_factory=_deadline)
    """When it is given up, by the clock of the event loop."""


class HeldCalls:
    """All of them."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[HeldCall, asyncio.TimerHandle]] = {}
        self._endings = Errands()

    def room_for(self, counted: Owner) -> bool:
        """Whether one more that is so counted may be held."""
        held = [call.counted for call, _ in self._held.values()]
        if counted[0] == NOBODY and sum(each[0] == NOBODY for each in held) >= MAX_HELD_ANONYMOUS:
            return False
        return len(held) < MAX_HELD and held.count(counted) < MAX_HELD_OF_ONE

    def hold(self, call: HeldCall) -> str:
        """Keep it; the name under which it is found again."""
        name = secrets.token_urlsafe(18)
        timer = asyncio.get_running_loop().call_at(call.until, self._give_up, name)
        self._held[name] = (call, timer)
        return name

    def take(self, name: str) -> HeldCall | None:
        """The call of that name, once; None: it was taken, or given up."""
        call, timer = self._held.pop(name, (None, None))
        if timer is not None:
            timer.cancel()
        return call

    async def close(self) -> None:
        """Give up every one."""
        for name in tuple(self._held):
            self._give_up(name)
        await self._endings.finish()

    def _give_up(self, name: str) -> None:
        call = self.take(name)
        if call is not None:
            log.info("a call was given up: its client did not answer what the upstream asked")
            self._endings.run(call.context.__aexit__(None, None, None))
