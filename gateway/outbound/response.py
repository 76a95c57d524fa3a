"""What a server answers: the head of a response, its body as it comes, and how both can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

HIGH_WATER: Final = 256 * 1024
"""Bytes of a response that may wait for their reader before the server is held back."""


class OutboundError(Exception):
    """There is no usable response. ``sent``: whether any byte of the request may have reached the server."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class RequestError(OutboundError):
    """What was to be sent is not a request; nothing was."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class ConnectError(OutboundError):
    """The server cannot be reached (refused, unknown name, TLS, too slow); nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class DisconnectedError(OutboundError):
    """The connection ended before the response did."""


class TlsAlertError(DisconnectedError):
    """The server ended TLS with an alert, before it read anything."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class ResponseError(OutboundError):
    """What came is not HTTP/1.1, or larger than allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class ResponseHeaders:
    """The fields of a response, in their order; names are compared without regard to case."""

    __slots__ = ("_fields",)

    def __init__(self, fields: list[tuple[bytes, bytes]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str | None:
        """The first field of that name; None: there is none."""
        wanted = name.lower().encode()
        for key, value in self._fields:
            if key.lower() == wanted:
                return _text(value)
        return None

    def items(self) -> list[tuple[str, str]]:
        """Every field, as received."""
        return [(_text(key), _text(value)) for key, value in self._fields]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class Source(Protocol):
    """Where the body of a response comes from: its connection."""

    loop: asyncio.AbstractEventLoop

    def resume_reading(self) -> None:
        """There is room for more of the body."""

    def drain_response(self) -> None:
        """Nobody wants the rest of the body: throw it away as it comes, within bounds."""

    def abort(self) -> None:
        """Close the connection now."""


class Response:
    """A response whose head has come; its body is read as it comes."""

    __slots__ = (
        "_chunks",
        "_error",
        "_size",
        "_source",
        "_waiter",
        "headers",
        "reason",
        "status",
    )

    def __init__(self, status: int, reason: str, headers: ResponseHeaders, source: Source) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._source: Source | None = source
        """What still owes a part of the body; None: the body is whole, or will never be."""
        self._chunks: list[bytes] = []
        self._size = 0
        self._error: OutboundError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Response {self.status} {'open' if self._source else 'ended'}>"

    @property
    def whole(self) -> bool:
        """Whether no more will come: reading on does not wait."""
        return self._source is None

    async def read(self, limit: int, on_growth: Callable[[int], None] | None = None) -> bytes:
        """The rest of the body. Raises ResponseError where that is more than ``limit`` bytes, and OutboundError.

        ``on_growth`` is told how much of it there is, as it comes in pieces; what it raises ends the reading.
        """
        if self._source is None and len(self._chunks) == 1 and self._size <= limit and self._error is None:
            self._size = 0
            return self._chunks.pop()  # it came in one piece: the usual case
        pieces: list[bytes] = []
        size = 0
        while piece := await self.chunk():
            size += len(piece)
            if size > limit:
                self.close()
                raise ResponseError(f"The response has more than {limit} bytes.")
            if on_growth is not None:
                on_growth(size)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunk(self) -> bytes:
        """What has come since the last call, at least a byte; b"" at the end. Raises OutboundError where it is cut."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._source is None:
                return b""
            self._waiter = self._source.loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.close()
                raise
            finally:
                self._waiter = None
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._source is not None:
            self._source.resume_reading()
        return data

    def close(self) -> None:
        """Done with it. The connection is closed, unless the body has come whole: then it is in the pool already."""
        if self._source is not None:
            self._source.abort()
            self.end(DisconnectedError("The response was closed.", sent=True))

    def drain(self) -> None:
        """Done with it, but let what little is left of the body come, so that the connection may be used again."""
        if self._source is not None:
            self._source.drain_response()
            self.end(DisconnectedError("The response was closed.", sent=True))

    # -- for the connection -------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bool:
        """Take a part of the body; whether more may come before these are read."""
        self._chunks.append(data)
        self._size += len(data)
        self._wake()
        return self._size < HIGH_WATER

    def end(self, error: OutboundError | None) -> None:
        """No more will come."""
        self._source = None
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
