"""The audit: the newest segment in memory as the bytes that go to disk, intents that are under way, sealed segments.

Entries are numbered from 1 without a gap, in the order in which they were handed over. Each is encoded once: the same
bytes go to the journal, into ``audit.json``, and into the sealed segment.

An intent is in the journal until its outcome is; intents that are under way at a checkpoint are written into
``audit.json`` too. What is still open when the store is opened after a crash, or closed, becomes an entry ``error``,
``interrupted`` with all that the intent said.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Iterable
from typing import Final

import msgspec

from persistence.audit_segments import (
    EntryFilter,
    NumberedEntry,
    SealedSegments,
    Segment,
    encodable,
    entry_line,
    search,
)
from persistence.changes import EntryAdded, IntentBegun
from persistence.journal import Journal
from persistence.records import AuditEntry, AuditPage, AuditQuery, AuditStatus, StoreError

MAX_LIMIT: Final = 1000

_decode_numbered = msgspec.json.Decoder(NumberedEntry).decode


class JournalledIntent:
    """``Intent`` of the json backend."""

    __slots__ = ("_log", "begun")

    def __init__(self, log: AuditLog, begun: IntentBegun) -> None:
        self._log: AuditLog | None = log
        self.begun = begun

    def finish(
        self, status: AuditStatus, *, timestamp: str, duration_ms: float | None, reason: str | None = None
    ) -> None:
        """Hand the outcome to the journal.

        Raises:
            StoreError: The journal takes no more; the intent will be found as ``interrupted``.
            RuntimeError: It was finished before.
        """
        if self._log is None:
            raise RuntimeError("an intent is finished once")
        self._log.finish(self.begun, status, timestamp, duration_ms, reason)
        self._log = None


class AuditLog:
    """``AuditStore`` of the json backend. Entries are seen by queries once they are durable."""

    def __init__(self, journal: Journal, sealed: SealedSegments) -> None:
        self._journal = journal
        self._sealed = sealed
        self._number = 1
        self._first_seq = 1
        self._lines: list[bytes] = []
        self._next_seq = 1
        self._next_intent = 1
        self._intents: dict[int, IntentBegun] = {}
        """The durable intents whose outcome is not durable yet."""
        self._ending: set[int] = set()
        """The numbers of those whose outcome was handed over."""
        self.changed = False
        """Whether something was applied since the owner last set this to False."""
        self.bytes = 0
        """Bytes of the newest segment's entries."""

    # ---- the protocol ------------------------------------------------------------------------------------------

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry; durable on return. Raises StoreError."""
        future = self._journal.append(self._added(entry))
        self._next_seq += 1
        await future

    def append_soon(self, entry: AuditEntry) -> None:
        """Hand an entry to the journal without waiting for the disk. Raises StoreError."""
        self._journal.append_soon(self._added(entry))
        self._next_seq += 1

    async def begin(self, entry: AuditEntry) -> JournalledIntent:
        """Make the intent durable.

        A caller that is cancelled while it waits has not acted: its intent ends as ``cancelled``. Raises StoreError.
        """
        begun = IntentBegun(self._next_intent, entry)
        try:
            future = self._journal.append(begun)
        except UnicodeEncodeError:
            begun = IntentBegun(self._next_intent, encodable(entry))
            future = self._journal.append(begun)
        self._next_intent += 1
        try:
            await future
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):
                self.finish(begun, AuditStatus.CANCELLED, entry.timestamp, None, None)
            raise
        return JournalledIntent(self, begun)

    async def query(self, query: AuditQuery) -> AuditPage:
        """Entries, newest first, with everything that was handed over before.

        Raises:
            ValueError: A cursor that this store did not give, or a time that is not RFC 3339.
            StoreError: A sealed segment is missing or damaged.
        """
        wanted = EntryFilter(query)
        limit = max(1, min(query.limit, MAX_LIMIT))
        before = None if query.cursor is None else _from_cursor(query.cursor)
        await self._journal.settle()
        end = self._first_seq + len(self._lines)
        if before is not None and before > end:
            raise ValueError("the cursor is not one of this audit")
        found = await asyncio.to_thread(
            search,
            self.segment(),
            self._sealed,
            wanted,
            before=end if before is None else before,
            enough=limit + 1,
        )
        more = len(found) > limit
        entries = tuple(entry for _, entry in found[:limit])
        return AuditPage(entries, _to_cursor(found[limit - 1][0]) if more else None)

    # ---- for JournalledIntent and the owner --------------------------------------------------------------------

    def finish(
        self,
        begun: IntentBegun,
        status: AuditStatus,
        timestamp: str,
        duration_ms: float | None,
        reason: str | None,
    ) -> None:
        """Hand over an intent's outcome. Raises StoreError."""
        entry = msgspec.structs.replace(
            begun.entry, status=status, timestamp=timestamp, duration_ms=duration_ms, reason=reason
        )
        self._journal.append_soon(self._added(entry, begun.number))
        self._next_seq += 1
        self._ending.add(begun.number)

    def interrupt(self) -> int:
        """End every intent that is open as ``interrupted``; how many. Raises StoreError."""
        open_intents = [begun for begun in self._intents.values() if begun.number not in self._ending]
        for begun in open_intents:
            self.finish(
                begun, AuditStatus.ERROR, begun.entry.timestamp, begun.entry.duration_ms, "interrupted"
            )
        return len(open_intents)

    def apply_intent(self, change: IntentBegun) -> None:
        """Take over an intent that is durable."""
        self._intents[change.number] = change
        self.changed = True

    def apply(self, change: EntryAdded) -> None:
        """Take over an entry that is durable. Raises StoreError where its number is not the next one."""
        self.changed = True
        if change.seq != self._first_seq + len(self._lines):
            raise StoreError(
                f"audit entry {change.seq} follows entry {self._first_seq + len(self._lines) - 1}: "
                "restore a backup of the whole folder"
            )
        line = bytes(change.entry)
        self._lines.append(line)
        self.bytes += len(line)
        if change.intent is not None:
            self._intents.pop(change.intent, None)
            self._ending.discard(change.intent)

    def load(
        self, number: int, first_seq: int, entries: Iterable[msgspec.Raw], intents: Iterable[IntentBegun]
    ) -> None:
        """Take over what ``audit.json`` holds.

        Raises:
            StoreError: A number is not the next one, or a sealed segment is missing.
            msgspec.ValidationError: An entry is not one.
        """
        self._sealed.check(number - 1)
        self._number, self._first_seq = number, first_seq
        self._intents = {begun.number: begun for begun in intents}
        for raw in entries:
            seq = _decode_numbered(raw).seq
            line = bytes(raw)
            self.apply(
                EntryAdded(seq, msgspec.Raw(msgspec.json.format(line, indent=-1) if b"\n" in line else line))
            )

    def replayed(self) -> None:
        """The journal was replayed: number on from there."""
        self._next_seq = self._first_seq + len(self._lines)
        self._next_intent = max(self._intents, default=0) + 1

    def segment(self) -> Segment:
        """The newest segment now."""
        return Segment(self._number, self._first_seq, tuple(self._lines), tuple(self._intents.values()))

    def sealed(self, segment: Segment) -> None:
        """``segment`` was sealed, and ``audit.json`` starts behind it."""
        count = len(segment.lines)
        self._number = segment.number + 1
        self._first_seq = segment.first_seq + count
        self.bytes -= sum(map(len, self._lines[:count]))
        del self._lines[:count]

    def _added(self, entry: AuditEntry, intent: int | None = None) -> EntryAdded:
        seq = self._next_seq
        try:
            line = entry_line(seq, entry)
        except UnicodeEncodeError:
            line = entry_line(seq, encodable(entry))
        return EntryAdded(seq, msgspec.Raw(line), intent)


def _to_cursor(seq: int) -> str:
    return base64.urlsafe_b64encode(b"seq:%d" % seq).decode().rstrip("=")


def _from_cursor(cursor: str) -> int:
    """Raises ValueError."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        seq = int(text.removeprefix("seq:"))
    except (binascii.Error, ValueError) as error:
        raise ValueError("the cursor is not one of this audit") from error
    if seq < 1 or _to_cursor(seq) != cursor:
        raise ValueError("the cursor is not one of this audit")
    return seq
