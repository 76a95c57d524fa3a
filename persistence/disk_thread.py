"""A thread for blocking calls to the disk, one after the other.

An executor does the same for about 40 microseconds of CPU time more a call; the journal makes one for each batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread


class DiskThread:
    """Runs what it is given until it is closed. Belongs to the loop that runs when it is made."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[tuple[Callable[[], None], asyncio.Future[None]] | None] = SimpleQueue()
        # A process that ends without closing the store is not held up: what waits is not acknowledged.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], None]) -> asyncio.Future[None]:
        """Queue a call. The future is done when it is, and has its exception."""
        done = self._loop.create_future()
        self._calls.put((call, done))
        return done

    def close(self) -> None:
        """Let the thread end once it has made the calls that wait."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            try:
                call()
            except Exception as error:  # noqa: BLE001 - handed on
                self._loop.call_soon_threadsafe(_failed, done, error)
            else:
                self._loop.call_soon_threadsafe(_succeeded, done)


def _succeeded(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _failed(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
