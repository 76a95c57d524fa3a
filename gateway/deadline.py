"""``asyncio.timeout`` for the path of every call."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadline:
    """A block that must end by an instant of the loop's clock; else what it awaits is cancelled, and TimeoutError raised.

    As ``asyncio.timeout_at``, which asks three times for the running loop; in Python 3.11 each is a system call.
    """

    __slots__ = ("_expired", "_loop", "_others", "_task", "_timer", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        """``loop``: the one that runs."""
        self._loop = loop
        self._when = when
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        """While inside, and not over."""

    def __enter__(self) -> None:
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("only a task has a deadline")
        self._task = task
        self._others = task.cancelling()
        self._timer = self._loop.call_at(self._when, self._expire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._expired:
            return
        if self._task.uncancel() <= self._others and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error  # nobody else has cancelled the task

    def reschedule(self, when: float) -> None:
        """It must end by another instant, unless it has ended, or is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._timer = None
        self._task.cancel()
