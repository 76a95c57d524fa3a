"""Whether the audit is what was written: every entry, link and digest, every file, signature and end.

What is found damaged is named by file and entry, and the rest is checked all the same: behind a damaged segment the
signed index says how the chain goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path

import msgspec

from persistence.audit_chain import (
    START,
    Erasure,
    erased_fields,
    laid_out,
    line_hash,
    read_line,
    wrong_digests,
)
from persistence.audit_checkpoint import CHECKPOINT, INDEX, KEY, Checkpoint, SegmentRecord
from persistence.audit_segments import Segment, lines_of, seal, segment_name, segment_of, unpack
from persistence.audit_state import NEWEST, AuditState, read_audit
from persistence.records import StoreError
from persistence.snapshot import AUDIT_FOLDER, take_snapshot

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written."""

    file: str
    seq: int | None
    """The entry where it shows; None: it is not a matter of one entry."""
    what: str

    def __str__(self) -> str:
        at = "" if self.seq is None else f", entry {self.seq}"
        return f"{self.file}{at}: {self.what}"


@dataclass(slots=True)
class Report:
    """What a verification found."""

    key: str = ""
    """The public key that signed, in base64."""
    first_seq: int = 1
    """The first entry that is kept and in the chain."""
    last_seq: int = 0
    entries: int = 0
    """How many were checked."""
    segments: int = 0
    """How many sealed segments."""
    before_chain: int = 0
    """How many entries were written before there was a chain: only their files are signed for."""
    signed_seq: int = 0
    signed_at: str = ""
    unsigned: int = 0
    """How many entries are newer than the newest checkpoint."""
    erased: int = 0
    """How many values were erased, each covered by a signed entry."""
    compared_with: str = ""
    """When the checkpoint that was kept elsewhere was signed; empty: there was none to compare with."""
    unfinished: list[str] = field(default_factory=list)
    """What signed entries say was erased, and is there: the erasure is under way, was interrupted, or was undone."""
    left_over: list[str] = field(default_factory=list)
    """Files that a crash left, or that a server is about to remove: whole, and of no use any more."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


async def verify(
    path: Path, *, against: Checkpoint | None = None, key: str | None = None, progress: Progress | None = None
) -> Report:
    """Verify the audit of the store in the folder ``path``, also while a server has it open.

    ``against``: an earlier checkpoint that must be one of this chain. ``key``: the public key that must have signed.

    Raises:
        StoreError: There is no store.
    """
    report = Report()
    with closing(take_snapshot(path)) as snapshot:
        for name, why in snapshot.refused.items():
            report.problems.append(Problem(name, None, why))
        try:
            state = await read_audit(snapshot)
        except StoreError as error:
            report.problems.append(Problem(str(path), None, str(error)))
            return report
        await asyncio.to_thread(_Verifier(state, report, progress or _silent).run, against, key)
    return report


class _Chain:
    """Walks along the entries."""

    def __init__(self, report: Report, seq: int, prev: str) -> None:
        self._report = report
        self.seq = seq
        """The number that the next entry must have."""
        self.prev: str | None = prev
        """The hash that it must hold; None: it cannot be known."""
        self.points: dict[int, list[tuple[str, str]]] = {}
        """The hash that an entry must have, and the file that says so."""
        self._erased: dict[tuple[int, int], list[tuple[int, str]]] = {}
        """By the ``erased`` entry that is named, and the segment: what is gone."""
        self._claims: dict[int, tuple[Erasure, ...]] = {}
        self.walked: set[int] = set()
        """The first entries of the segments that were looked at."""

    def walk(
        self, lines: Iterable[bytes], file: str, first_seq: int, *, chained: bool = True, sealed: bool = True
    ) -> None:
        """The entries of a segment. ``chained``: none of them may be from before the chain.

        ``sealed``: values may have been erased from it, which never happens before a segment is sealed.
        """
        self.walked.add(first_seq)
        for line in lines:
            try:
                link, entry = read_line(line)
                hashed = line_hash(line)
            except (msgspec.MsgspecError, ValueError):
                if not chained and b'"prev"' not in line:
                    self._report.before_chain += 1
                else:
                    self.problem(file, self.seq, "this is not an entry")
                self.seq, self.prev = self.seq + 1, None
                continue
            self._report.entries += 1
            self._check_place(link.seq, link.prev, file)
            if laid_out(link, entry) != line:
                self.problem(file, link.seq, "it is not laid out as it was written")
            for name in wrong_digests(link, entry):
                self.problem(file, link.seq, f"{name} is not what was entered")
            for name, by in erased_fields(link):
                if not sealed:
                    self.problem(file, link.seq, f"{name} is gone, and it was not erased")
                    continue
                self._erased.setdefault((by, first_seq), []).append((link.seq, name))
            if entry.event == "erased" and link.erases:
                self._claims[link.seq] = link.erases
            for expected, source in self.points.pop(link.seq, ()):
                if expected != hashed:
                    self.problem(file, link.seq, f"it is not the entry that {source} is signed for")
            self.seq, self.prev = link.seq + 1, hashed

    def check_erasures(self, signed_seq: int) -> None:
        """Whether what is gone is what signed entries say that they took away."""
        for (by, first_seq), gone in self._erased.items():
            claimed = [claim for claim in self._claims.get(by, ()) if claim.first_seq == first_seq]
            text = "".join(f"{seq}:{name}\n" for seq, name in gone)
            found = Erasure(first_seq, len(gone), sha256(text.encode()).hexdigest())
            what = (
                f"values are gone from here on, {len(gone)} in this segment, said to be erased by entry {by}"
            )
            if claimed != [found]:
                self.problem(AUDIT_FOLDER, gone[0][0], f"{what}, which does not say that")
            elif by > signed_seq:
                self.problem(AUDIT_FOLDER, gone[0][0], f"{what}, which is not signed yet")
            else:
                self._report.erased += len(gone)
        self._check_finished()

    def _check_finished(self) -> None:
        """Whether what entries say that they took away is gone, by them or by a later erasure of the same client."""
        for by, claims in self._claims.items():
            for claim in claims:
                gone = [
                    len(values)
                    for (later, first_seq), values in self._erased.items()
                    if first_seq == claim.first_seq and later >= by
                ]
                if claim.first_seq in self.walked and max(gone, default=0) < claim.count:
                    self._report.unfinished.append(
                        f"entry {by} says that {claim.count} values were erased from entry {claim.first_seq} on, and they are there"
                    )

    def problem(self, file: str, seq: int | None, what: str) -> None:
        """Enter a problem."""
        self._report.problems.append(Problem(file, seq, what))

    def _check_place(self, seq: int, prev: str | None, file: str) -> None:
        if seq > self.seq:
            missing = f"{self.seq}" if seq == self.seq + 1 else f"{self.seq} to {seq - 1}"
            self.problem(file, self.seq, f"missing: entry {seq} comes where {missing} should be")
        elif seq < self.seq:
            self.problem(file, seq, f"it comes where entry {self.seq} should be")
        elif self.prev is not None and prev != self.prev:
            self.problem(
                file,
                seq,
                "it does not hold the hash of the entry before: one of the two was changed or exchanged",
            )


class _Verifier:
    def __init__(self, state: AuditState, report: Report, progress: Progress) -> None:
        self._state = state
        self._report = report
        self._progress = progress
        self._records = state.records
        self._chain = _Chain(report, state.index.start.seq, state.index.start.prev)

    def run(self, against: Checkpoint | None, key: str | None) -> None:
        """Check everything; takes CPU time: for use in a thread."""
        state, report, chain = self._state, self._report, self._chain
        signed = state.checkpoint
        report.key, report.signed_seq, report.signed_at = state.public_key, signed.seq, signed.signed_at
        report.first_seq, report.segments = state.index.start.seq, len(self._records)
        self._check_keys(against, key)
        problem = state.index.checkpoint_problem(signed)
        if problem is not None:
            chain.problem(CHECKPOINT, None, problem)
        self._point(signed, CHECKPOINT)
        if against is not None:
            report.compared_with = against.signed_at
            self._point(against, "the published checkpoint")
            if against.seq <= signed.seq and against.is_ahead_of(signed):
                what = f"the published checkpoint of {against.signed_at} is not of this store, or of a later state of it"
                chain.problem(CHECKPOINT, None, what)
        self._check_index()
        self._check_sealed()
        self._check_newest()
        report.last_seq = chain.seq - 1
        report.unsigned = max(0, report.last_seq - signed.seq)
        chain.check_erasures(signed.seq)
        for seq, wanted in chain.points.items():
            for _, source in wanted:
                chain.problem(
                    NEWEST, seq, f"missing: {source} is signed for it; the audit ends with {report.last_seq}"
                )
        self._check_names()

    def _check_keys(self, against: Checkpoint | None, key: str | None) -> None:
        mine = self._state.public_key
        signers = {
            INDEX: self._state.index.key,
            CHECKPOINT: self._state.checkpoint.key,
            "the published checkpoint": mine if against is None else against.key,
        }
        for name, signer in signers.items():
            if signer != mine:
                self._chain.problem(name, None, f"it was not signed with {KEY}")
        if key not in {None, mine}:
            self._chain.problem(KEY, None, f"its public key is {mine}, not the one that was given")

    def _point(self, signed: Checkpoint, source: str) -> None:
        start = self._state.index.start
        if signed.seq >= start.seq:
            self._chain.points.setdefault(signed.seq, []).append((signed.hash, source))
        elif signed.seq < start.seq - 1:
            what = f"it is of entry {signed.seq}, but the audit begins with {start.seq} ({start.reason})"
            self._chain.problem(source, None, what)
        elif signed.hash != start.prev:
            self._chain.problem(INDEX, start.seq, f"the chain does not begin where {source} ends")

    def _check_index(self) -> None:
        start, newest = self._state.index.start, self._state.newest
        numbers = [record.segment for record in self._records]
        if numbers != list(range(start.segment, newest.segment)):
            self._chain.problem(
                INDEX, None, f"it does not list the segments {start.segment} to {newest.segment - 1}"
            )
        last_seq = self._records[-1].last_seq if self._records else start.seq - 1
        if newest.first_seq != last_seq + 1:
            self._chain.problem(
                NEWEST, last_seq + 1, f"missing: {NEWEST} begins with entry {newest.first_seq}"
            )

    def _check_sealed(self) -> None:
        total = sum(map(self._state.size, self._records)) + sum(map(len, self._state.newest_lines()))
        done = 0
        for record in self._records:
            self._progress(done, total)
            self._check_segment(record)
            done += self._state.size(record)
        self._progress(done, total)

    def _check_segment(self, record: SegmentRecord) -> None:
        chain, file = self._chain, f"{AUDIT_FOLDER}/{record.file}"
        found = len(self._report.problems)
        try:
            data, same = self._state.sealed(record)
        except (StoreError, ValueError) as error:
            chain.problem(file, record.first_seq, str(error))
        else:
            if record.hash is None:
                self._report.before_chain += record.last_seq - record.first_seq + 1
            else:
                chain.walk(_lines(data, record), file, record.first_seq)
                if (chain.seq, chain.prev) != (record.last_seq + 1, record.hash):
                    chain.problem(
                        file, chain.seq - 1, f"it must end with entry {record.last_seq}, and does not"
                    )
            if not same and len(self._report.problems) == found:
                chain.problem(file, None, "it is not the file that was sealed")
        if record.hash is not None:
            # The index is signed: what follows can be checked whatever became of this segment.
            for seq in [seq for seq in chain.points if seq <= record.last_seq]:
                del chain.points[seq]
            chain.seq, chain.prev = record.last_seq + 1, record.hash

    def _check_newest(self) -> None:
        state, chain = self._state, self._chain
        newest = state.newest
        if newest.prev not in {chain.prev, None}:
            chain.problem(NEWEST, newest.first_seq, "it does not follow the last sealed segment")
        intents_problem = state.checkpoint.intents_problem(state.signed_intents)
        if intents_problem is not None:
            chain.problem(NEWEST, None, intents_problem)
        found = len(self._report.problems)
        chained = not state.index.unsigned(state.checkpoint)
        chain.walk(map(bytes, newest.entries), NEWEST, newest.first_seq, chained=chained, sealed=False)
        if not state.laid_out and (chained or newest.prev) and len(self._report.problems) == found:
            chain.problem(NEWEST, None, "it is not laid out as it was written")
        chain.walk(state.journalled, "the journal", newest.first_seq, chained=chained, sealed=False)

    def _check_names(self) -> None:
        """Files that belong to no segment. What a crash leaves behind, the next start removes."""
        files = {record.file for record in self._records}
        for name in sorted(self._state.sealed_files.held.keys() - files):
            if self._is_left_over(name):
                self._report.left_over.append(f"{AUDIT_FOLDER}/{name}")
            else:
                self._chain.problem(f"{AUDIT_FOLDER}/{name}", None, "it is no segment of this audit")

    def _is_left_over(self, name: str) -> bool:
        """Whether it is what sealing, compressing, erasing or pruning leaves when a crash interrupts it."""
        number, start, newest = segment_of(name), self._state.index.start, self._state.newest
        try:
            data = unpack(self._state.sealed_files.read_now(name), name)
            lines = lines_of(data, len(_split(data)))
        except (StoreError, msgspec.MsgspecError, ValueError):
            return False
        if number is None or not lines:
            return False
        if number < start.segment:
            return start.reason == "pruned"
        if name == segment_name(newest.segment):
            first = tuple(islice(self._state.newest_lines(), len(lines)))
            full = Segment(newest.segment, newest.first_seq, newest.prev or START, first)
            return tuple(lines) == first and data == b"".join(seal(full)[1])
        return any(_is_of(record, lines) for record in self._records if record.segment == number)


def _is_of(record: SegmentRecord, lines: Sequence[bytes]) -> bool:
    """Whether these are the entries of the segment, with or without what was erased from it since."""
    if len(lines) != record.last_seq - record.first_seq + 1:
        return False
    if record.hash is None:
        return True
    try:
        hashes = [line_hash(line) for line in lines]
        links = [read_line(line)[0].prev for line in lines]
    except (msgspec.MsgspecError, ValueError):
        return False
    return links[1:] == hashes[:-1] and hashes[-1] == record.hash


def _lines(data: bytes, record: SegmentRecord) -> list[bytes]:
    """The lines of a sealed segment, also of one that is damaged."""
    try:
        return lines_of(data, record.last_seq - record.first_seq + 1)
    except (msgspec.MsgspecError, ValueError):
        return _split(data)


def _split(data: bytes) -> list[bytes]:
    return [line.removesuffix(b",") for line in data.split(b"\n")[1:] if line.startswith(b'{"seq"')]


def _silent(_done: int, _total: int) -> None:
    """Nobody watches."""
