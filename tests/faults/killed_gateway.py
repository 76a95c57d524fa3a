"""The gateway, ended by SIGKILL at a chosen system call of its store.

python tests/faults/killed_gateway.py CALL NUMBER before|after serve --config FILE

It is the real program with another ``System``: what ``CALL`` does is done or not done, then the process is gone. Its
checkpoints follow each other at once and its audit segments are small, so that the instants are of every kind.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gateway.app
from gateway.cli import main
from persistence import JsonStores
from persistence.files import System


class Killing(System):
    """Ends the process at the ``number``-th call of that name."""

    def __init__(self, call: str, number: int, when: str) -> None:
        self._left = number
        self._when = when
        setattr(self, call, partial(self._counted, getattr(self, call)))

    def _counted(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self._left -= 1
        if self._left == 0 and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(*arguments)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


if __name__ == "__main__":
    call, number, when, *words = sys.argv[1:]
    gateway.app.open_stores = partial(
        JsonStores.open, system=Killing(call, int(number), when), pause=0.01, segment_bytes=200_000
    )
    sys.exit(main(words))
