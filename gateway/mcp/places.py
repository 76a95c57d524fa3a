"""Who may have requests under way at an upstream: so many in all, and one client at most half of them.

Where none is free the callers wait, each client in its own queue: a place that is left goes to the client that has the
fewest. The gateway's own requests (lists, subscriptions) take no place, for everybody depends on them. Nor do those that
wait for their client's answer to what the upstream asked: they have theirs again with the answer, be one free or not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from gateway.mcp.sessions import Owner
from gateway.mcp.upstream import GATEWAY

MAX_ASKING: Final = 16
"""Requests of one client that may wait for its answer without a place; further ones keep theirs."""

_Queue = deque[asyncio.Future[None]]


class Places:
    """The places at one upstream."""

    def __init__(self, most: int) -> None:
        """``most``: how many there are (``max_concurrency``)."""
        self._free = most
        self._share = (most + 1) // 2
        self._taken: dict[Owner, int] = {}
        self._asking: dict[Owner, int] = {}
        """How many requests wait for their client's answer without a place."""
        self._queues: dict[Owner, _Queue] = {}
        """Of those that wait; none is empty."""

    def __repr__(self) -> str:
        return f"<Places free={self._free} taken={self._taken}>"

    def take(self, owner: Owner) -> bool:
        """Take a place if there is one for that client now."""
        taken = self._taken.get(owner, 0)
        if self._free <= 0 or taken >= self._share:
            return False
        self._free -= 1
        self._taken[owner] = taken + 1
        return True

    async def wait(self, owner: Owner) -> None:
        """Take a place as soon as it is that client's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(owner, deque())
        queue.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave(owner)  # it was given the place, and does not want it any more
            elif turn in queue:
                queue.remove(turn)
                if not queue:
                    del self._queues[owner]
            raise

    def leave(self, owner: Owner) -> None:
        """Give a place back, to whoever's turn it is."""
        self._free += 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        if self._queues:
            self._hand_over()

    def lend(self, owner: Owner) -> bool:
        """Give a place back while that client is asked something; False: it keeps it, for it is asked too much."""
        asking = self._asking.get(owner, 0)
        if asking >= MAX_ASKING:
            return False
        self._asking[owner] = asking + 1
        self.leave(owner)
        return True

    def settle(self, owner: Owner, *, back: bool) -> None:
        """The client is asked no more; ``back``: its request goes on, and has its place again."""
        self._asking[owner] -= 1
        if not self._asking[owner]:
            del self._asking[owner]
        if back:
            self._free -= 1
            self._taken[owner] = self._taken.get(owner, 0) + 1

    def _hand_over(self) -> None:
        while self._queues:
            owner = min(self._queues, key=lambda each: self._taken.get(each, 0))
            queue = self._queues[owner]
            while queue and queue[0].cancelled():  # and whoever waited for it has not noticed yet
                queue.popleft()
            if queue and not self.take(owner):
                return
            del self._queues[owner]
            if queue:
                queue.popleft().set_result(None)
                if queue:
                    self._queues[owner] = queue  # behind those that have as few
                return


class Place:
    """One request's place, or none."""

    __slots__ = ("_lent", "_owner", "_places", "_taken")

    def __init__(self, places: Places, owner: Owner) -> None:
        """``owner``: whose request it is."""
        self._places = places
        self._owner = owner
        self._taken = False
        self._lent = False
        """Whether it has given it back only until its client has answered."""

    async def take(self) -> None:
        """Wait until it has one."""
        if self._owner == GATEWAY.owner or self._taken:
            return
        if not self._places.take(self._owner):
            await self._places.wait(self._owner)
        self._taken = True

    def lend(self) -> None:
        """Its client is asked something: others may have its place meanwhile."""
        if self._taken and self._places.lend(self._owner):
            self._taken, self._lent = False, True

    def reclaim(self) -> None:
        """The client has answered."""
        if self._lent:
            self._taken, self._lent = True, False
            self._places.settle(self._owner, back=True)

    def leave(self) -> None:
        """Give it back, if it has one."""
        if self._lent:
            self._lent = False
            self._places.settle(self._owner, back=False)
        if self._taken:
            self._taken = False
            self._places.leave(self._owner)
