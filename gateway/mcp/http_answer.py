"""The messages in an HTTP answer: one JSON body, or a stream of server-sent events."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from gateway.mcp.exchange import MAX_MESSAGE, invalid, messages_in, unavailable
from gateway.mcp.messages import Message, Rejected
from gateway.mcp.sse import EventParser, EventTooLargeError
from gateway.mcp.unasked import Unasked
from gateway.mcp.upstream import Load
from gateway.outbound.client import OutboundError, Response, ResponseError

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"


class Answer:
    """Reads what one response brings, message by message."""

    __slots__ = ("_events", "_load", "_messages", "_name", "_unasked", "response")

    def __init__(
        self, name: str, response: Response, *, after: str | None = None, load: Load | None = None
    ) -> None:
        """``name``: the upstream's; ``after``: the event id after which the stream goes on; ``load`` counts what is read.

        Raises UpstreamError where the content is neither JSON nor events.
        """
        self.response = response
        self._name = name
        self._load = load
        self._messages: deque[Message] = deque()
        self._unasked: Unasked | None = None
        content_type = response.headers.get("content-type") or ""
        kind = content_type.partition(";")[0].strip().lower()
        self._events = EventParser(last_id=after) if kind == EVENTS else None
        if kind not in {JSON, EVENTS}:
            response.close()
            raise invalid(name, "answered with neither JSON nor events")

    @property
    def at_hand(self) -> bool:
        """Whether the next message is here already."""
        return bool(self._messages) or (self._events is None and self.response.whole)

    @property
    def last_id(self) -> str | None:
        """Where a stream may be taken up again (``Last-Event-ID``)."""
        return self._events.last_id if self._events is not None else None

    @property
    def retry(self) -> float | None:
        """Seconds to wait before that, where the upstream said so."""
        return self._events.retry if self._events is not None else None

    def unasked(self) -> None:
        """The last message was one that nobody had asked for. Raises UpstreamError where those are a flood."""
        if self._unasked is None:
            self._unasked = Unasked(time.monotonic)
        self._unasked.add()
        if self._unasked.too_much:
            raise invalid(self._name, "floods the gateway with what nobody asked for")

    async def next(self) -> Message | None:
        """The next message; None: the answer has ended. Raises UpstreamError."""
        while not self._messages:
            try:
                if not await self._read():
                    return None
            except ResponseError:
                raise invalid(self._name, "answered with something that is not HTTP, or too large") from None
            except OutboundError:
                raise unavailable(self._name, "broke off its answer") from None
            except EventTooLargeError:
                raise invalid(self._name, "sent too large an event") from None
            except Rejected:
                raise invalid(self._name, "answered with something that is not JSON-RPC") from None
        return self._messages.popleft()

    async def _read(self) -> bool:
        """Read on; whether there was anything."""
        if self._events is None:
            data = await self.response.read(MAX_MESSAGE, None if self._load is None else self._load.grow_to)
            if data:
                self._messages += messages_in(data)
            return bool(data)
        data = await self.response.chunk()
        for event in self._events.feed(data):
            if event.name == b"message":
                self._messages += messages_in(event.data)
        if self._load is not None:
            self._load.grow_to(self._events.size)
        return bool(data)
