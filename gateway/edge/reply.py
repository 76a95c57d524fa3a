"""How every answer leaves: with the request's id and the security headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11

from gateway.edge.cors import let_read

_SECURITY_HEADERS: Final = {
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "X-XSS-Protection": "0",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_SECURITY_FIELDS: Final = "".join(f"{name}: {value}\r\n" for name, value in _SECURITY_HEADERS.items())


class GatewayRequest(web.BaseRequest):
    """A request whose answer gets our headers, whoever makes it."""

    request_id: str = ""
    """Safe to be sent: the edge sees to it."""
    body_timeout: float = 30.0
    """Seconds for the whole of its body."""
    page_origin: str | None = None
    """The origin of the page that asks, where it may read the answer."""
    is_readable: bool = True
    """False: nothing of it could be read, its version neither."""
    readmit: Callable[[], None] | None = None
    """Raises Refused where its caller would not be let in any more; to be asked after the caller was waited for."""

    @property
    def version(self) -> HttpVersion:
        """The version of the answer, too: one that we speak, whatever was asked in (RFC 9110 section 2.5)."""
        as_old = self.is_readable and self.asked_version == HttpVersion10
        return HttpVersion10 if as_old else HttpVersion11

    @property
    def asked_version(self) -> HttpVersion:
        """The version that the request says."""
        return super().version

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.popall(hdrs.SERVER, None)
        headers["X-Request-ID"] = self.request_id
        for name, value in _SECURITY_HEADERS.items():
            if name not in headers:
                headers[name] = value
        if self.page_origin is not None:
            let_read(headers, self.page_origin)


class JsonReply(web.Response):
    """A whole JSON answer: what aiohttp would send, at a third of its cost, as the head is one piece of text.

    A reply with header fields of its own, to HEAD, to a page of another origin, or in HTTP/1.0 goes aiohttp's way.
    """

    def __init__(self, body: bytes, status: int = 200) -> None:
        super().__init__(body=body, status=status)
        self._message: bytes | None = None
        """Head and body, while they wait to be sent."""
        self._content = body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Make the head; it is sent together with the body."""
        ordinary = self._headers or self.prepared or request.method == hdrs.METH_HEAD
        if (
            ordinary
            or not isinstance(request, GatewayRequest)
            or request.version != HttpVersion11
            or request.page_origin is not None
        ):
            self._headers.setdefault(hdrs.CONTENT_TYPE, "application/json")
            return await super().prepare(request)
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        self._req, self._payload_writer = request, request.writer
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(self._content)}\r\n"
            f"Date: {rfc822_formatted_time()}\r\n"
            f"X-Request-ID: {request.request_id}\r\n"
            f"{_SECURITY_FIELDS}{_KEEP if self._keep_alive else _CLOSE}"
        )
        self._message = head.encode("ascii") + self._content
        return self._payload_writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Send it."""
        message, writer = self._message, self._payload_writer
        if message is None or writer is None:
            await super().write_eof(data)
            return
        await writer.write_eof(message)
        self._message = self._req = self._payload_writer = None
        self._eof_sent = True
        self._body_length = writer.output_size


_KEEP: Final = "\r\n"
_CLOSE: Final = "Connection: close\r\n\r\n"
