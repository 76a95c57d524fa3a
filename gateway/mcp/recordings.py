"""What was sent on a legacy session's streams, so that a client can take one up again (``Last-Event-ID``).

A stream that broke off is no cancellation in the legacy era: its request goes on, and what it still says is kept for
the client that comes back. Only the newest streams are kept, and of each no more than MAX_BYTES.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from typing import Final

MAX_STREAMS: Final = 16
MAX_BYTES: Final = 1024 * 1024


class Recording:
    """One stream's messages, each with its event id."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.of_session = False
        """Whether it is that of the session (GET): then there is more to come on the stream that takes it up."""
        self._messages: deque[tuple[int, bytes]] = deque()
        self._numbers = itertools.count(1)
        self._size = 0
        self._closed = False
        self._changed = asyncio.Event()

    def first_id(self) -> str:
        """The id of an event that stands before all messages."""
        return f"{self.name}-0"

    def add(self, message: bytes) -> str:
        """The event id of the next message."""
        number = next(self._numbers)
        self._messages.append((number, message))
        self._size += len(message)
        while self._size > MAX_BYTES and len(self._messages) > 1:
            self._size -= len(self._messages.popleft()[1])
        self._changed.set()
        return f"{self.name}-{number}"

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._changed.set()

    async def after(self, number: int) -> AsyncIterator[tuple[str, bytes]]:
        """The messages after that one, with their event ids; as they come, until the stream is closed."""
        while True:
            for at, message in [one for one in self._messages if one[0] > number]:
                number = at
                yield f"{self.name}-{at}", message
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()


class Recordings:
    """Those of one session."""

    def __init__(self) -> None:
        self._names = itertools.count(1)
        self._kept: OrderedDict[str, Recording] = OrderedDict()

    def begin(self) -> Recording:
        """A new stream."""
        recording = Recording(str(next(self._names)))
        self._kept[recording.name] = recording
        if len(self._kept) > MAX_STREAMS:
            self._kept.popitem(last=False)[1].close()
        return recording

    def find(self, event_id: str) -> tuple[Recording, int] | None:
        """The stream to which that event belongs, and its number there."""
        name, _, number = event_id.partition("-")
        recording = self._kept.get(name)
        if recording is None or not number.isdigit() or len(number) > 15:
            return None
        return recording, int(number)
