"""The room on the store's disk that is kept for what known callers do.

Refusals are entered in the audit, and anybody can cause them. They are summed up, but many addresses and much time could
still fill a disk, and then nothing could be audited and so nothing be done. So refusals are entered only while there is
more room than the reserve; what known callers do, and every checkpoint, may use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from persistence.files import Folder

RESERVE_BYTES: Final = 64 << 20
"""What is kept beside the room for a checkpoint, which writes every file anew while the old one is still there."""
_LARGEST_SHARE: Final = 4
"""At most one in so many bytes of a disk."""
_LOOK_SECONDS: Final = 1.0


class Reserve:
    """Looks at the disk once a second at most."""

    def __init__(self, folder: Folder, *, now: Callable[[], float]) -> None:
        """``now``: seconds; only differences count."""
        self._folder = folder
        self._now = now
        self._looked: float | None = None
        self._untouched = True

    def untouched(self) -> bool:
        """Whether there is more room than what is kept."""
        now = self._now()
        if self._looked is None or abs(now - self._looked) >= _LOOK_SECONDS:
            self._looked = now
            self._untouched = self._look()
        return self._untouched

    def _look(self) -> bool:
        try:
            free, total = self._folder.room()
            kept = min(RESERVE_BYTES + self._folder.size(".json"), total // _LARGEST_SHARE)
        except OSError:
            return False
        return free > kept
