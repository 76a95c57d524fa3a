"""How an entry of the audit becomes a line, and how each line holds the one before.

A line is a JSON object without white space, its members in this order::

    {"seq":7,"prev":"…","timestamp":…,"event":…,…,"count":1,"digests":{…},"client_id":…,…,"salts":{…}}

- ``prev`` is the hash of the line before: SHA-256, in base64 without padding, over that line up to and including its
  ``digests``, closed with ``}``. The first line's is 32 zero bytes.
- The members behind ``digests`` are those that can identify a person (PERSONAL). Each that is not null has a digest,
  SHA-256 in base64 over ``SALT:NAME:VALUE`` with a salt of its own. So the value is in the chain, and yet value and salt
  can be taken away without breaking it, and nobody can find the value again by trying.
- An erased value is null, and in the place of its salt is the ``seq`` of the entry ``erased`` that took it away. That
  entry has ``erases``: for each segment how many values, and SHA-256 over a line ``SEQ:NAME`` for each of them.
"""

from __future__ import annotations

import os
from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import sha256
from operator import attrgetter
from typing import Final

import msgspec

from persistence.records import AuditEntry

PERSONAL: Final = ("client_id", "address", "user_agent", "target", "actor", "certificate_thumbprint")
"""The fields that can identify a person; the last ones of AuditEntry, in this order."""

_SALT: Final = 24
"""Characters of a salt, 18 random bytes."""
_SALTS_AT_A_TIME: Final = 1024
_CUT: Final = b'},"client_id":'
"""Between what is hashed and what is not. Quotes inside of a JSON string are escaped: it is nowhere else."""

_PERSONAL_BEGINS: Final = b',"client_id":'
_personal = attrgetter(*PERSONAL)

_encode = msgspec.json.Encoder().encode
_decode_entry = msgspec.json.Decoder(AuditEntry).decode


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).rstrip(b"=").decode()


START: Final = _base64(bytes(32))
"""``prev`` of the first entry."""


class Erasure(msgspec.Struct, frozen=True, gc=False):
    """What an ``erased`` entry took out of one sealed segment."""

    first_seq: int
    """The first entry of the segment."""
    count: int
    """How many values."""
    sha256: str
    """Of a line ``SEQ:NAME`` for each of them, in order."""


class Link(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a line has beside the entry."""

    seq: int
    """1 for the first entry ever, then contiguous."""
    prev: str | None = None
    """None: written before there was a chain."""
    erases: tuple[Erasure, ...] = ()
    digests: dict[str, str] = {}
    salts: dict[str, str | int] = {}


_decode_link = msgspec.json.Decoder(Link).decode


class Salts:
    """Random salts, drawn from the system many at a time."""

    def __init__(self) -> None:
        self._drawn = ""
        self._at = 0

    def take(self) -> str:
        """One that nobody has seen."""
        if self._at == len(self._drawn):
            self._drawn = _base64(os.urandom(_SALT * 3 // 4 * _SALTS_AT_A_TIME))
            self._at = 0
        self._at += _SALT
        return self._drawn[self._at - _SALT : self._at]


def new_line(
    seq: int, prev: str, entry: AuditEntry, salts: Salts, erases: Sequence[Erasure] = ()
) -> tuple[bytes, str]:
    """The line of a new entry, and its hash. Raises UnicodeEncodeError where a text of the entry is not Unicode."""
    digests: list[str] = []
    salted: list[str] = []
    for name, value in zip(PERSONAL, _personal(entry), strict=True):
        if value is not None:
            salt = salts.take()
            salted.append(f'"{name}":"{salt}"')
            digests.append(f'"{name}":"{digest(salt, name, value)}"')
    chained, personal = _halves(seq, prev, erases, ",".join(digests).encode(), entry)
    return b'%b%b,"salts":{%b}}' % (chained, personal, ",".join(salted).encode()), _hash(chained)


def digest(salt: str, name: str, value: str) -> str:
    """Of a personal value."""
    return b2a_base64(sha256(f"{salt}:{name}:{value}".encode()).digest(), newline=False)[:43].decode()


def line_hash(line: bytes) -> str:
    """The hash of a line, which is ``prev`` of the next one. Raises ValueError where it is not laid out as a line."""
    return _hash(line[: line.index(_CUT) + 1])


def read_line(line: bytes) -> tuple[Link, AuditEntry]:
    """A line taken apart. Raises msgspec.MsgspecError where it is none."""
    try:
        return _decode_link(line), _decode_entry(line)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def laid_out(link: Link, entry: AuditEntry) -> bytes:
    """The one way in which these two are written."""
    digests = _encode(link.digests)[1:-1]
    chained, personal = _halves(link.seq, link.prev, link.erases, digests, entry)
    return b'%b%b,"salts":%b}' % (chained, personal, _encode(link.salts))


def without(link: Link, entry: AuditEntry, names: Sequence[str], by: int) -> tuple[Link, AuditEntry]:
    """The entry with these values taken out by the entry ``erased`` numbered ``by``."""
    return (
        msgspec.structs.replace(link, salts={**link.salts, **dict.fromkeys(names, by)}),
        msgspec.structs.replace(entry, **dict.fromkeys(names)),
    )


def wrong_digests(link: Link, entry: AuditEntry) -> list[str]:
    """The personal fields whose value is not the one that was entered, and which no erasure claims."""
    wrong = [name for name in PERSONAL if not _fits(link, name, getattr(entry, name))]
    return wrong + sorted((link.digests.keys() | link.salts.keys()) - set(PERSONAL))


def erased_fields(link: Link) -> list[tuple[str, int]]:
    """The personal fields that were erased, and the ``seq`` of the entry that says so."""
    salts = link.salts
    return [(name, by) for name in PERSONAL if isinstance(by := salts.get(name), int)]


def _fits(link: Link, name: str, value: str | None) -> bool:
    salt, expected = link.salts.get(name), link.digests.get(name)
    if value is None:
        return (salt is None and expected is None) or (isinstance(salt, int) and expected is not None)
    return isinstance(salt, str) and expected == digest(salt, name, value)


def _halves(
    seq: int, prev: str | None, erases: Sequence[Erasure], digests: bytes, entry: AuditEntry
) -> tuple[bytes, bytes]:
    """What is hashed of a line, without its last brace, and the personal fields that follow."""
    body = _encode(entry)
    cut = body.index(_PERSONAL_BEGINS)
    head = b'{"seq":%d,"prev":%b,' % (seq, _encode(prev))
    if erases:
        head += b'"erases":%b,' % _encode(erases)
    return b'%b%b,"digests":{%b}' % (head, body[1:cut], digests), body[cut:-1]


def _hash(chained: bytes) -> str:
    return b2a_base64(sha256(chained + b"}").digest(), newline=False)[:43].decode()
