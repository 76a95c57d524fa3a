"""One client connection: who is at the other end, and how long it may take its time.

aiohttp reads and answers; what it leaves open is closed here:

- The head of a request must be whole ``header`` seconds after its first byte, and a connection may be idle for
  ``idle`` seconds. What was begun and not finished is answered with 408.
- A client that leaves its answer unread for ``send`` seconds is cut off.
- What aiohttp's parser refuses gets our answer; a body that breaks off in mid-stream is known to be broken at once.
- A chunked body may not be mostly framing (extensions, trailers).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiohttp import EMPTY_PAYLOAD, hdrs, web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from certs.identity import CertificateError, PeerIdentity, parse_peer
from gateway.config.values import LimitSettings
from gateway.edge.reply import GatewayRequest
from gateway.tls.listener import sent_with
from gateway.tls.witness import BarrenRecordsError

MAX_FRAMING: Final = 64 * 1024
"""Bytes of head, chunk sizes, extensions and trailers that a chunked body may have beside 8 for each of its own."""


class Doorkeeper(Protocol):
    """What the edge is to a connection."""

    def refused_certificate(self, address: str, reason: str, certificate: bytes | None = None) -> None:
        """Somebody was turned away for the TLS side of the connection."""

    def unreadable(
        self, request: GatewayRequest, status: int, error: BaseException | None
    ) -> web.StreamResponse:
        """The answer to what is not HTTP."""


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = (
        "_head_due",
        "_leave",
        "_received",
        "_send_due",
        "_times",
        "address",
        "edge",
        "on_lost",
        "peer",
    )

    def __init__(
        self,
        edge: Doorkeeper,
        server: web.Server,
        *,
        address: str,
        leave: Callable[[], None],
        times: LimitSettings,
        **options: Any,
    ) -> None:
        """``leave`` is called once it is over."""
        super().__init__(
            server,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            keepalive_timeout=times.idle_timeout,
            **options,
        )
        self.edge = edge
        self.address = address
        self.peer: PeerIdentity | None = None
        """The client certificate that the handshake verified."""
        self.on_lost: Callable[[], object] | None = None
        """Told when the client has gone, by whoever wants to know at the time."""
        self._leave = leave
        self._times = times
        self._head_due: asyncio.TimerHandle | None = None
        """While the head of a request is there in part."""
        self._send_due: asyncio.TimerHandle | None = None
        """While the client leaves unread what was sent."""
        self._received = 0
        """Bytes since the request under way began."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        super().connection_made(transport)
        secured = transport.get_extra_info("ssl_object")
        der = secured.getpeercert(binary_form=True)
        try:
            self.peer = None if der is None else parse_peer(der, sent_with(secured))
        except CertificateError as error:
            self.edge.refused_certificate(self.address, str(error), der)
            self.force_close()
        if secured.session_reused:  # TLS 1.2 by session id: its certificate was not looked at again
            self.edge.refused_certificate(self.address, "session_resumed", der)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is over."""
        self._leave()
        if isinstance(exc, BarrenRecordsError):
            self.edge.refused_certificate(self.address, exc.reason_word)
        self._stop_waiting_for_head()
        if self._send_due is not None:
            self._send_due.cancel()
            self._send_due = None
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        request = self._current_request
        arriving = request is not None and not request.content.is_eof()
        idle = self._waiter is not None and not self._waiter.done()
        super().data_received(data)
        if request is not None:
            if arriving:
                self._received += len(data)
                self._watch_body(request)
            return
        self._received = len(data) if idle else self._received + len(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            if self._head_due is not None:
                self._stop_waiting_for_head()
        elif self._head_due is None and not self._force_close:
            self._head_due = self._loop.call_later(self._times.header_timeout, self._head_is_late)

    def mostly_framing(self, request: web.BaseRequest) -> bool:
        """Whether the body that has come so far is out of all proportion to the bytes that carried it."""
        content = request.content
        return self._received > MAX_FRAMING + 8 * content.total_bytes

    def pause_writing(self) -> None:
        """The client does not read as fast as it is sent to."""
        super().pause_writing()
        if self._send_due is None:
            self._send_due = self._loop.call_later(self._times.send_timeout, self._abort)

    def resume_writing(self) -> None:
        """It has read on."""
        if self._send_due is not None:
            self._send_due.cancel()
            self._send_due = None
        super().resume_writing()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """What aiohttp's parser refuses is answered in our form, too."""
        if request.writer.output_size > 0:
            raise ConnectionError("the reply has begun already")
        if not isinstance(request, GatewayRequest):
            raise TypeError("a request that the edge did not make")
        return self.edge.unreadable(request, status, exc)

    def _watch_body(self, request: web.BaseRequest) -> None:
        """A body that cannot come to a good end is ended now."""
        content = request.content
        if content.exception() is not None:
            return
        broken = not content.is_eof() and bool(self._messages) and isinstance(self._messages[-1][0], _ErrInfo)
        if broken or (hdrs.TRANSFER_ENCODING in request.headers and self.mostly_framing(request)):
            content.set_exception(RequestPayloadError("not well-formed"))
            self._lingering_time = 0.0  # there is nothing to wait for

    def _head_is_late(self) -> None:
        """Answer 408, and close."""
        self._head_due = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        error = TimeoutError("the head of the request is late")
        self._messages.append((_ErrInfo(status=408, exc=error, message=""), EMPTY_PAYLOAD))
        waiter.set_result(None)

    def _stop_waiting_for_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _abort(self) -> None:
        self._send_due = None
        if self.transport is not None:  # of uvloop, too, whose class is no asyncio.Transport
            self.transport.abort()
