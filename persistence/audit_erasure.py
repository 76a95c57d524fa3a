"""Taking values that identify a person out of sealed segments: what is to go, and the lines without it.

The entry ``erased`` that says what goes comes first, and is signed for, before anything goes (``audit_chain``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Final
from urllib.parse import unquote

import msgspec

from persistence.audit_chain import PERSONAL, Erasure, laid_out, read_line, without
from persistence.records import AuditEntry

Taken = Callable[[AuditEntry], Sequence[str]]
"""Which fields of an entry are to go; those that are null already do not count."""

OWN: Sequence[str] = ("client_id", "address", "user_agent", "target", "certificate_thumbprint")
"""What goes out of a client's own entries."""

ERASED: Final = "erased"
"""Whose entries they are that come of a client once it was erased: what was still under way, or summed up."""

_PATHS: Final = ("/admin/api/clients/", "/admin/api/exports/", "/admin/api/email-codes/")
"""What stands before a client's name in a path."""

_encode_entry = msgspec.json.Encoder().encode


def of_client(client_id: str) -> Taken:
    """What identifies that client: in its own entries, and where it is what was acted upon."""

    def taken(entry: AuditEntry) -> Sequence[str]:
        if entry.client_id == client_id:
            return OWN
        return ("target",) if is_target(entry, client_id) else ()

    return taken


def is_target(entry: AuditEntry, client_id: str) -> bool:
    """Whether the client was acted upon."""
    return acted_upon(entry.target) == client_id


def acted_upon(target: str | None) -> str | None:
    """The client that a target names, if it is one that names a client: ``NAME``, ``NAME: what it was given``, or a path.

    (No name has a ``:``.) Such paths are in entries of requests that were refused.
    """
    if target is None:
        return None
    for path in _PATHS:
        if target.startswith(path):
            return unquote(target.removeprefix(path))
    return target.partition(": ")[0]


def nameless(entry: AuditEntry, erased: Collection[str]) -> AuditEntry:
    """The entry without what identifies any of these clients."""
    if not erased:
        return entry
    if entry.client_id in erased:
        return msgspec.structs.replace(entry, **(dict.fromkeys(OWN) | {"client_id": ERASED}))
    if acted_upon(entry.target) in erased:
        return msgspec.structs.replace(entry, target=None)
    return entry


def find(lines: Sequence[bytes], taken: Taken) -> dict[int, list[str]]:
    """By entry, the fields of these lines that are to go. Raises msgspec.MsgspecError."""
    found: dict[int, list[str]] = {}
    for line in lines:
        link, entry = read_line(line)
        wanted = taken(entry)
        fields = [name for name in PERSONAL if name in wanted and getattr(entry, name) is not None]
        if fields:
            found[link.seq] = fields
    return found


def claim(first_seq: int, gone: Mapping[int, Sequence[str]]) -> Erasure:
    """What the entry ``erased`` says of a segment."""
    marks = [f"{seq}:{name}\n" for seq, names in gone.items() for name in names]
    return Erasure(first_seq, len(marks), sha256("".join(marks).encode()).hexdigest())


def take_out(lines: Sequence[bytes], gone: Mapping[int, Sequence[str]], by: int) -> list[bytes]:
    """The lines without these values. ``by``: the number of the entry ``erased``."""
    return [_without(line, gone, by) for line in lines]


def _without(line: bytes, gone: Mapping[int, Sequence[str]], by: int) -> bytes:
    link, entry = read_line(line)
    names = gone.get(link.seq)
    if not names:
        return line
    if link.prev is None:  # from before the chain: there is nothing but the entry
        entry = msgspec.structs.replace(entry, **dict.fromkeys(names))
        return b'{"seq":%d,%b' % (link.seq, _encode_entry(entry)[1:])
    return laid_out(*without(link, entry, names, by))
