"""The administrative operations on the audit."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from gateway.administration import Administration, Answer, OperationError
from gateway.clock import rfc3339
from gateway.config_shapes import did_you_mean
from gateway.parameters import MAX_PAGE, CompressAudit, PruneAudit, QueryAudit
from persistence.records import DEFAULT_TENANT, AuditEntry, AuditQuery, AuditStatus


async def query_audit(admin: Administration, wanted: QueryAudit, _actor: str) -> Answer:
    """A page of entries, newest first."""
    if wanted.status is not None and wanted.status not in set(AuditStatus):
        raise OperationError(f"no such status; {did_you_mean(wanted.status, AuditStatus)}")
    page_limit(wanted.limit)
    fields = msgspec.structs.asdict(wanted)
    for key in ("since", "until"):
        if fields[key] is not None:
            fields[key] = utc(fields[key], key)
    try:
        page = await admin.stores.audit.query(AuditQuery(**fields))
    except ValueError:
        raise OperationError("the cursor is not one of this audit; leave it out to begin anew") from None
    entries = [msgspec.to_builtins(entry) for entry in page.entries]
    return {"entries": entries, "next_cursor": page.next_cursor}


async def prune_audit(admin: Administration, wanted: PruneAudit, actor: str) -> Answer:
    """Remove the sealed segments that are old enough."""
    if wanted.older_than < 0:
        raise OperationError("an age is not negative; write it as 90d")
    before = rfc3339(max(0.0, admin.now() - wanted.older_than))
    gone = admin.stores.audit.prunable(before)
    if gone:
        target = f"audit entries {gone[0].first_seq} to {gone[-1].last_seq}"
        await admin.stores.audit.append(_audit_entry(admin, actor, "audit.prune", target))
        gone = await admin.stores.audit.prune(before)
    return {
        "segments": len(gone),
        "entries": sum(segment.last_seq - segment.first_seq + 1 for segment in gone),
        "before": before,
    }


async def compress_audit(admin: Administration, wanted: CompressAudit, actor: str) -> Answer:
    """Compress some of the sealed segments."""
    page_limit(wanted.most)
    done, left = await admin.stores.audit.compress(wanted.most)
    if done:
        await admin.stores.audit.append(
            _audit_entry(admin, actor, "audit.compress", f"{done} audit segments")
        )
    return {"compressed": done, "left": left}


def _audit_entry(admin: Administration, actor: str, operation: str, target: str) -> AuditEntry:
    """Who did what to the audit itself, now."""
    return AuditEntry(
        timestamp=admin.timestamp(),
        event="admin_change",
        status=AuditStatus.OK,
        tenant_id=DEFAULT_TENANT,
        method=operation,
        target=target,
        actor=actor,
    )


def page_limit(limit: int) -> int:
    """The same, if a page may be that long. Raises OperationError."""
    if not 1 <= limit <= MAX_PAGE:
        raise OperationError(f"a page has 1 to {MAX_PAGE} entries; give another limit")
    return limit


def utc(text: str, key: str) -> str:
    """RFC 3339 in any offset, or a date, as the store has its times. No offset: UTC. Raises OperationError."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return rfc3339(moment.timestamp())
    except (ValueError, OverflowError):
        raise OperationError(f"{key} is not a time; write it as 2026-01-31T12:00:00Z") from None
