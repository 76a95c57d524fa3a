"""Segments of the audit as bytes and files: how an entry becomes a line, and how lines are searched.

A segment is a JSON file ``{"version": 1, "segment": 3, …, "entries": [...]}`` with an entry on each line. The newest is
``audit.json``; an older one is sealed: ``audit/000003.json`` is written once and never again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from persistence.changes import IntentBegun
from persistence.checkpoint import SLICE
from persistence.files import Folder
from persistence.records import AuditEntry, AuditQuery, StoreError

VERSION: Final = 1

_HEAD_BYTES: Final = 4096
_END: Final = b"\n]}\n"
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

_encode_entry = msgspec.json.Encoder().encode
_decode_entry = msgspec.json.Decoder(AuditEntry).decode

Match = tuple[int, AuditEntry]
"""The number of an entry, and the entry."""


class NumberedEntry(AuditEntry, frozen=True, kw_only=True, gc=False):
    """An entry as the files have it."""

    seq: int
    """1 for the first entry ever, then contiguous."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The newest segment at one instant."""

    number: int
    first_seq: int
    lines: Sequence[bytes]
    intents: Sequence[IntentBegun] = ()

    @property
    def size(self) -> int:
        """Bytes of its entries."""
        return sum(map(len, self.lines))

    def split(self, count: int) -> tuple[Segment, Segment]:
        """Its first ``count`` entries, to be sealed, and the segment that follows."""
        return (
            Segment(self.number, self.first_seq, self.lines[:count]),
            Segment(self.number + 1, self.first_seq + count, self.lines[count:], self.intents),
        )

    def slices(self) -> Iterator[bytes]:
        """Its entries as newline-terminated JSON, a slice at a time."""
        for start in range(0, len(self.lines), SLICE):
            yield b"\n".join((*self.lines[start : start + SLICE], b""))


class SealedHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a sealed segment says of itself on its first line."""

    version: int
    segment: int
    first_seq: int
    count: int
    oldest: str
    newest: str


def entry_line(seq: int, entry: AuditEntry) -> bytes:
    """The one place where an entry becomes bytes: its JSON, with its number first."""
    return b'{"seq":%d,%b' % (seq, _encode_entry(entry)[1:])


def encodable(entry: AuditEntry) -> AuditEntry:
    """The entry with a question mark for whatever is not Unicode text, as in headers that are not UTF-8."""
    texts = {
        name: value.encode("utf-8", "replace").decode()
        for name, value in msgspec.structs.asdict(entry).items()
        if type(value) is str
    }
    return msgspec.structs.replace(entry, **texts)


def segment_name(number: int) -> str:
    """The file name of a sealed segment."""
    return f"{number:06d}.json"


def instant(timestamp: str) -> datetime:
    """The instant that an RFC 3339 timestamp names. Raises ValueError, also where it has no offset."""
    parsed = datetime.fromisoformat(timestamp)
    if parsed.tzinfo is None or "T" not in timestamp.upper():
        raise ValueError(f"{timestamp!r} is not an RFC 3339 timestamp with an offset")
    return parsed


def _when(timestamp: str) -> datetime:
    """The instant of an entry; one whose timestamp is not RFC 3339 counts as older than all others."""
    try:
        return instant(timestamp)
    except ValueError:
        return _LONG_AGO


def seal(segment: Segment) -> Iterator[bytes]:
    """The file of a sealed segment, in parts; takes CPU time: for use in a thread."""
    times = sorted((_decode_entry(line).timestamp for line in segment.lines), key=_when)
    head = SealedHead(
        version=VERSION,
        segment=segment.number,
        first_seq=segment.first_seq,
        count=len(segment.lines),
        oldest=times[0],
        newest=times[-1],
    )
    yield msgspec.json.encode(head)[:-1] + b',"entries":[\n'
    yield b",\n".join(segment.lines)
    yield _END


class EntryFilter:
    """Whether an entry's line is what a query asks for."""

    def __init__(self, query: AuditQuery) -> None:
        """Raises ValueError where ``since`` or ``until`` is no RFC 3339 timestamp."""
        wanted = {
            "client_id": query.client_id,
            "status": query.status,
            "event": query.event,
            "tool_name": query.tool_name,
            "tenant_id": query.tenant_id,
        }
        # A quote inside a JSON string is escaped, so these bytes can be nothing but the field with that value.
        self._needles = [
            b'"%b":%b' % (name.encode(), msgspec.json.encode(value))
            for name, value in wanted.items()
            if value is not None
        ]
        self._since = None if query.since is None else instant(query.since)
        self._until = None if query.until is None else instant(query.until)

    def matches(self, line: bytes) -> AuditEntry | None:
        """The entry, if it is wanted."""
        for needle in self._needles:
            if needle not in line:
                return None
        entry = _decode_entry(line)
        return entry if self.overlaps(entry.timestamp, entry.timestamp) else None

    def overlaps(self, oldest: str, newest: str) -> bool:
        """Whether anything between these two times can be wanted."""
        if self._since is not None and _when(newest) < self._since:
            return False
        return self._until is None or _when(oldest) < self._until


class SealedSegments:
    """The sealed segments of a store, read when they are asked for."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._heads: dict[int, SealedHead] = {}

    def check(self, newest: int) -> None:
        """Raises StoreError where one of the segments 1 to ``newest`` is missing."""
        there = set(self._folder.names())
        for number in range(1, newest + 1):
            if segment_name(number) not in there:
                raise StoreError(f"{self._path(number)} is missing: restore a backup of the whole folder")

    def head(self, number: int) -> SealedHead:
        """What the segment says of itself. Raises StoreError."""
        if number not in self._heads:
            first, _, _ = self._folder.read_now(segment_name(number), _HEAD_BYTES).partition(b"[\n")
            self._heads[number] = self._decode(first + b"[]}", number)
        return self._heads[number]

    def search(self, number: int, wanted: EntryFilter, before: int, enough: int) -> Iterator[Match]:
        """The newest matching entries of a segment first. Raises StoreError."""
        first, _, rest = self._folder.read_now(segment_name(number)).partition(b"[\n")
        head = self._decode(first + b"[]}", number)
        lines = rest.removesuffix(_END).split(b",\n")
        if len(lines) != head.count or not rest.endswith(_END):
            raise StoreError(f"{self._path(number)} is damaged: restore it from a backup")
        try:
            yield from _matches(lines, head.first_seq, wanted, before, enough)
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"{self._path(number)} is damaged ({error}): restore it from a backup"
            ) from error

    def _decode(self, head: bytes, number: int) -> SealedHead:
        try:
            found = msgspec.json.decode(head, type=SealedHead)
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"{self._path(number)} is damaged ({error}): restore it from a backup"
            ) from error
        if found.version != VERSION or found.segment != number:
            raise StoreError(f"{self._path(number)} is not segment {number} of version {VERSION}")
        return found

    def _path(self, number: int) -> str:
        return str(self._folder.path / segment_name(number))


def search(
    segment: Segment, sealed: SealedSegments, wanted: EntryFilter, *, before: int, enough: int
) -> list[Match]:
    """The newest ``enough`` entries numbered below ``before``, in ``segment`` (the newest) and the sealed ones.

    It reads files: for use in a thread. Raises StoreError.
    """
    found = list(_matches(segment.lines, segment.first_seq, wanted, before, enough))
    for number in range(segment.number - 1, 0, -1):
        if len(found) >= enough:
            break
        head = sealed.head(number)
        if head.first_seq < before and wanted.overlaps(head.oldest, head.newest):
            found += sealed.search(number, wanted, before, enough - len(found))
    return found


def _matches(
    lines: Sequence[bytes], first_seq: int, wanted: EntryFilter, before: int, enough: int
) -> Iterator[Match]:
    """The newest matching lines first; ``enough`` of them at most."""
    for index in range(min(len(lines), before - first_seq) - 1, -1, -1):
        if enough <= 0:
            return
        entry = wanted.matches(lines[index])
        if entry is not None:
            enough -= 1
            yield first_seq + index, entry
