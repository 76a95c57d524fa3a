"""How soon what is asked for again and again is done again."""

from __future__ import annotations

import math


class Pace:
    """At once, and once more at once; then after pauses that double. After a while without it all begins anew."""

    def __init__(self, first: float, longest: float) -> None:
        """The first pause and the longest, in seconds; the while is as long as the longest."""
        self._first = first
        self._longest = longest
        self._pause = 0.0
        self._next_at = -math.inf

    def wait(self, now: float) -> float:
        """In how many seconds it may be done; 0: now."""
        return max(0.0, self._next_at - now)

    def begun(self, now: float) -> None:
        """It is being done."""
        if now - self._next_at > self._longest:
            self._pause = 0.0
        self._next_at = now + self._pause
        self._pause = min(max(2 * self._pause, self._first), self._longest)
