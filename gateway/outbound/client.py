"""A pooled HTTP/1.1 client for one origin (RFC 9110, RFC 9112).

Rules:

- It sends what it is given and adds only Host, Content-Length or Transfer-Encoding. No redirects, no cookies, no
  compression, no proxies.
- A connection goes back to the pool only after a whole response, with nothing before or after it, to a whole request.
- Nothing is sent twice, unless not one byte of it had been written, or it has no body and its method is idempotent
  and the connection was an old one that died before the first byte of a response (RFC 9110 section 9.2.2).
- After a body to GET, HEAD, OPTIONS or DELETE the connection is closed: a server that expects none there, and leaves it
  unread, would take it for the next request (RFC 9110 section 9.3.1).
- A caller that is cancelled while it waits closes its connection.
- Idle connections are bounded, and older ones than ``IDLE_SECONDS`` are never used again. How many are in use at once
  is for the caller to bound.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from gateway.outbound.connection import Body, Connection
from gateway.outbound.response import (
    ConnectError,
    DisconnectedError,
    OutboundError,
    RequestError,
    Response,
    ResponseError,
    ResponseHeaders,
)

__all__ = [
    "ConnectError",
    "DisconnectedError",
    "EncodedHeaders",
    "HttpClient",
    "OutboundError",
    "RequestError",
    "Response",
    "ResponseError",
    "ResponseHeaders",
    "encode_headers",
]

IDLE_SECONDS: Final = 4.0
"""Common servers close an idle connection after 5 s: a request must not meet that."""
MAX_IDLE: Final = 64
CONNECT_SECONDS: Final = 5.0

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(r"[!-~]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_FRAMING: Final = frozenset({"connection", "transfer-encoding", "upgrade", "expect"})

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class EncodedHeaders:
    """Header fields that were checked and encoded once, for requests that differ in their bodies alone."""

    block: bytes = field(repr=False)
    names: frozenset[str]
    content_length: int | None = None


def encode_headers(headers: Headers) -> EncodedHeaders:
    """Check and encode. Raises RequestError for what is no field, and for fields that frame the message."""
    length: int | None = None
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise RequestError("A header field has characters that no field may have.")
        lower = name.lower()
        if lower in _FRAMING:
            raise RequestError(f"{name} is for the client to say.")
        if lower == "content-length":
            if length is not None or not value.isascii() or not value.isdigit():
                raise RequestError("Content-Length is not one number.")
            length = int(value)
    block = "".join(f"{name}: {value}\r\n" for name, value in headers if name.lower() != "content-length")
    return EncodedHeaders(
        block.encode("utf-8", "surrogateescape"), frozenset(name.lower() for name, _ in headers), length
    )


class HttpClient:
    """Sends requests to one origin. Made and used within one running event loop."""

    def __init__(self, origin: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """``origin``: a URL, of which scheme, host and port count. Raises ValueError.

        ``ssl_context`` None: an https origin is verified against the system's certificate authorities.
        """
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
            raise ValueError("an origin is http://HOST:PORT or https://HOST:PORT")
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        self._authority = parts.netloc
        self._ssl_context = (ssl_context or _verifying_context()) if self._tls else None
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<HttpClient {self._authority} connections={len(self._all)} idle={len(self._idle)}>"

    async def send(
        self,
        method: str,
        target: str,
        headers: Headers | EncodedHeaders = (),
        body: Body | None = None,
        *,
        connect_timeout: float = CONNECT_SECONDS,
    ) -> Response:
        """Send a request and wait for the head of its response. Raises OutboundError.

        A body that is not bytes is sent as it comes: in chunks, or with the ``Content-Length`` that ``headers`` say.
        """
        fields = headers if isinstance(headers, EncodedHeaders) else encode_headers(headers)
        last = bool(body) and method in _BODILESS
        head = self._head(method, target, fields, body, last=last)
        again = body is None and method in _IDEMPOTENT
        while True:
            connection = self._take()
            reused = connection is not None
            if connection is None:
                connection = await self._connect(connect_timeout)
            try:
                return await connection.send(method, head, body, fields.content_length, last=last)
            except DisconnectedError as error:
                if not reused or connection.answered or (error.sent and not again):
                    raise

    async def close(self) -> None:
        """Close every connection, those in use included."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        connections = tuple(self._all)
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.lost for connection in connections))

    def _head(
        self, method: str, target: str, fields: EncodedHeaders, body: Body | None, *, last: bool
    ) -> bytes:
        start = _request_line(method, target)
        if last:
            start += "Connection: close\r\n"
        if "host" not in fields.names:
            start += f"Host: {self._authority}\r\n"
        length = fields.content_length
        if body is None or isinstance(body, bytes):
            size = len(body or b"")
            if length not in {None, size}:
                raise RequestError("Content-Length is not the length of the body.")
            framing = (
                b"\r\n" if body is None and method in _BODILESS else b"Content-Length: %d\r\n\r\n" % size
            )
        elif length is not None:
            framing = b"Content-Length: %d\r\n\r\n" % length
        else:
            framing = b"Transfer-Encoding: chunked\r\n\r\n"
        return start.encode() + fields.block + framing

    def _take(self) -> Connection | None:
        """The idle connection that was used last, if one is fresh enough."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(IDLE_SECONDS):
                return connection
            connection.abort()
        return None

    async def _connect(self, timeout: float) -> Connection:
        self._refuse_if_closed()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._release, self._forget),
                    self._host,
                    self._port,
                    ssl=self._ssl_context,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            raise ConnectError(f"No connection within {timeout:g} s.") from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(_cause(error)) from None
        try:
            self._refuse_if_closed()
        except ConnectError:
            connection.abort()
            raise
        self._all.add(connection)
        return connection

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ConnectError("The client is closed.")

    def _release(self, connection: Connection) -> None:
        """Into the pool, or closed where that is full."""
        if self._closed:
            connection.abort()
            return
        self._idle.append(connection)
        if len(self._idle) > MAX_IDLE:
            self._idle.popleft().abort()
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(IDLE_SECONDS, self._sweep)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self) -> None:
        self._sweeper = None
        while self._idle and not self._idle[0].usable(IDLE_SECONDS):
            self._idle.popleft().abort()
        if self._idle and not self._closed:
            self._sweeper = self._idle[0].loop.call_later(IDLE_SECONDS / 2, self._sweep)


@lru_cache(maxsize=256)
def _request_line(method: str, target: str) -> str:
    """Checked and formatted; those of MCP are always the same. Raises RequestError."""
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise RequestError("The method or the target has characters that it may not have.")
    return f"{method} {target} HTTP/1.1\r\n"


_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
"""Methods whose requests need no Content-Length where there is no body (RFC 9110 section 8.6)."""


def _verifying_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'handshake'}."
    if isinstance(error, OSError):
        return f"No connection: {error.strerror or error}."
    return "No connection: not a host name."
