"""Pages of other origins: which may read answers in a browser (WHATWG Fetch, section 3.2). None, unless configured.

The origin is compared whole. Answers carry ``Vary: Origin``, and allow credentials: a client certificate is one. A
preflight is answered for whoever asks, since browsers send it without any credentials.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway.config.values import CorsSettings

_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE"
_READ_BY_US: Final = (
    "Authorization",
    "Content-Type",
    "Last-Event-ID",
    "MCP-Protocol-Version",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Session-Id",
    "X-API-Key",
    "X-Request-ID",
    "X-Tenant-ID",
)
_TOLD: Final = "MCP-Protocol-Version, Mcp-Session-Id, Retry-After, WWW-Authenticate, X-Request-ID"


def let_read(headers: CIMultiDict[str], origin: str) -> None:
    """Let pages of ``origin`` read the answer, whatever a service behind the gateway said about that."""
    headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
    headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _TOLD
    headers.add(hdrs.VARY, hdrs.ORIGIN)


class Cors:
    """What ``[cors]`` says."""

    def __init__(self, settings: CorsSettings) -> None:
        self._origins = frozenset(settings.origins)
        self._preflight = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join((*_READ_BY_US, *settings.headers)),
            hdrs.ACCESS_CONTROL_MAX_AGE: f"{settings.max_age:.0f}",
        }

    def allows(self, origin: str) -> bool:
        """Whether pages of that origin may read answers."""
        return origin in self._origins

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to the preflight of an allowed origin; None: the request is none."""
        if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return None
        return web.Response(status=204, headers=self._preflight)
