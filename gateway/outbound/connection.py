"""One HTTP/1.1 connection to a server (RFC 9112): at most one request under way on it, and its response."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Final, cast

import httptools

from gateway.outbound.response import (
    DisconnectedError,
    OutboundError,
    Response,
    ResponseError,
    ResponseHeaders,
    TlsAlertError,
)

MAX_HEAD: Final = 64 * 1024
"""Bytes of a response's status line, fields and trailers, those of interim responses included."""
DRAIN_BYTES: Final = 64 * 1024
DRAIN_SECONDS: Final = 1.0

Body = bytes | AsyncIterable[bytes]


class Connection(asyncio.Protocol):
    """One connection, and the callbacks of its parser. At most one request is under way on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        release: Callable[[Connection], None],
        forget: Callable[[Connection], None],
    ) -> None:
        self.loop = loop
        self.lost: asyncio.Future[None] = loop.create_future()
        self.answered = False
        """Whether any byte has come since the request was begun."""
        self._release = release
        self._forget = forget
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._idle_since = loop.time()
        self._method = ""
        self._waiter: asyncio.Future[Response] | None = None
        """Set while the head of a response is awaited."""
        self._response: Response | None = None
        """Set while a body comes that somebody wants."""
        self._receiving = False
        """Whether a response is owed, or under way."""
        self._sending = False
        self._whole = False
        """Whether the response has just come to its end."""
        self._spoilt = False
        """Whether something has come that was not asked for."""
        self._aborted = False
        self._keep_alive = False
        self._last = False
        self._until_close = False
        self._head_size = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._in_head = False
        self._reading_paused = False
        self._writable: asyncio.Future[None] | None = None
        """Set while the transport's buffer is full."""
        self._draining: asyncio.TimerHandle | None = None
        self._drained = 0

    # -- for the client -----------------------------------------------------------------------------------------------

    def usable(self, idle_seconds: float) -> bool:
        """Whether it may carry another request."""
        fresh = self.loop.time() - self._idle_since < idle_seconds
        return fresh and not self._spoilt and not self._transport.is_closing()

    async def send(
        self, method: str, head: bytes, body: Body | None, length: int | None, *, last: bool = False
    ) -> Response:
        """Send a request; the response, once its head has come. ``last``: nothing follows on it. Raises OutboundError."""
        if self._transport.is_closing():
            raise DisconnectedError("The connection was closed.", sent=False)
        waiter: asyncio.Future[Response] = self.loop.create_future()
        self._waiter, self._method = waiter, method
        self._receiving, self.answered = True, False
        self._head_size = 0
        self._last = last
        try:
            if body is None or isinstance(body, bytes):
                self._transport.write(head + body if body else head)
            else:
                try:
                    await self._send_stream(head, body, length, waiter)
                finally:
                    if isinstance(body, AsyncGenerator):
                        await body.aclose()  # it may not have come to its end
            return await waiter
        except BaseException:
            if self._waiter is waiter or waiter.cancelled():
                waiter.cancel()  # nobody awaits it any more
                self.abort()
            elif waiter.exception() is None:
                waiter.result().close()  # the connection itself may be in other hands by now
            raise

    async def _send_stream(
        self, head: bytes, body: AsyncIterable[bytes], length: int | None, waiter: asyncio.Future[Response]
    ) -> None:
        """Send the body as it comes, until it ends or the server answers before that."""
        self._sending = True
        self._transport.write(head)
        sent = 0
        async for piece in body:
            if waiter.done() or self._transport.is_closing():
                return  # still sending, so it is not used again
            if not piece:
                continue
            sent += len(piece)
            if length is not None and sent > length:
                raise OutboundError("The body is longer than its Content-Length.", sent=True)
            self._transport.write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            if self._writable is not None:
                await self._writable
        if length is None:
            self._transport.write(b"0\r\n\r\n")
        elif sent != length:
            raise OutboundError("The body is shorter than its Content-Length.", sent=True)
        self._sending = False

    def resume_reading(self) -> None:
        """There is room for more of the body."""
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def drain_response(self) -> None:
        """Nobody wants the rest of the response: throw it away as it comes, within bounds."""
        self._response = None
        self._drained = 0
        self._draining = self.loop.call_later(DRAIN_SECONDS, self.abort)
        self.resume_reading()

    def abort(self) -> None:
        """Close it now."""
        self._aborted = True
        self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a response; anything else ends the connection."""
        if not self._receiving:
            self.abort()  # nothing was asked
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__
            self._fail(
                cause if isinstance(cause, ResponseError) else ResponseError("The response is not HTTP/1.1.")
            )
            return
        if self._whole:
            self._whole = False
            self._finished()
        elif self._in_head:
            self._head_size += len(data)
            if self._head_size > 2 * MAX_HEAD:  # a field that never ends
                self._fail(ResponseError("The head of the response is too large."))

    def connection_lost(self, exc: Exception | None) -> None:
        """It ends; so does what was waited for."""
        if self._until_close and exc is None and self._receiving and not self._aborted:
            self._complete()
        elif self._receiving:
            self._fail(_ended_by(exc))
        if self._draining is not None:
            self._draining.cancel()
        self.resume_writing()
        self._forget(self)
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """It has room again, or whoever waits for that shall look why."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- the parser's callbacks ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A status line begins."""
        self._in_head = True
        self._fields, self._reason = [], b""
        if not self._receiving:
            self._spoilt = True

    def on_status(self, status: bytes) -> None:
        """A part of the reason phrase."""
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer."""
        self._head_size += len(name) + len(value) + 4
        if self._head_size > MAX_HEAD:
            raise ResponseError("The head of the response is too large.")
        if self._in_head:  # trailers are not kept
            self._fields.append((name, value.strip()))

    def on_headers_complete(self) -> None:
        """The head is whole; that of an interim response is thrown away (RFC 9110 section 15.2)."""
        status = self._parser.get_status_code()
        if self._spoilt:
            return
        if status < 200:
            if status == 101 or status < 100:
                raise ResponseError("The response switches protocols, which nobody asked for.")
            return
        self._in_head = False
        self._keep_alive = self._parser.should_keep_alive() and not self._last
        framed = _framed(self._fields)
        bodiless = self._method == "HEAD" or status in {204, 304}
        self._until_close = not framed and not bodiless
        response = Response(status, self._reason.decode("latin-1"), ResponseHeaders(self._fields), self)
        self._response = response
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(response)
        else:
            self.abort()  # whoever asked is gone
        self.resume_writing()  # whoever still sends shall look
        if self._method == "HEAD":
            self._complete()
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for a body

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self._receiving:
            self._spoilt = True
        elif self._response is not None:
            if not self._response.feed(body) and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
        elif self._draining is not None:
            self._drained += len(body)
            if self._drained > DRAIN_BYTES:
                self.abort()

    def on_message_complete(self) -> None:
        """The response is whole."""
        if not self._in_head and self._receiving:
            self._complete()

    # -- how a response ends ------------------------------------------------------------------------------------------

    def _complete(self) -> None:
        self._receiving = False
        self._whole = True
        if self._response is not None:
            self._response.end(None)
            self._response = None

    def _finished(self) -> None:
        """A response has come whole, and all that came with it has been looked at."""
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        unsent = self._sending or self._transport.get_write_buffer_size() > 0
        if self._spoilt or unsent or not self._keep_alive or self._transport.is_closing():
            self.abort()
            return
        self.resume_reading()
        self._idle_since = self.loop.time()
        self._release(self)

    def _fail(self, error: OutboundError) -> None:
        self._receiving = False
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        if self._response is not None:
            self._response.end(error)
            self._response = None
        self.abort()


def _ended_by(exc: Exception | None) -> DisconnectedError:
    """In TLS 1.3 a client hears only after the handshake that its certificate is refused."""
    reason = exc.reason if isinstance(exc, ssl.SSLError) else None
    _, alert, what = (reason or "").partition("ALERT_")
    if alert:
        return TlsAlertError(f"The server refused the TLS connection ({what.replace('_', ' ').lower()}).")
    return DisconnectedError("The connection ended before the response did.", sent=True)


def _framed(fields: list[tuple[bytes, bytes]]) -> bool:
    """Whether the fields say where the body ends. Raises ResponseError where they say two things (RFC 9112 6.3)."""
    lengths = codings = 0
    for name, value in fields:
        lower = name.lower()
        if lower == b"content-length":
            lengths += 1
        elif lower == b"transfer-encoding":
            codings += 1
            if value.lower() != b"chunked":
                raise ResponseError("The response has a transfer coding that nobody asked for.")
    if lengths + codings > 1:
        raise ResponseError("The response says twice how long it is.")
    return lengths + codings == 1
