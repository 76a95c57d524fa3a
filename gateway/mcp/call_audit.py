"""What the audit says of a call: its intent before it is sent, its outcome, or why it was not sent."""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from gateway.audit import Audit, Pending
from gateway.mcp.listing import Kind
from gateway.mcp.request import RequestContext
from gateway.mcp.upstream_call import UpstreamCall, digest_of
from gateway.model import Reason
from persistence.records import AuditEntry, AuditStatus


class CallAudit:
    """Enters calls in the audit."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def begin(self, request: RequestContext, call: UpstreamCall) -> Awaitable[Pending]:
        """Make the intent durable. Raises Refused where that cannot be done."""
        return self._audit.begin(self._intent(request, call), request.inbound.started)

    def not_sent(self, request: RequestContext, call: UpstreamCall, reason: Reason) -> None:
        """It fails without having been sent."""
        failed = msgspec.structs.replace(
            self._intent(request, call),
            status=AuditStatus.ERROR,
            reason=reason,
            duration_ms=self._audit.since(request.inbound),
        )
        self._audit.denied(failed)

    def _intent(self, request: RequestContext, call: UpstreamCall) -> AuditEntry:
        entry = call.entry
        is_tool = entry.kind is Kind.TOOL
        return self._audit.entry(
            call.event,
            AuditStatus.OK,
            request.inbound,
            request.client,
            tool_name=entry.name if is_tool else None,
            target=None if is_tool else entry.name,
            upstream=entry.upstream,
            method=request.message.method,
            era=request.era,
            rule=entry.rule,
            arguments_digest=digest_of(call),
            request_bytes=request.size,
        )


def finish(pending: Pending | None, status: AuditStatus, reason: str | None, sent: int) -> None:
    """How it ended, unless that has been said."""
    if pending is not None:
        pending.finish(status, reason, sent)
