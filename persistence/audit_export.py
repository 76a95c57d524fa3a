"""The entries of an audit, oldest first, a segment in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator

from persistence.audit_segments import EntryFilter
from persistence.audit_state import NEWEST, AuditState, read_audit
from persistence.checkpoint import UNREADABLE
from persistence.records import StoreError
from persistence.snapshot import Snapshot


async def export_lines(snapshot: Snapshot, wanted: EntryFilter) -> Iterator[bytes]:
    """The lines of the entries that are wanted; the snapshot must stay open meanwhile.

    Raises StoreError, also while the lines are taken, where a file is missing or damaged.
    """
    return _lines(await read_audit(snapshot), wanted)


def _lines(state: AuditState, wanted: EntryFilter) -> Iterator[bytes]:
    for record in state.records:
        if wanted.overlaps(record.oldest, record.newest):
            yield from (line for line in state.sealed_lines(record) if wanted.matches(line) is not None)
    try:
        yield from (line for line in state.newest_lines() if wanted.matches(line) is not None)
    except UNREADABLE as error:
        raise StoreError(f"{NEWEST} is damaged ({error}): `ostiary audit verify` says more") from error
