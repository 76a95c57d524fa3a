"""The audit: the newest segment in memory as the bytes that go to disk, intents that are under way, sealed segments.

Entries are numbered from 1 without a gap, in the order in which they were handed over, and each holds the hash of the
one before (``audit_chain``). Each is encoded once: the same bytes go to the journal, into ``audit.json``, and into the
sealed segment.

An intent is in the journal until its outcome is; intents that are under way at a checkpoint are written into
``audit.json`` too. What is still open when the store is opened after a crash, or closed, becomes an entry ``error``,
``interrupted`` with all that the intent said.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from persistence.audit_archive import AuditArchive
from persistence.audit_chain import (
    START,
    Erasure,
    Salts,
    erased_fields,
    laid_out,
    line_hash,
    new_line,
    read_line,
    wrong_digests,
)
from persistence.audit_erasure import claim, nameless, of_client
from persistence.audit_segments import EntryFilter, Match, Segment, encodable, from_cursor, matches, to_cursor
from persistence.changes import EntryAdded, IntentBegun
from persistence.checkpoint import AuditFile
from persistence.files import RESTORE
from persistence.journal import Journal
from persistence.records import AuditEntry, AuditPage, AuditQuery, AuditStatus, SealedSegment, StoreError

MAX_LIMIT: Final = 1000

_WHERE: Final = "audit.json, or in the journal behind it"
_RESTORE: Final = f"`ostiary audit verify` says more; {RESTORE}"


class JournalledIntent:
    """``Intent`` of the json backend."""

    __slots__ = ("_log", "begun")

    def __init__(self, log: AuditLog, begun: IntentBegun) -> None:
        self._log: AuditLog | None = log
        self.begun = begun

    def finish(
        self,
        status: AuditStatus,
        *,
        timestamp: str,
        duration_ms: float | None,
        reason: str | None = None,
        response_bytes: int | UnsetType = UNSET,
    ) -> None:
        """Hand the outcome to the journal.

        Raises:
            StoreError: The journal takes no more; the intent will be found as ``interrupted``.
            RuntimeError: It was finished before.
        """
        if self._log is None:
            raise RuntimeError("an intent is finished once")
        self._log.finish(
            self.begun,
            status,
            timestamp=timestamp,
            duration_ms=duration_ms,
            reason=reason,
            response_bytes=response_bytes,
        )
        self._log = None


class AuditLog:
    """``AuditStore`` of the json backend. Entries are seen by queries once they are durable."""

    def __init__(
        self,
        journal: Journal,
        archive: AuditArchive,
        *,
        on_change: Callable[[], None],
        has_room: Callable[[], bool],
    ) -> None:
        """``on_change`` is called where a checkpoint is wanted for another reason than an entry.

        ``has_room``: see the protocol.
        """
        self.has_room = has_room
        self._journal = journal
        self._archive = archive
        self._on_change = on_change
        self._erasing = asyncio.Lock()
        self._erased: set[str] = set()
        """The clients that were erased since the start: what still comes of them is entered without their names."""
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        """Who waits for a checkpoint, and for what it must have done."""
        self.seal_wanted = False
        """Whether the newest segment is to be sealed however small it is."""
        self._oldest_journal = 0
        """The oldest generation of the journal that is kept."""
        self._salts = Salts()
        self._number = 1
        self._first_seq = 1
        self._prev = START
        """The hash of the entry before ``_first_seq``."""
        self._lines: list[bytes] = []
        self._opening = True
        """While what is applied comes from files."""
        self._next_seq = 1
        self._last_hash = START
        """The hash of the entry that was handed over last."""
        self._next_intent = 1
        self._intents: dict[int, IntentBegun] = {}
        """The durable intents whose outcome is not durable yet."""
        self._intents_checked = False
        """Whether those that were signed for were found."""
        self._ending: dict[int, AuditEntry] = {}
        """By number, the outcomes of those whose outcome was handed over."""
        self.changed = False
        """Whether something was applied since the owner last set this to False."""
        self.bytes = 0
        """Bytes of the newest segment's entries."""

    # ---- the protocol ------------------------------------------------------------------------------------------

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry; durable on return. Raises StoreError."""
        added, last = self._added(entry)
        future = self._journal.append(added)
        self._next_seq, self._last_hash = added.seq + 1, last
        await future

    def append_soon(self, entry: AuditEntry) -> None:
        """Hand an entry to the journal without waiting for the disk. Raises StoreError."""
        self._append_soon(entry)

    async def begin(self, entry: AuditEntry) -> JournalledIntent:
        """Make the intent durable.

        A caller that is cancelled while it waits has not acted: its intent ends as ``cancelled``. Raises StoreError.
        """
        begun = IntentBegun(self._next_intent, nameless(entry, self._erased))
        try:
            future = self._journal.append(begun)
        except UnicodeEncodeError:
            begun = IntentBegun(self._next_intent, encodable(begun.entry))
            future = self._journal.append(begun)
        self._next_intent += 1
        try:
            await future
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):
                self.finish(begun, AuditStatus.CANCELLED, timestamp=entry.timestamp, duration_ms=None)
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
        before = None if query.cursor is None else from_cursor(query.cursor)
        await self._journal.settle()
        end = self._first_seq + len(self._lines)
        if before is not None and before > end:
            raise ValueError("the cursor is not one of this audit")
        lowest = 0 if query.among is None else end - query.among
        found = await asyncio.to_thread(
            self._search, self.segment(), wanted, end if before is None else before, limit + 1, lowest
        )
        more = len(found) > limit
        entries = tuple(entry for _, entry in found[:limit])
        return AuditPage(entries, to_cursor(found[limit - 1][0]) if more else None)

    async def follow(self, cursor: str | None, limit: int) -> AuditPage:
        """The first ``limit`` entries behind ``cursor``, oldest first; without one, the newest ones.

        ``next_cursor`` is never None: with it, ask for what comes. Raises as ``query`` does.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        first = None if cursor is None else from_cursor(cursor)
        await self._journal.settle()
        end = self._first_seq + len(self._lines)
        if first is None:
            first = max(1, end - limit)
        elif first > end:
            raise ValueError("the cursor is not one of this audit")
        before = min(end, first + limit)
        found = await asyncio.to_thread(
            self._search, self.segment(), EntryFilter(AuditQuery()), before, before - first
        )
        return AuditPage(tuple(entry for _, entry in reversed(found)), to_cursor(before))

    async def checkpoint(self) -> bytes:
        """The signed checkpoint, as JSON."""
        return self._archive.checkpoint()

    async def prune(self, before: str) -> Sequence[SealedSegment]:
        """Remove the sealed segments that are older than ``before``. Raises StoreError, ValueError."""
        try:
            return await self._archive.prune(before)
        except OSError as error:
            raise StoreError(f"the audit could not be pruned: {error}") from error

    def prunable(self, before: str) -> Sequence[SealedSegment]:
        """The segments that ``prune`` would remove. Raises ValueError."""
        return self._archive.prunable(before)

    def held_back(self, before: str) -> tuple[SealedSegment, int] | None:
        """The segment that stops ``prune``, though so many after it are old enough. Raises ValueError."""
        return self._archive.held_back(before)

    async def compress(self, most: int) -> tuple[int, int]:
        """Compress up to ``most`` sealed segments; how many were, and how many are left. Raises StoreError."""
        try:
            return await self._archive.compress(most)
        except OSError as error:
            raise StoreError(f"the audit could not be compressed: {error}") from error

    async def erase(self, entry: AuditEntry, client_id: str) -> int:
        """Take what identifies that client out of all entries so far; how many values. ``entry``: says so, ``erased``.

        The entry is durable and signed for before anything goes. On return no journal has the name any more; what is
        still under way ends without it. Raises StoreError.
        """
        async with self._erasing:
            self._erased.add(client_id)
            await self._forget_in_intents()
            await self._seal_now()
            try:
                found = await asyncio.to_thread(self._archive.find, of_client(client_id))
                claims = [claim(first_seq, gone) for first_seq, gone in found.items() if gone]
                added, last = self._added(entry, erases=claims)
                future = self._journal.append(added)
                self._next_seq, self._last_hash = added.seq + 1, last
                await future
                generation = self._journal.generation
                await self._checkpointed(lambda: self._oldest_journal > generation)
                if claims:
                    await self._archive.erase(found, added.seq)
            except OSError as error:
                raise StoreError(f"the audit could not be erased from: {error}") from error
            return sum(one.count for one in claims)

    # ---- for JournalledIntent and the owner --------------------------------------------------------------------

    def finish(
        self,
        begun: IntentBegun,
        status: AuditStatus,
        *,
        timestamp: str,
        duration_ms: float | None,
        reason: str | None = None,
        response_bytes: int | UnsetType = UNSET,
    ) -> None:
        """Hand over an intent's outcome. Raises StoreError."""
        entry = msgspec.structs.replace(
            begun.entry,
            status=status,
            timestamp=timestamp,
            duration_ms=duration_ms,
            reason=reason,
            response_bytes=response_bytes,
        )
        self._end(begun.number, entry)

    def interrupt(self) -> int:
        """End every intent that is open as ``interrupted``; how many. Raises StoreError."""
        open_intents = [begun for begun in self._intents.values() if begun.number not in self._ending]
        for begun in open_intents:
            self.finish(
                begun,
                AuditStatus.ERROR,
                timestamp=begun.entry.timestamp,
                duration_ms=begun.entry.duration_ms,
                reason="interrupted",
            )
        return len(open_intents)

    def end_again(self) -> None:
        """Hand over the outcomes that the journal did not take, or lost, while it could not write."""
        ending, self._ending = self._ending, {}
        for number, entry in ending.items():
            if number in self._intents:
                self._end(number, entry)

    def _end(self, number: int, entry: AuditEntry) -> None:
        self._ending[number] = entry
        self._append_soon(entry, number)

    def apply_intent(self, change: IntentBegun) -> None:
        """Take over an intent that is durable."""
        self._intents[change.number] = change
        self.changed = True

    def apply(self, change: EntryAdded) -> None:
        """Take over an entry that is durable. Raises StoreError where its number is not the next one."""
        self.changed = True
        if change.seq != self._first_seq + len(self._lines):
            raise StoreError(
                f"audit entry {change.seq} in {_WHERE}, follows entry {self._first_seq + len(self._lines) - 1}: {_RESTORE}"
            )
        line = self._checked(bytes(change.entry)) if self._opening else bytes(change.entry)
        self._lines.append(line)
        self.bytes += len(line)
        if change.intent is not None:
            self._intents.pop(change.intent, None)
            self._ending.pop(change.intent, None)

    def load(self, file: AuditFile) -> None:
        """Take over what ``audit.json`` holds. The archive is open.

        Raises:
            StoreError: A number is not the next one, an entry does not hold the hash of the one before, or the intents are
                not those that were signed for.
            msgspec.ValidationError: An entry is not one.
        """
        self._number, self._first_seq = file.segment, file.first_seq
        self._prev = self._last_hash = self._archive.end[1]
        self._intents = {begun.number: begun for begun in file.intents}
        self.generation_begins(file.journal)
        for raw in file.entries:
            self.apply(EntryAdded(read_line(bytes(raw))[0].seq, raw))

    def generation_begins(self, generation: int) -> None:
        """What is applied from now on is of that generation of the journal, or there is nothing older to apply.

        Raises StoreError where the intents are not those that were signed for.
        """
        if generation == self._archive.signed_journal:
            self._archive.check_intents(tuple(self._intents.values()))
            self._intents_checked = True

    @property
    def begins_chain(self) -> bool:
        """Whether lines of an older version, which have no place in a chain on disk yet, were given one."""
        return self._archive.unsigned and bool(self._lines)

    def check(self) -> None:
        """What was loaded and replayed is compared with the signed checkpoint. Raises StoreError."""
        self._archive.check(self.segment())
        if not self._intents_checked:
            self._archive.check_intents(None)
        self.changed |= self.begins_chain

    def replayed(self) -> None:
        """The journal was replayed, or goes on after a failure: number on from what was applied."""
        self._opening = False
        last_seq, self._last_hash = self.segment().end
        self._next_seq = last_seq + 1
        self._next_intent = max(self._intents, default=0) + 1

    def segment(self) -> Segment:
        """The newest segment now."""
        return Segment(
            self._number, self._first_seq, self._prev, tuple(self._lines), tuple(self._intents.values())
        )

    async def seal(self, segment: Segment) -> None:
        """Write the sealed file of ``segment``, the first part of the newest one. Raises OSError."""
        await self._archive.seal(segment)

    @property
    def is_signed_first(self) -> bool:
        """Whether ``sign`` comes before ``audit.json`` is written: what it signs for is in the journals already.

        So nobody can exchange an ``audit.json`` for one that is newer than the checkpoint. But where an older version
        wrote it, its lines get their place in the chain only when it is written.
        """
        return self._archive.signed_journal is not UNSET

    async def sign(self, segment: Segment, journal: int) -> None:
        """``segment`` is the newest one where the generation ``journal`` began: sign for it. Raises OSError."""
        await self._archive.sign(segment, journal)
        self._tell_waiting()

    def sealed(self, segment: Segment) -> None:
        """``segment`` was sealed, and ``audit.json`` starts behind it."""
        count = len(segment.lines)
        self._prev = segment.end[1]
        self._number = segment.number + 1
        self._first_seq = segment.first_seq + count
        self.bytes -= sum(map(len, self._lines[:count]))
        del self._lines[:count]
        self.seal_wanted = False
        self._tell_waiting()

    def journals_gone(self, before: int) -> None:
        """A checkpoint is complete: the journals before that generation were removed."""
        self._oldest_journal = before
        self._tell_waiting()

    async def _forget_in_intents(self) -> None:
        """Begin the open intents of erased clients anew, without their names: the numbers stay."""
        await self._journal.settle()
        anew = [
            IntentBegun(begun.number, entry)
            for begun in self._intents.values()
            if begun.number not in self._ending
            and (entry := nameless(begun.entry, self._erased)) is not begun.entry
        ]
        await asyncio.gather(*map(self._journal.append, anew))

    async def _seal_now(self) -> None:
        await self._journal.settle()
        number = self._number
        if self._lines:
            self.seal_wanted = True
            await self._checkpointed(lambda: self._number > number)

    async def _checkpointed(self, done: Callable[[], bool]) -> None:
        """Wait for a checkpoint that does something."""
        if done():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((done, future))
        self.changed = True
        self._on_change()
        await future

    def checkpoint_failed(self, error: Exception) -> None:
        """Whoever waits for a checkpoint does not wait until the disk has room."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(
                    StoreError(f"the store's files cannot be written ({error}): make room, then do it again")
                )

    def _tell_waiting(self) -> None:
        for done, future in self._waiting:
            if done() and not future.done():
                future.set_result(None)
        self._waiting = [(done, future) for done, future in self._waiting if not future.done()]

    def _append_soon(self, entry: AuditEntry, intent: int | None = None) -> None:
        added, last = self._added(entry, intent)
        self._journal.append_soon(added)
        self._next_seq, self._last_hash = added.seq + 1, last

    def _added(
        self, entry: AuditEntry, intent: int | None = None, erases: Sequence[Erasure] = ()
    ) -> tuple[EntryAdded, str]:
        """The change that adds an entry as the next one, and the entry's hash."""
        seq, entry = self._next_seq, nameless(entry, self._erased)
        try:
            line, last = new_line(seq, self._last_hash, entry, self._salts, erases)
        except UnicodeEncodeError:
            line, last = new_line(seq, self._last_hash, encodable(entry), self._salts, erases)
        return EntryAdded(seq, msgspec.Raw(line), intent), last

    def _checked(self, line: bytes) -> bytes:
        """A line from a file, as it was written. Raises StoreError where it is not in the chain."""
        link, entry = read_line(line)
        if link.prev is None and self._archive.unsigned:
            line, self._last_hash = new_line(link.seq, self._last_hash, entry, self._salts)
            return line
        wrong = wrong_digests(link, entry) or [name for name, _ in erased_fields(link)]  # erasing seals first
        if link.prev != self._last_hash or wrong:
            what = f"its {wrong[0]}" if wrong else "it, or the one before,"
            raise StoreError(
                f"audit entry {link.seq} in {_WHERE}, is not as it was written: {what} was changed; {_RESTORE}"
            )
        line = laid_out(link, entry)
        self._last_hash = line_hash(line)
        return line

    def _search(
        self, segment: Segment, wanted: EntryFilter, before: int, enough: int, lowest: int = 0
    ) -> list[Match]:
        """The newest ``enough`` entries numbered below ``before``, in segments that have one from ``lowest`` on.

        It reads files: for use in a thread.
        """
        found = list(matches(segment.lines, segment.first_seq, wanted, before, enough))
        found += self._archive.search(wanted, before, enough - len(found), segment.number, lowest)
        return found
