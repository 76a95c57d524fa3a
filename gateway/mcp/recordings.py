"""What was sent on a legacy session's streams, so that a client can take one up again (``Last-Event-ID``).

A stream that broke off is no cancellation in the legacy era: its request goes on, and what it still says is kept for
the client that comes back. Only the newest streams are kept, and of each no more than MAX_BYTES but for a single larger
message. Where that is too much for one client, or for all together, the oldest streams are forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from typing import Final

MAX_STREAMS: Final = 16
"""Of one session."""
MAX_BYTES: Final = 1024 * 1024
"""Of one stream."""
MAX_BYTES_OF_ONE: Final = 16 * 1024 * 1024
"""Of one client, or of one network where the callers are anonymous."""
MAX_BYTES_OF_ALL: Final = 256 * 1024 * 1024

Owner = tuple[str | None, str | None]


class Shelf:
    """The room that all sessions' recordings have."""

    def __init__(self) -> None:
        self._all: dict[Recording, None] = {}
        """What has messages, oldest first."""
        self._of: dict[Owner, dict[Recording, None]] = {}
        self._bytes: dict[Owner, int] = {}
        self.size = 0
        """Bytes of all messages."""

    def grew(self, recording: Recording, size: int) -> None:
        """It has so many bytes more; the oldest are forgotten where that is too much."""
        owner = recording.owner
        own = self._of.setdefault(owner, {})
        own[recording] = self._all[recording] = None
        self._bytes[owner] = self._bytes.get(owner, 0) + size
        self.size += size
        while self._bytes.get(owner, 0) > MAX_BYTES_OF_ONE:
            next(iter(own)).forget()
        while self.size > MAX_BYTES_OF_ALL:
            next(iter(self._all)).forget()

    def gone(self, recording: Recording, size: int) -> None:
        """It has nothing left of its so many bytes."""
        if recording not in self._all:
            return
        del self._all[recording]
        self._bytes[recording.owner] -= size
        self.size -= size
        own = self._of[recording.owner]
        del own[recording]
        if not own:
            del self._of[recording.owner], self._bytes[recording.owner]


class Recording:
    """One stream's messages, each with its event id."""

    def __init__(self, name: str, owner: Owner, shelf: Shelf) -> None:
        self.name = name
        self.owner = owner
        self._shelf = shelf
        self.forgotten = False
        """Whether nothing of it is kept: it was too much, or its session has ended."""
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
        if not self.forgotten:
            self._keep(number, message)
        return f"{self.name}-{number}"

    def _keep(self, number: int, message: bytes) -> None:
        before = self._size
        self._messages.append((number, message))
        self._size += len(message)
        while self._size > MAX_BYTES and len(self._messages) > 1:
            self._size -= len(self._messages.popleft()[1])
        self._changed.set()
        self._shelf.grew(self, self._size - before)

    def forget(self) -> None:
        """Keep nothing of it, now or later."""
        self._shelf.gone(self, self._size)
        self._messages.clear()
        self._size = 0
        self.forgotten = True
        self.close()

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


_NUMBER: Final = re.compile(r"[0-9]{1,15}")


class Recordings:
    """Those of one session."""

    def __init__(self, owner: Owner, shelf: Shelf) -> None:
        self._owner = owner
        self._shelf = shelf
        self._ended = False
        self._names = itertools.count(1)
        self._kept: OrderedDict[str, Recording] = OrderedDict()

    def begin(self) -> Recording:
        """A new stream."""
        recording = Recording(str(next(self._names)), self._owner, self._shelf)
        self._kept[recording.name] = recording
        if len(self._kept) > MAX_STREAMS:
            self._kept.popitem(last=False)[1].forget()
        if self._ended:
            self.end()
        return recording

    def end(self) -> None:
        """The session has ended: nothing is kept any more."""
        self._ended = True
        for recording in self._kept.values():
            recording.forget()
        self._kept.clear()

    def find(self, event_id: str) -> tuple[Recording, int] | None:
        """The stream to which that event belongs, and its number there."""
        name, _, number = event_id.partition("-")
        recording = self._kept.get(name)
        if recording is None or recording.forgotten or not _NUMBER.fullmatch(number):
            return None
        return recording, int(number)
