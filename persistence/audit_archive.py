"""The sealed segments of the audit: their files, the signed index of them, and the signed checkpoint of the chain's end.

A sealed segment's file is never changed in place: a compressed one is another file under another name. Always the new
file comes first, then the index that names it, then the old file goes; what a crash leaves in between is cleared away
when the store is opened.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from persistence.audit_chain import START, line_hash
from persistence.audit_checkpoint import (
    CHECKPOINT,
    INDEX,
    KEY,
    UPGRADED,
    AuditKey,
    ChainStart,
    Checkpoint,
    Index,
    SegmentRecord,
    intents_digest,
    read_signed,
)
from persistence.audit_erasure import Taken, find, take_out
from persistence.audit_segments import (
    COMPRESSED,
    EntryFilter,
    Match,
    SealedHead,
    Segment,
    instant,
    instant_or_long_ago,
    lines_of,
    matches,
    seal,
    segment_name,
    segment_of,
    unpack,
)
from persistence.changes import IntentBegun
from persistence.checkpoint_file import Publication
from persistence.files import RESTORE, Folder
from persistence.records import KINDS, StoreError

log = logging.getLogger("ostiary.storage")

_NEVER_WITHOUT_A_CHAIN: Final = frozenset({CHECKPOINT, *(f"{kind.name}.json" for kind in KINDS)})
"""Files that no version wrote which had no chain."""
_RESTORE: Final = f"`ostiary audit verify` says more; {RESTORE}"


class AuditArchive:
    """The sealed segments of a store. Its owner calls ``create`` for a new store, then ``open``."""

    def __init__(
        self, folder: Folder, sealed: Folder, *, timestamp: Callable[[], str], checkpoint_file: Path | None
    ) -> None:
        """``checkpoint_file``: where each checkpoint is published, too."""
        self._folder = folder
        self._sealed = sealed
        self._timestamp = timestamp
        self._publication = Publication(checkpoint_file)
        self._key: AuditKey
        self._index: Index
        self._checkpoint: Checkpoint
        self.upgraded = False
        """Whether the chain begins with this start: an older version wrote the store."""
        self._turn = asyncio.Lock()
        """Held while the index is changed."""

    # ---- opening -----------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the documents of a new store; blocks.

        Raises OSError, and StoreError where an audit was published already: it is missed.
        """
        self._publication.refuse_new()
        start = ChainStart(segment=1, seq=1, prev=START, reason="new", at=self._timestamp())
        self._begin(start, ())

    async def open(self, number: int, first_seq: int, prev: str | None) -> None:
        """Read what belongs to an ``audit.json`` that holds segment ``number`` from entry ``first_seq`` on.

        ``prev``: the hash of the entry before; None: it was written before there was a chain, which begins now.

        Raises:
            StoreError: Something is missing, damaged, or does not belong together.
        """
        if prev is None and not _NEVER_WITHOUT_A_CHAIN & set(self._folder.names()):
            await asyncio.to_thread(self._upgrade, number, first_seq)
            self.upgraded = True
        self._key = AuditKey.read(await self._folder.read(KEY), self._path(KEY))
        self._index = read_signed(await self._folder.read(INDEX), Index, self._path(INDEX))
        self._checkpoint = read_signed(
            await self._folder.read(CHECKPOINT), Checkpoint, self._path(CHECKPOINT)
        )
        for name, document in ((INDEX, self._index), (CHECKPOINT, self._checkpoint)):
            if document.key != self._key.public:
                raise StoreError(f"{self._path(name)} was not signed with {KEY} beside it: {_RESTORE}")
        problem = self._index.checkpoint_problem(self._checkpoint)
        if problem is not None:
            raise StoreError(f"{self._path(CHECKPOINT)}: {problem}; {_RESTORE}")
        # A crash between the index and audit.json leaves a record of the segment that is still being filled.
        kept = tuple(record for record in self._index.segments if record.segment < number)
        self._index = msgspec.structs.replace(self._index, segments=kept)
        numbers = [record.segment for record in kept]
        if numbers != list(range(self._index.start.segment, number)):
            raise StoreError(f"{self._path(INDEX)} does not list the segments before {number}: {_RESTORE}")
        last_seq, last_hash = self.end
        if first_seq != last_seq + 1 or prev not in {last_hash, None}:
            raise StoreError(f"audit.json does not follow what {self._path(INDEX)} lists: {_RESTORE}")
        await asyncio.to_thread(self._tidy)

    @property
    def key(self) -> str:
        """The public key, in base64."""
        return self._key.public

    @property
    def signed_journal(self) -> int | UnsetType:
        """The journal generation that begins behind what is signed for; UNSET: an older version signed it."""
        return self._checkpoint.journal

    def check_intents(self, intents: Sequence[IntentBegun] | None) -> None:
        """Compare the intents where ``signed_journal`` begins with the checkpoint.

        ``intents``: None where there is no such place. Raises StoreError where they do not fit.
        """
        problem = self._checkpoint.intents_problem(intents)
        if problem is not None:
            raise StoreError(f"{self._path('audit.json')}: {problem}: {_RESTORE}")

    def check(self, segment: Segment) -> None:
        """Compare the newest segment with the checkpoints, the published one too; blocks.

        Raises StoreError where they do not fit.
        """
        signed = self._checkpoint
        last_seq = segment.first_seq + len(segment.lines) - 1
        if signed.seq > last_seq:
            raise StoreError(
                f"{self._path('audit.json')} and the journal end with audit entry {last_seq}, but "
                f"{CHECKPOINT} is signed for entry {signed.seq}: the tail was cut; {_RESTORE}"
            )
        index = signed.seq - segment.first_seq
        if index >= -1 and signed.hash != (segment.prev if index < 0 else line_hash(segment.lines[index])):
            raise StoreError(
                f"audit entry {signed.seq} in {self._path('audit.json')} is not the one that {CHECKPOINT} is "
                f"signed for: {_RESTORE}"
            )
        is_new = signed.seq < self._index.start.seq
        if not self._publication.check(signed, lambda seq: self._hash_of(seq, segment), is_new=is_new):
            self._publication.publish(self.checkpoint())

    @property
    def end(self) -> tuple[int, str]:
        """Number and hash of the last sealed entry."""
        start, records = self._index.start, self._index.segments
        if not records:
            return start.seq - 1, start.prev
        return records[-1].last_seq, records[-1].hash or start.prev

    @property
    def signed_seq(self) -> int:
        """The newest entry that is signed for."""
        return self._checkpoint.seq

    @property
    def unsigned(self) -> bool:
        """Whether the chain has begun, but nothing of it is signed for: entries from before may still come."""
        return self._index.unsigned(self._checkpoint)

    # ---- reading -----------------------------------------------------------------------------------------------

    def checkpoint(self) -> bytes:
        """The newest checkpoint, as its file has it."""
        return self._key.sign(self._checkpoint)

    def search(
        self, wanted: EntryFilter, before: int, enough: int, newest: int, lowest: int
    ) -> Iterator[Match]:
        """The newest ``enough`` matching entries below ``before``, in segments below ``newest``; reads files.

        No segment is read that ends below the entry ``lowest``.
        """
        for record in reversed(self._index.segments):
            if enough <= 0 or record.last_seq < lowest:
                return
            if record.segment >= newest or record.first_seq >= before:
                continue
            if not wanted.overlaps(record.oldest, record.newest):
                continue
            for match in self._search_one(record, wanted, before, enough):
                enough -= 1
                yield match

    def _search_one(
        self, record: SegmentRecord, wanted: EntryFilter, before: int, enough: int
    ) -> Iterator[Match]:
        try:
            yield from matches(self._lines(record), record.first_seq, wanted, before, enough)
        except msgspec.MsgspecError as error:
            raise StoreError(f"{self._sealed.path / record.file} is damaged ({error}): {_RESTORE}") from error

    def _content(self, record: SegmentRecord) -> bytes:
        """The bytes of a segment, as they were sealed; nothing is kept of them. Raises StoreError, OSError, ValueError."""
        try:
            data = self._sealed.read_now(record.file)
        except StoreError:
            now = [other for other in self._index.segments if other.segment == record.segment]
            if not now or now[0].file == record.file:
                raise
            record = now[0]  # it was compressed meanwhile
            data = self._sealed.read_now(record.file)
        if sha256(data).hexdigest() != record.sha256:
            raise StoreError(f"{self._sealed.path / record.file} is not the file that was sealed: {_RESTORE}")
        return unpack(data, record.file)

    # ---- writing -----------------------------------------------------------------------------------------------

    async def seal(self, segment: Segment) -> None:
        """Write the file of a segment that is full, and enter it into the index. Raises OSError."""
        parts, record = await asyncio.to_thread(_sealed, segment)
        async with self._turn:
            await self._sealed.replace(record.file, _each(parts))
            before = tuple(r for r in self._index.segments if r.segment < segment.number)
            await self._write_segments((*before, record))

    async def sign(self, segment: Segment, journal: int) -> None:
        """Sign for the newest segment as it was where the generation ``journal`` began. Raises OSError."""
        seq, last = segment.end
        checkpoint = Checkpoint(
            seq=seq,
            hash=last,
            signed_at=self._timestamp(),
            key=self._key.public,
            journal=journal,
            intents=intents_digest(segment.intents),
        )
        await self._folder.replace(CHECKPOINT, _each([self._key.sign(checkpoint)]))
        self._checkpoint = checkpoint
        if self._index.bound is UNSET:
            async with self._turn:
                await self._write_index(msgspec.structs.replace(self._index, bound=True))
        await asyncio.to_thread(self._publication.publish, self.checkpoint())

    async def prune(self, before: str) -> Sequence[SegmentRecord]:
        """Remove the oldest segments as far as all that is in them is older than ``before``; which those were.

        Raises OSError. ValueError: ``before`` is not RFC 3339.
        """
        async with self._turn:
            gone = self.prunable(before)
            if not gone:
                return gone
            start = ChainStart(
                segment=gone[-1].segment + 1,
                seq=gone[-1].last_seq + 1 if gone[-1].hash else self._index.start.seq,
                prev=gone[-1].hash or self._index.start.prev,
                reason="pruned",
                at=self._timestamp(),
            )
            kept = self._index.segments[len(gone) :]
            await self._write_index(msgspec.structs.replace(self._index, start=start, segments=kept))
            await asyncio.to_thread(self._sealed.remove, [record.file for record in gone])
            return gone

    def prunable(self, before: str) -> Sequence[SegmentRecord]:
        """The segments that ``prune`` would remove. Raises ValueError."""
        limit = instant(before)
        gone: list[SegmentRecord] = []
        for record in self._index.segments:
            if instant_or_long_ago(record.newest) >= limit or record.last_seq > self._checkpoint.seq:
                break
            gone.append(record)
        return gone

    def held_back(self, before: str) -> tuple[SegmentRecord, int] | None:
        """The segment that stays, and how many after it that are old enough stay for its sake; None: none does.

        Raises ValueError.
        """
        limit = instant(before)
        kept = self._index.segments[len(self.prunable(before)) :]
        old = sum(instant_or_long_ago(record.newest) < limit for record in kept[1:])
        return (kept[0], old) if old else None

    async def compress(self, most: int) -> tuple[int, int]:
        """Compress up to ``most`` segments, the oldest first; how many were, and how many are left. Raises OSError."""
        done = 0
        while done < most and (left := self._uncompressed()):
            async with self._turn:
                if left[0] in self._index.segments:
                    await self._compress(left[0])
                    done += 1
        return done, len(self._uncompressed())

    def _uncompressed(self) -> list[SegmentRecord]:
        return [record for record in self._index.segments if not record.file.endswith(COMPRESSED)]

    async def _compress(self, record: SegmentRecord) -> None:
        packed, smaller = await asyncio.to_thread(self._packed, record)
        await self._sealed.replace(smaller.file, _each([packed]))
        await self._write_segments(tuple(smaller if r is record else r for r in self._index.segments))
        await asyncio.to_thread(self._sealed.remove, [record.file])

    def find(self, taken: Taken) -> dict[int, dict[int, list[str]]]:
        """By the first entry of each segment, what is to go; reads all files: for use in a thread.

        Raises StoreError.
        """
        return {record.first_seq: find(self._lines(record), taken) for record in self._index.segments}

    async def erase(self, found: Mapping[int, Mapping[int, Sequence[str]]], by: int) -> None:
        """Write the segments anew without what ``find`` found. ``by``: the entry that says so. Raises OSError."""
        async with self._turn:
            changed: dict[int, SegmentRecord] = {}
            for record in self._index.segments:
                gone = found.get(record.first_seq)
                if gone:
                    parts, anew = await asyncio.to_thread(self._without, record, gone, by)
                    await self._sealed.replace(anew.file, _each(parts))
                    changed[record.segment] = anew
            old = [record.file for record in self._index.segments if record.segment in changed]
            await self._write_segments(
                tuple(changed.get(record.segment, record) for record in self._index.segments)
            )
            await asyncio.to_thread(self._sealed.remove, old)

    def _without(
        self, record: SegmentRecord, gone: Mapping[int, Sequence[str]], by: int
    ) -> tuple[list[bytes], SegmentRecord]:
        lines = take_out(self._lines(record), gone, by)
        head, parts = seal(Segment(record.segment, record.first_seq, START, lines))
        name = f"{record.segment:06d}.{by}.json"
        if record.file.endswith(COMPRESSED):
            name, parts = name + COMPRESSED, [gzip.compress(b"".join(parts), mtime=0)]
        return parts, head.record(name, record.hash, b"".join(parts))

    def _lines(self, record: SegmentRecord) -> list[bytes]:
        """All lines of a segment. Raises StoreError."""
        try:
            return lines_of(self._content(record), record.last_seq - record.first_seq + 1)
        except (msgspec.MsgspecError, ValueError, OSError) as error:
            raise StoreError(f"{self._sealed.path / record.file} is damaged ({error}): {_RESTORE}") from error

    def _packed(self, record: SegmentRecord) -> tuple[bytes, SegmentRecord]:
        """The compressed file of a segment, and its record. Raises StoreError."""
        packed = gzip.compress(self._content(record), 6, mtime=0)
        return packed, msgspec.structs.replace(
            record, file=record.file + COMPRESSED, sha256=sha256(packed).hexdigest()
        )

    async def _write_segments(self, segments: tuple[SegmentRecord, ...]) -> None:
        await self._write_index(msgspec.structs.replace(self._index, segments=segments))

    async def _write_index(self, index: Index) -> None:
        await self._folder.replace(INDEX, _each([self._key.sign(index)]))
        self._index = index

    # ---- parts of opening --------------------------------------------------------------------------------------

    def _begin(self, start: ChainStart, records: tuple[SegmentRecord, ...]) -> None:
        """Make key, index and, last, a checkpoint that is signed for nothing yet."""
        key = self._key = AuditKey.generate()
        self._index = Index(start=start, segments=records, key=key.public)
        self._checkpoint = Checkpoint(seq=start.seq - 1, hash=start.prev, signed_at=start.at, key=key.public)
        self._folder.create(KEY, key.pem())
        self._folder.create(INDEX, key.sign(self._index))
        self._folder.create(CHECKPOINT, key.sign(self._checkpoint))

    def _upgrade(self, number: int, first_seq: int) -> None:
        """Let the chain begin with the newest segment; the sealed ones are signed for as they are."""
        records = []
        for segment in range(1, number):
            name = segment_name(segment)
            data = self._sealed.read_now(name)
            try:
                head = msgspec.json.decode(data.partition(b"[\n")[0] + b"[]}", type=SealedHead)
            except msgspec.MsgspecError as error:
                raise StoreError(f"{self._sealed.path / name} is damaged ({error}): {_RESTORE}") from error
            records.append(head.record(name, None, data))
        start = ChainStart(segment=1, seq=first_seq, prev=START, reason=UPGRADED, at=self._timestamp())
        self._begin(start, tuple(records))
        log.warning("the audit of %s becomes a chain from entry %d on", self._folder.path, first_seq)

    def _tidy(self) -> None:
        """Check that every segment has its file, and remove those that a crash left over. Raises StoreError."""
        there = set(self._sealed.names())
        for record in self._index.segments:
            if record.file not in there:
                raise StoreError(f"{self._sealed.path / record.file} is missing: {_RESTORE}")
        current = {segment_of(record.file): record.file for record in self._index.segments}
        left = [
            name
            for name in there
            if (number := segment_of(name)) is not None
            and (number < self._index.start.segment or name != current.get(number, name))
        ]
        if left:
            self._sealed.remove(left)

    def _hash_of(self, seq: int, newest: Segment) -> str | None:
        """The hash of an entry; None: it is not kept, or was written before there was a chain. Raises StoreError."""
        if seq >= newest.first_seq:
            return line_hash(newest.lines[seq - newest.first_seq])
        start = self._index.start
        if seq == start.seq - 1:
            return start.prev
        for record in self._index.segments:
            if record.last_seq == seq:
                return record.hash
            if record.hash is not None and record.first_seq <= seq < record.last_seq:
                return line_hash(self._lines(record)[seq - record.first_seq])
        return None

    def _path(self, name: str) -> Path:
        return self._folder.path / name


def _sealed(segment: Segment) -> tuple[list[bytes], SegmentRecord]:
    """The file of a segment, and its record; takes CPU time: for use in a thread."""
    head, parts = seal(segment)
    return parts, head.record(segment_name(segment.number), segment.end[1], b"".join(parts))


async def _each(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
