"""Ends what the gateway's child processes leave behind when the gateway is killed: ``python keeper.py``.

A child dies with the gateway (see ``sandbox``), but not what the child has started: a ``kill -9`` of the gateway leaves it no
time to end the groups. So this program, one for all children, is told of each group on its standard input (``+PGID``,
``-PGID``). When that ends, the gateway is gone, however it ended: then the groups that are left are killed.

It is run by its path, in an isolated interpreter, so it may import nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Final

_HEEDED_NOT: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What a service manager sends to all its processes: the gateway is to end first."""


def main() -> None:
    """Care for groups until the gateway is gone."""
    for number in _HEEDED_NOT:
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
