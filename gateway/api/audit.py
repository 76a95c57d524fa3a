"""``GET /audit``: the audit, newest first, filtered and paged by cursor. ``GET /audit/checkpoint``: what it is signed with."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from persistence.protocols import AuditStore
from persistence.records import AuditPage, AuditQuery, AuditStatus

MAX_LIMIT: Final = 1000
ALL_TENANTS: Final = ("platform:audit",)
"""What one needs to see other tenants' entries."""


_Time = Annotated[str, Meta(description="RFC 3339", extra_json_schema={"format": "date-time"}, max_length=40)]


class AuditParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The filters, and the page."""

    client_id: str | msgspec.UnsetType = msgspec.UNSET
    status: AuditStatus | msgspec.UnsetType = msgspec.UNSET
    event: str | msgspec.UnsetType = msgspec.UNSET
    tool_name: str | msgspec.UnsetType = msgspec.UNSET
    tenant_id: str | msgspec.UnsetType = msgspec.UNSET
    since: _Time | msgspec.UnsetType = msgspec.UNSET
    until: _Time | msgspec.UnsetType = msgspec.UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = 100
    cursor: str | msgspec.UnsetType = msgspec.UNSET
    """``next_cursor`` of the page before."""


_FILTERS: Final = frozenset(AuditParameters.__struct_fields__)


class AuditApi:
    """Answers queries; the route has seen to ``audit:read``."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store

    @described(Description("The audit, newest first.", {200: AuditPage}, query=AuditParameters))
    async def query(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        """Entries of the caller's tenant; for those who may cross, of any, or of the one that X-Tenant-ID names."""
        wanted = _parse(request.raw_path.partition("?")[2])
        if inbound.tenant_id is not None:
            if wanted.tenant_id not in {None, inbound.tenant_id}:
                raise Refused(Deny(Reason.TENANT_MISMATCH, "X-Tenant-ID and tenant_id name two tenants."))
            wanted = msgspec.structs.replace(wanted, tenant_id=inbound.tenant_id)
        if not context.permissions.cover(ALL_TENANTS):
            if wanted.tenant_id not in {None, context.tenant_id}:
                raise Refused(
                    Deny(
                        Reason.PERMISSION_DENIED,
                        "These are another tenant's entries.",
                        permissions=ALL_TENANTS,
                    )
                )
            wanted = msgspec.structs.replace(wanted, tenant_id=context.tenant_id)
        try:
            page = await self._store.query(wanted)
        except ValueError as error:
            raise Refused(Deny(Reason.BAD_REQUEST, f"{error}")) from None
        return web.Response(
            body=msgspec.json.encode(page),
            headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
        )

    @described(Description("The newest signed checkpoint of the audit.", {200: dict[str, Any]}))
    async def checkpoint(
        self, _request: GatewayRequest, _inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """The newest signed checkpoint, to be kept elsewhere: ``ostiary audit verify --checkpoint``."""
        return web.Response(
            body=await self._store.checkpoint(),
            headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
        )


def _parse(query: str) -> AuditQuery:
    """The query string as an AuditQuery. Raises Refused."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise Refused(Deny(Reason.BAD_REQUEST, "The query string cannot be read.")) from None
    given = dict(pairs)
    unknown = given.keys() - _FILTERS
    if unknown or len(given) != len(pairs):
        known = ", ".join(sorted(_FILTERS))
        raise Refused(Deny(Reason.BAD_REQUEST, f"Each filter may be there once; they are: {known}."))
    limit = given.pop("limit", "100")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:6]) <= MAX_LIMIT:
        raise Refused(Deny(Reason.BAD_REQUEST, f"limit must be a whole number from 1 to {MAX_LIMIT}."))
    if "status" in given and given["status"] not in set(AuditStatus):
        raise Refused(Deny(Reason.BAD_REQUEST, f"status is one of: {', '.join(AuditStatus)}."))
    return msgspec.convert({**given, "limit": int(limit)}, AuditQuery)
