"""``/health/live`` and ``/health/ready``: for load balancers and people; they tell nothing secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from aiohttp import web

from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest
from gateway.mcp.catalogue import Catalogue
from gateway.model import ClientContext, Inbound
from persistence.protocols import Stores


class Liveness(msgspec.Struct, frozen=True):
    """The process runs."""

    status: Literal["live"] = "live"


class Readiness(msgspec.Struct, frozen=True):
    """``degraded`` names what somebody should see to: ``upstream:NAME``, ``names:UPSTREAM`` (some of its
    names are another upstream's, too, or too long: they are held back), ``store``, ``disk``, ``draining``, ``tls_reload``
    (the newest files cannot be used), ``tls_expiry`` (a certificate or CRL ends soon).
    """

    status: Literal["ready", "not_ready"]
    degraded: list[str]


class Health:
    """Answers anyone who can connect."""

    def __init__(
        self, stores: Stores, catalogue: Catalogue, concerns: Callable[[], list[str]] = list
    ) -> None:
        """``concerns``: what else somebody should see to."""
        self._concerns = concerns
        self._stores = stores
        self._catalogue = catalogue
        self.draining = False

    @described(Description("Whether the process runs and answers.", {200: Liveness}))
    async def live(
        self, _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """The process runs and answers."""
        return _json(Liveness())

    @described(
        Description("Whether requests are welcome, and what does not work.", {200: Readiness, 503: Readiness})
    )
    async def ready(
        self, _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """Requests are welcome; what does not work is named under ``degraded``."""
        degraded = [f"upstream:{name}" for name in self._catalogue.down()]
        degraded += [f"names:{name}" for name in self._catalogue.held_back()]
        degraded += self._concerns()
        if not self._stores.audit.has_room():
            degraded.insert(0, "disk")
        if self.draining or not self._stores.healthy:
            why = "draining" if self.draining else "store"
            return _json(Readiness("not_ready", [why, *degraded]), status=503)
        return _json(Readiness("ready", degraded))


def _json(document: Liveness | Readiness, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document),
        status=status,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )
