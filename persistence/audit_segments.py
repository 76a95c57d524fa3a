"""Segments of the audit: how lines become a file, and how they are searched.

A segment is a JSON file ``{"version": 1, "segment": 3, …, "entries": [...]}`` with an entry on each line. The newest is
``audit.json``; an older one is sealed: ``audit/000003.json`` is written once and never again.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import msgspec

from persistence.audit_chain import line_hash, read_line
from persistence.audit_checkpoint import SegmentRecord
from persistence.audit_erasure import is_target
from persistence.changes import IntentBegun
from persistence.large import BLOCK
from persistence.records import AuditEntry, AuditQuery

VERSION: Final = 1

COMPRESSED: Final = ".gz"
_GZIP: Final = 16 + zlib.MAX_WBITS
_MOST: Final = 1 << 30
"""Bytes of a segment, at the very most: one is sealed at 8 MiB, or as soon as the disk lets it."""
_NAME: Final = re.compile(r"(\d{6,})(\.\d+)?\.json(\.gz)?")
_END: Final = b"\n]}\n"
PSEUDONYM: Final = "erased-"
"""Before the number of the entry that says so, in the place of an erased client's name."""
_PSEUDONYM: Final = re.compile(rf"{PSEUDONYM}([0-9]+)")
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

_decode_entry = msgspec.json.Decoder(AuditEntry).decode

Match = tuple[int, AuditEntry]
"""The number of an entry, and the entry."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The newest segment at one instant."""

    number: int
    first_seq: int
    prev: str
    """The hash of the entry before its first."""
    lines: Sequence[bytes]
    intents: Sequence[IntentBegun] = ()

    @property
    def end(self) -> tuple[int, str]:
        """Number and hash of its last entry, or of the one before its first."""
        seq = self.first_seq + len(self.lines) - 1
        return seq, line_hash(self.lines[-1]) if self.lines else self.prev

    @property
    def size(self) -> int:
        """Bytes of its entries."""
        return sum(map(len, self.lines))

    def split(self, count: int) -> tuple[Segment, Segment]:
        """Its first ``count`` entries, to be sealed, and the segment that follows."""
        full = Segment(self.number, self.first_seq, self.prev, self.lines[:count])
        last, prev = full.end
        return full, Segment(self.number + 1, last + 1, prev, self.lines[count:], self.intents)

    def slices(self) -> Iterator[bytes]:
        """Its entries as newline-terminated JSON, some at a time."""
        for start in range(0, len(self.lines), BLOCK):
            yield b"\n".join((*self.lines[start : start + BLOCK], b""))


class SealedHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a sealed segment says of itself on its first line."""

    version: int
    segment: int
    first_seq: int
    count: int
    oldest: str
    newest: str

    def record(self, file: str, last_hash: str | None, data: bytes) -> SegmentRecord:
        """What the index keeps of a segment whose file has these bytes."""
        return SegmentRecord(
            segment=self.segment,
            file=file,
            first_seq=self.first_seq,
            last_seq=self.first_seq + self.count - 1,
            hash=last_hash,
            oldest=self.oldest,
            newest=self.newest,
            sha256=sha256(data).hexdigest(),
        )


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


def unpack(data: bytes, name: str) -> bytes:
    """The content of a file of that name. Raises ValueError where it is compressed and damaged."""
    if not name.endswith(COMPRESSED):
        return data
    unpacking = zlib.decompressobj(wbits=_GZIP)
    try:
        content = unpacking.decompress(data, _MOST)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked ({error})") from error
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("it cannot be unpacked (it does not end where it should, or is far too large)")
    return content


def segment_of(name: str) -> int | None:
    """The number of the segment whose file, or once whose file, has that name; None: no segment's."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def instant(timestamp: str) -> datetime:
    """The instant that a timestamp names (RFC 3339 section 5.6). Raises ValueError."""
    written = timestamp.upper()
    try:
        parsed = datetime.fromisoformat(written)
    except ValueError:
        parsed = None
    if parsed is None or not _RFC3339.fullmatch(written):
        hint = "; in a URL, + is written %2B" if " " in timestamp else ""
        raise ValueError(f"{timestamp!r} is not an RFC 3339 timestamp, as 2026-01-31T08:00:00Z{hint}")
    return parsed


def instant_or_long_ago(timestamp: str) -> datetime:
    """The instant of an entry; one whose timestamp is not RFC 3339 counts as older than all others."""
    try:
        return instant(timestamp)
    except ValueError:
        return _LONG_AGO


def seal(segment: Segment) -> tuple[SealedHead, list[bytes]]:
    """The file of a sealed segment, in parts; takes CPU time: for use in a thread."""
    times = sorted((_decode_entry(line).timestamp for line in segment.lines), key=instant_or_long_ago)
    head = SealedHead(
        version=VERSION,
        segment=segment.number,
        first_seq=segment.first_seq,
        count=len(segment.lines),
        oldest=times[0],
        newest=times[-1],
    )
    return head, [msgspec.json.encode(head)[:-1] + b',"entries":[\n', b",\n".join(segment.lines), _END]


def lines_of(data: bytes, count: int) -> list[bytes]:
    """The lines of a sealed segment's file. Raises ValueError where it is not laid out as ``seal`` does."""
    first, found, rest = data.partition(b"[\n")
    head = msgspec.json.decode(first + b"[]}", type=SealedHead)
    lines = rest.removesuffix(_END).split(b",\n")
    if not found or not rest.endswith(_END) or not len(lines) == count == head.count:
        raise ValueError("it is not laid out as it was written")
    return lines


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
        # A quote inside a JSON string is escaped, so lines without these bytes need not be decoded.
        self._needles = [_needles(name, value) for name, value in wanted.items() if value is not None]
        self._wanted = [(name, value) for name, value in wanted.items() if value is not None]
        self._about = query.about
        if query.about is not None:
            name = msgspec.json.encode(query.about)
            self._needles.append((b'"client_id":%b' % name, b'"target":%b' % name[:-1]))
        self._events = frozenset(query.events)
        if query.events:
            self._needles.append([needle for event in query.events for needle in _needles("event", event)])
        self._since = None if query.since is None else instant(query.since)
        self._until = None if query.until is None else instant(query.until)

    def matches(self, line: bytes) -> AuditEntry | None:
        """The entry, if it is wanted."""
        for needles in self._needles:
            if not any(needle in line for needle in needles):
                return None
        entry = _decode_entry(line)
        if entry.client_id is None:
            entry = _under_pseudonym(line, entry)
        if any(getattr(entry, name) != value for name, value in self._wanted):
            return None
        if self._events and entry.event not in self._events:
            return None
        if self._about is not None and self._about != entry.client_id and not is_target(entry, self._about):
            return None
        return entry if self.overlaps(entry.timestamp, entry.timestamp) else None

    def overlaps(self, oldest: str, newest: str) -> bool:
        """Whether anything between these two times can be wanted."""
        if self._since is not None and instant_or_long_ago(newest) < self._since:
            return False
        return self._until is None or instant_or_long_ago(oldest) < self._until


def matches(
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


def _needles(name: str, value: str) -> Sequence[bytes]:
    """One of these is in the line of an entry with that value."""
    plain = b'"%b":%b' % (name.encode(), msgspec.json.encode(value))
    erased = _PSEUDONYM.fullmatch(value) if name == "client_id" else None
    if erased is None:
        return (plain,)
    seq = erased[1].encode()
    return (plain, b'"client_id":%b' % seq, b'{"seq":%b,' % seq)


def _under_pseudonym(line: bytes, entry: AuditEntry) -> AuditEntry:
    """The entry of an erased client, by the number of the entry that says so; others as they are."""
    link, _ = read_line(line)
    by = link.salts.get("client_id") or (link.seq if entry.event == "erased" else None)
    return msgspec.structs.replace(entry, client_id=pseudonym(by)) if isinstance(by, int) else entry


def pseudonym(erased: int) -> str:
    """What a client is called that the entry ``erased`` of that number took out of the audit."""
    return f"{PSEUDONYM}{erased}"


def to_cursor(seq: int) -> str:
    """What names a place in the audit for a caller."""
    return base64.urlsafe_b64encode(b"seq:%d" % seq).decode().rstrip("=")


def from_cursor(cursor: str) -> int:
    """The place that ``to_cursor`` named. Raises ValueError."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        seq = int(text.removeprefix("seq:"))
    except (binascii.Error, ValueError) as error:
        raise ValueError("the cursor is not one of this audit") from error
    if seq < 1 or to_cursor(seq) != cursor:
        raise ValueError("the cursor is not one of this audit")
    return seq
