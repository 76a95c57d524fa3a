"""The administrative operations on the audit."""

from __future__ import annotations

import msgspec

from gateway.clock import rfc3339
from gateway.operations.administration import Administration, Answer, OperationError
from gateway.operations.parameters import CompressAudit, FollowAudit, PruneAudit, QueryAudit, stored_time
from persistence.records import DEFAULT_TENANT, AuditQuery


async def query_audit(admin: Administration, wanted: QueryAudit, _actor: str) -> Answer:
    """A page of entries, newest first."""
    fields = msgspec.structs.asdict(wanted)
    for key in ("since", "until"):
        if fields[key] is not None:
            fields[key] = stored_time(fields[key])
    try:
        page = await admin.stores.audit.query(AuditQuery(**fields))
    except ValueError:
        raise OperationError("the cursor is not one of this audit; leave it out to begin anew") from None
    entries = [msgspec.to_builtins(entry) for entry in page.entries]
    return {"entries": entries, "next_cursor": page.next_cursor}


async def follow_audit(admin: Administration, wanted: FollowAudit, _actor: str) -> Answer:
    """What was added behind a cursor, oldest first, and the cursor to go on with."""
    try:
        page = await admin.stores.audit.follow(wanted.cursor, wanted.limit)
    except ValueError:
        raise OperationError("the cursor is not one of this audit; leave it out to begin anew") from None
    return {
        "entries": [msgspec.to_builtins(entry) for entry in page.entries],
        "next_cursor": page.next_cursor,
    }


async def prune_audit(admin: Administration, wanted: PruneAudit, actor: str) -> Answer:
    """Remove the sealed segments that are old enough."""
    before = rfc3339(max(0.0, admin.now() - wanted.older_than))
    gone = admin.stores.audit.prunable(before)
    if gone:
        target = f"audit entries {gone[0].first_seq} to {gone[-1].last_seq}"
        entry = admin.entry(actor, "audit.prune", tenant_id=DEFAULT_TENANT, target=target)
        await admin.stores.audit.append(entry)
        gone = await admin.stores.audit.prune(before)
    held = admin.stores.audit.held_back(before)
    return {
        "segments": len(gone),
        "entries": sum(segment.last_seq - segment.first_seq + 1 for segment in gone),
        "before": before,
        "held_back": None
        if held is None
        else {"segment": held[0].segment, "newest": held[0].newest, "older": held[1]},
    }


async def compress_audit(admin: Administration, wanted: CompressAudit, actor: str) -> Answer:
    """Compress some of the sealed segments."""
    done, left = await admin.stores.audit.compress(wanted.most)
    if done:
        target = f"{done} audit segments"
        entry = admin.entry(actor, "audit.compress", tenant_id=DEFAULT_TENANT, target=target)
        await admin.stores.audit.append(entry)
    return {"compressed": done, "left": left}
