"""The audit as the files of a store have it at one instant: what ``audit verify`` and ``audit export`` read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import UnsetType

from persistence.audit_checkpoint import (
    CHECKPOINT,
    INDEX,
    KEY,
    AuditKey,
    Checkpoint,
    Index,
    SegmentRecord,
    read_signed,
)
from persistence.audit_segments import COMPRESSED, lines_of, unpack
from persistence.changes import AUDIT, Bases, Change, EntryAdded, IntentBegun
from persistence.checkpoint import AuditFile, decode, file_name
from persistence.files import RESTORE
from persistence.journal import Journal
from persistence.records import StoreError
from persistence.snapshot import AUDIT_FOLDER, Snapshot

NEWEST: Final = file_name(AUDIT)


@dataclass(frozen=True, slots=True)
class AuditState:
    """What ``read_audit`` found."""

    sealed_files: Snapshot
    index: Index
    checkpoint: Checkpoint
    public_key: str
    """Of the key that is in the store's folder."""
    newest: AuditFile
    laid_out: bool
    """Whether ``audit.json`` is byte for byte as it was written."""
    journalled: Sequence[bytes]
    """The lines that only the journal has."""
    signed_intents: Sequence[IntentBegun] | None
    """What was under way where the journal begins that the checkpoint names; None: there is no such place."""

    @property
    def records(self) -> list[SegmentRecord]:
        """The sealed segments; the index may be one ahead of ``audit.json``."""
        return [record for record in self.index.segments if record.segment < self.newest.segment]

    def newest_lines(self) -> Iterator[bytes]:
        """The newest segment's lines, those of the journal included."""
        yield from map(bytes, self.newest.entries)
        yield from self.journalled

    def size(self, record: SegmentRecord) -> int:
        """Bytes of a segment's file; 0: it is missing."""
        held = self.sealed_files.held.get(record.file)
        return 0 if held is None else held.size

    def sealed(self, record: SegmentRecord) -> tuple[bytes, bool]:
        """The content of a sealed segment, and whether its file is the one that was sealed; blocks.

        Raises StoreError where it is missing, ValueError where it cannot be unpacked.
        """
        data = self.sealed_files.read_now(record.file)
        same = sha256(data).hexdigest() == record.sha256
        if not same and record.file.endswith(COMPRESSED):
            raise ValueError("it is not the file that was sealed")
        return unpack(data, record.file), same

    def sealed_lines(self, record: SegmentRecord) -> list[bytes]:
        """The lines of a sealed segment; blocks. Raises StoreError where it is missing or damaged."""
        try:
            data, same = self.sealed(record)
            if same:
                return lines_of(data, record.last_seq - record.first_seq + 1)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StoreError(f"{self.sealed_files.path / record.file}: {error}: {RESTORE}") from error
        raise StoreError(f"{self.sealed_files.path / record.file} is not the file that was sealed: {RESTORE}")


async def read_audit(snapshot: Snapshot) -> AuditState:
    """The audit in a snapshot, which must stay open. Raises StoreError where something is missing or damaged."""
    path = snapshot.path
    data = await snapshot.read(NEWEST)
    newest = decode(data, AuditFile, path / NEWEST)
    if newest.prev is None and not {KEY, INDEX, CHECKPOINT} & set(snapshot.names()):
        raise StoreError(
            f"{path / NEWEST} was written by an older version, without a chain: start the gateway once"
        )
    checkpoint = read_signed(await snapshot.read(CHECKPOINT), Checkpoint, path / CHECKPOINT)
    journalled, signed_intents = await _journalled(snapshot, newest, checkpoint.journal)
    return AuditState(
        sealed_files=snapshot.subfolder(AUDIT_FOLDER),
        index=read_signed(await snapshot.read(INDEX), Index, path / INDEX),
        checkpoint=checkpoint,
        public_key=AuditKey.read(await snapshot.read(KEY), path / KEY).public,
        newest=newest,
        laid_out=data == _as_written(newest),
        journalled=journalled,
        signed_intents=signed_intents,
    )


async def _journalled(
    snapshot: Snapshot, newest: AuditFile, signed_journal: int | UnsetType
) -> tuple[list[bytes], Sequence[IntentBegun] | None]:
    """The lines that only the journal has, and the intents where ``signed_journal`` begins."""
    journal = Journal(snapshot)
    generations = journal.generations()
    journals, _ = await journal.read(generations)
    first = _first_needed(newest.journal, generations, journals)
    if first is None:
        raise StoreError(
            f"the journal {newest.journal} is missing, and {snapshot.path / NEWEST} needs it: {RESTORE}"
        )
    lines: list[bytes] = []
    intents = {begun.number: begun for begun in newest.intents}
    signed_intents = newest.intents if newest.journal == signed_journal else None
    for generation, changes in zip(generations, journals, strict=True):
        if generation < first:
            continue
        if generation == signed_journal != newest.journal:
            signed_intents = tuple(intents.values())
        for change in changes:
            if isinstance(change, IntentBegun):
                intents[change.number] = change
            elif isinstance(change, EntryAdded):
                lines.append(bytes(change.entry))
                if change.intent is not None:
                    intents.pop(change.intent, None)
    return lines, signed_intents


def _first_needed(named: int, generations: Sequence[int], journals: Sequence[list[Change]]) -> int | None:
    if named in generations:
        return named
    for generation, changes in zip(generations, journals, strict=True):
        if changes and isinstance(changes[0], Bases) and changes[0].generations.get(AUDIT) == named:
            return generation
    return None


def _as_written(newest: AuditFile) -> bytes:
    """``audit.json`` as a checkpoint writes it."""
    head = {name: getattr(newest, name) for name in newest.__struct_fields__ if name != "entries"}
    entries = b",\n".join(map(bytes, newest.entries))
    return (
        msgspec.json.encode(head)[:-1] + b',"entries":[' + (b"\n" + entries if entries else b"") + b"\n]}\n"
    )
