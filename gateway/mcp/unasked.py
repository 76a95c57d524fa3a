"""How much an upstream may say that nobody asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_UNASKED: Final = 1_000
MAX_UNASKED_BYTES: Final = 8 * 1024 * 1024
"""What it may send within a second and without a reply in between, but for progress that was asked for."""


class Unasked:
    """Counts what came in this second, and since the last reply, that nobody had asked for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._messages = 0
        self._bytes = 0

    def add(self, size: int = 0) -> None:
        """One more message of that many bytes."""
        now = self._clock()
        if now - self._since >= 1.0:
            self.clear()
            self._since = now
        self._messages += 1
        self._bytes += size

    def clear(self) -> None:
        """Something came that was waited for."""
        self._messages = self._bytes = 0

    @property
    def too_much(self) -> bool:
        """Whether the upstream floods the gateway."""
        return self._messages > MAX_UNASKED or self._bytes > MAX_UNASKED_BYTES
