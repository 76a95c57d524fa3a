"""How many files the process may have open: each connection is one."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

ENOUGH: Final = 65_536
"""No more than this is asked for by itself: programs that go through all numbers that there may be are slow with millions."""


def allow_many() -> None:
    """Raise the soft limit, which in a shell and under most service managers is 1024, towards the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
