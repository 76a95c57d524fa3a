"""What another hop might read differently from the gateway is refused before anything else looks at it.

RFC 9112 sections 2.2, 3.2, 6.1, 7.1 and 11.2; RFC 9110 sections 5.3 and 7.8. aiohttp's parser refuses most of what is
no HTTP at all; this is about what it lets through. A refusal for how the message is framed or spelled ends the
connection: where one request ends and the next begins is in doubt then.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from aiohttp import hdrs
from aiohttp.http import HttpVersion10, HttpVersion11

from gateway.edge.cors import Cors
from gateway.edge.reply import GatewayRequest
from gateway.model import Deny, Reason
from gateway.tls.connection import Connection

_SINGLETONS: Final = (
    hdrs.HOST,
    hdrs.CONTENT_LENGTH,
    hdrs.CONTENT_TYPE,
    hdrs.TRANSFER_ENCODING,
    hdrs.ORIGIN,
    hdrs.USER_AGENT,
    hdrs.EXPECT,
    hdrs.RANGE,
    hdrs.UPGRADE,
    "X-Request-ID",
    "X-Tenant-ID",
    "Mcp-Session-Id",
    "MCP-Protocol-Version",
    "Last-Event-ID",
)
_ANSWERS_ANYONE: Final = ("/health/", "/.well-known/")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


class Readings:
    """Looks for requests that can be read in two ways."""

    def __init__(self, allowed_hosts: frozenset[str], cors: Cors) -> None:
        self._allowed_hosts = allowed_hosts
        self._cors = cors

    def refusal(self, request: GatewayRequest) -> Deny | None:
        """Why the request goes no further; None: everybody reads it alike."""
        headers = request.headers
        target = request.raw_path
        if not target.startswith("/") or "#" in target or "\\" in target or not target.isascii():
            return _ambiguous("The request target must be a path that starts with /, in ASCII.")
        for name in _SINGLETONS:
            if name in headers and len(headers.getall(name)) > 1:
                return _ambiguous(f"{name} is there more than once.")
        if "_" in " ".join(headers):
            return _ambiguous("A header's name has an underscore.")
        framing = _framing(request)
        if framing is not None:
            return framing
        host = headers.get(hdrs.HOST)
        if host is None or not self._may_be_asked_as(host, target):
            return Deny(
                Reason.HOST_NOT_ALLOWED,
                "Use the gateway's own name, or add this one to [server] trusted_hosts.",
            )
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None and not self._may_be_asked_from(origin):
            return Deny(
                Reason.ORIGIN_NOT_ALLOWED,
                "Pages of this origin may not call: add it to [server] trusted_hosts, or to [cors] origins.",
            )
        if hdrs.CONTENT_ENCODING in headers:
            return Deny(Reason.CONTENT_ENCODING, "Send the body as it is, without Content-Encoding.")
        return None

    def _may_be_asked_as(self, host: str, target: str) -> bool:
        """Whether the name is one of the gateway's; what is for everybody (load balancers, too) answers to any name."""
        name = _host_name(host)
        return name in self._allowed_hosts or (name is not None and target.startswith(_ANSWERS_ANYONE))

    def _may_be_asked_from(self, origin: str) -> bool:
        return _host_name(origin.partition("://")[2]) in self._allowed_hosts or self._cors.allows(origin)


def _framing(request: GatewayRequest) -> Deny | None:
    """Whether everybody finds the same end of the message."""
    headers, version = request.headers, request.asked_version
    if version not in (HttpVersion11, HttpVersion10):
        return _ambiguous("Only HTTP/1.1 and HTTP/1.0 are understood.")
    encoding = headers.get(hdrs.TRANSFER_ENCODING)
    if encoding is not None:
        if version != HttpVersion11 or encoding.lower() != "chunked" or hdrs.CONTENT_LENGTH in headers:
            return _ambiguous("Only chunked, alone and in HTTP/1.1, is understood.")
        connection = request.protocol
        if isinstance(connection, Connection) and connection.mostly_framing(request):
            return _ambiguous("The chunks of the body carry too much beside their data.")
    upgrade = headers.get(hdrs.UPGRADE)
    if upgrade is not None and (upgrade.lower() != "websocket" or request.body_exists):
        return _ambiguous("Only an upgrade to websocket, without a body, is understood.")
    return None


def _ambiguous(detail: str) -> Deny:
    return Deny(Reason.AMBIGUOUS_REQUEST, detail)


@lru_cache(maxsize=256)
def _host_name(authority: str) -> str | None:
    """The name alone, lower case, of ``name:port`` or ``[::1]:port``; None where it is neither."""
    match = _HOST.fullmatch(authority)
    return match[1].strip("[]").lower() if match else None
