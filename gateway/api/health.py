"""``/health/live`` and ``/health/ready``: for load balancers and people; they tell nothing secret."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway.edge import GatewayRequest
from gateway.mcp.catalogue import Catalogue
from gateway.model import ClientContext, Inbound
from persistence.records import Stores


class Health:
    """Answers anyone who can connect."""

    def __init__(self, stores: Stores, catalogue: Catalogue) -> None:
        self._stores = stores
        self._catalogue = catalogue
        self.draining = False

    async def live(
        self, _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """The process runs and answers."""
        return _json({"status": "live"})

    async def ready(
        self, _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """Requests are welcome; what does not work is named under ``degraded``."""
        degraded = [f"upstream:{name}" for name in self._catalogue.down()]
        if not self._stores.audit.has_room():
            degraded.insert(0, "disk")
        if self.draining or not self._stores.healthy:
            why = "draining" if self.draining else "store"
            return _json({"status": "not_ready", "degraded": [why, *degraded]}, status=503)
        return _json({"status": "ready", "degraded": degraded})


def _json(document: dict[str, object], status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document),
        status=status,
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )
