"""A line in the log about an upstream that could be the cause of any number of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

log = logging.getLogger("ostiary.mcp")

PAUSE: Final = 60.0
"""Seconds from one such line to the next."""


class Complaint:
    """Is logged once a minute at most, with how often it would have been since."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_at = -math.inf
        self._withheld = 0

    def warn(self, text: str) -> None:
        """Say it, if it is time to."""
        now = self._clock()
        if now < self._next_at:
            self._withheld += 1
            return
        since = f" (and {self._withheld} times more since that was logged last)" if self._withheld else ""
        log.warning("%s%s", text, since)
        self._next_at, self._withheld = now + PAUSE, 0
