"""Server-sent events, sans I/O: bytes in, events out (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_EVENT: Final = 16 * 1024 * 1024
"""Bytes of one event."""
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class EventTooLargeError(Exception):
    """An event has more than ``MAX_EVENT`` bytes."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``name`` is b"message" where the server gave none."""

    name: bytes
    data: bytes


class EventParser:
    """Reads one stream. A line may end with CR, LF or CRLF, wherever the stream is cut into pieces."""

    def __init__(self, max_event: int = MAX_EVENT, *, last_id: str | None = None) -> None:
        self.last_id = last_id
        """The last event id that was seen, those of events without data included."""
        self.retry: float | None = None
        """Seconds to wait before reconnecting, where the server said so."""
        self._max_event = max_event
        self._buffer = bytearray()
        self._searched = 0
        self._at_start = True
        self._after_cr = False
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes that are kept of an event that is not whole yet."""
        return self._size + len(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Raises EventTooLargeError."""
        buffer = self._buffer
        buffer += data
        events: list[Event] = []
        begin = 0
        if self._at_start:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                return events
            self._at_start = False
            begin = len(_BOM) if buffer.startswith(_BOM) else 0
        if self._after_cr and len(buffer) > begin:
            begin += buffer[begin] == 0x0A  # the other half of a CRLF
            self._after_cr = False
        search = max(begin, self._searched)
        while end := _LINE_END.search(buffer, search):
            event = self._line(bytes(buffer[begin : end.start()]))
            if event is not None:
                events.append(event)
            begin = search = end.end()
            self._after_cr = begin == len(buffer) and buffer[begin - 1] == 0x0D
        del buffer[:begin]
        self._searched = len(buffer)
        if self._size + len(buffer) > self._max_event:
            raise EventTooLargeError
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._max_event:
                raise EventTooLargeError
        elif field == b"event":
            self._name = value
        elif field == b"id" and b"\0" not in value:
            self.last_id = value.decode("utf-8", "replace")
        elif field == b"retry" and value.isdigit():
            self.retry = int(value[:12]) / 1000
        return None

    def _dispatch(self) -> Event | None:
        name, data = self._name or b"message", b"\n".join(self._data)
        self._name, self._size = b"", 0
        self._data.clear()
        return Event(name, data) if data else None
