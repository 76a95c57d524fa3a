"""A request of a session that is under way."""

from __future__ import annotations

import asyncio

from gateway.mcp.upstream import Exchange


class Running:
    """A request of a session that is under way: what its cancellation gets hold of, from the first moment on."""

    __slots__ = ("_cancelled", "_task", "exchange")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._cancelled = False
        self.exchange: Exchange | None = None
        """Set once the upstream has begun to answer."""

    async def cancel(self, reason: str) -> None:
        """The client wants no answer any more."""
        if self.exchange is not None:
            await self.exchange.cancel(reason)
        elif self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()  # leaving the upstream's context tells it

    def took_effect(self) -> bool:
        """Whether it was this cancellation that ended the task's waiting, and no other."""
        return self._cancelled and self._task is not None and self._task.uncancel() == 0
