"""Who may have what: every request that is after something comes through here, in both eras."""

from __future__ import annotations

from aiohttp import web

from gateway.audit import Audit
from gateway.config.values import Denied
from gateway.edge.reply import JsonReply
from gateway.mcp.catalogue import Catalogue, Entry, decide
from gateway.mcp.listing import Kind
from gateway.mcp.messages import INVALID_PARAMS
from gateway.mcp.request import RequestContext
from gateway.mcp.target import Target
from gateway.model import Deny, Reason
from gateway.problems import Problems, json_rpc_error
from persistence.records import AuditStatus


class Access:
    """Finds what is asked for, and decides."""

    def __init__(self, catalogue: Catalogue, audit: Audit, problems: Problems, denied: Denied) -> None:
        self._catalogue = catalogue
        self._audit = audit
        self._problems = problems
        self._hide = denied is Denied.HIDE

    async def admit(self, request: RequestContext, target: Target) -> Entry | web.Response:
        """What the target stands for; the answer to who may not have it, which is entered in the audit.

        What is hidden is answered like what does not exist, and as late.
        """
        entry = self._catalogue.locate(target, request.only)
        if entry is None or isinstance(decide(entry, request.client), Deny):  # perhaps it came a moment ago
            await self._catalogue.refresh(request.only)
            entry = self._catalogue.locate(target, request.only)
        if entry is None:
            return self._absent(request, target)
        decision = decide(entry, request.client)
        if not isinstance(decision, Deny):
            return entry
        self.refused(request, target, entry, decision)
        if self._hide:
            return _unknown(request, target)
        shown = Deny(Reason.PERMISSION_DENIED, decision.detail, permissions=entry.permissions)
        return self._problems.json_rpc(shown, request.inbound.request_id, request.message.id)

    def _absent(self, request: RequestContext, target: Target) -> web.Response:
        """The answer where nothing is known by that name now; who might have it is told whose server is down."""
        entry = self._catalogue.absent(target, request.only)
        if entry is None or isinstance(decide(entry, request.client), Deny):
            self.refused(request, target, None, Deny(Reason.NOT_FOUND, "unknown"))
            return _unknown(request, target)
        deny = Deny(Reason.UPSTREAM_UNAVAILABLE, f"Upstream {entry.upstream} is not available.")
        self.refused(request, target, entry, deny, AuditStatus.ERROR)
        return JsonReply(json_rpc_error(deny, request.inbound.request_id, request.message.id))

    def refused(
        self,
        request: RequestContext,
        target: Target,
        entry: Entry | None,
        decision: Deny,
        status: AuditStatus = AuditStatus.DENIED,
    ) -> None:
        """Enter in the audit that it was not passed on."""
        named = target.kind in {Kind.TOOL, Kind.PROMPT}
        name = self._catalogue.prefixed(target.name, request.only) if named else target.name
        is_tool = target.kind is Kind.TOOL
        self._audit.denied(
            self._audit.entry(
                target.event,
                status,
                request.inbound,
                request.client,
                reason=decision.reason,
                tool_name=name if is_tool and target.name else None,
                target=None if is_tool else name,
                upstream=entry.upstream if entry is not None else request.only,
                method=request.message.method,
                duration_ms=self._audit.since(request.inbound),
                era=request.era,
                rule=entry.rule if entry is not None else "",
                request_bytes=request.size,
            )
        )


def _unknown(request: RequestContext, target: Target) -> web.Response:
    if target.kind is Kind.RESOURCE:
        return request.error(request.dialect.unknown_resource, target.unknown, {"uri": target.name})
    return request.error(INVALID_PARAMS, target.unknown)
