r"""How a journal lies on disk: one line for each batch of changes, ``CRC NUMBER LENGTH JSON\n``.

- CRC: eight hex digits, the CRC-32 of the rest of the line without its newline.
- NUMBER: 0 for the header, then 1, 2, 3 …: a frame that was removed, moved or copied is noticed.
- LENGTH: the bytes of JSON.
- JSON: the header ``{"version": 1, "generation": 42}``, else an array of changes.

A frame is written by one write and made durable by one fdatasync before any of its changes is acknowledged, so a frame
that is not whole holds nothing that anybody was promised. A crash leaves such frames only at the end: what does not
check there, with nothing valid behind it, is a torn tail. Anything else that does not check is damage.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from persistence.files import RESTORE
from persistence.records import StoreError

VERSION: Final = 1

_CRC_DIGITS: Final = 8
_START: Final = re.compile(rb"[0-9a-f]{8} [0-9]{1,9} ([0-9]{1,12}) ")


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first frame of a journal."""

    version: int
    generation: int


class Frames(msgspec.Struct, frozen=True):
    """A journal as it was read."""

    payloads: tuple[bytes, ...]
    """The JSON of each frame behind the header, in order."""
    end: int
    """How many bytes of the file are whole frames."""
    torn: bool
    """Whether something that is not a frame follows them."""


def frame(number: int, parts: Sequence[bytes]) -> bytes:
    """The frame of an array of these JSON values."""
    body = b",".join(parts)
    head = b" %d %d [" % (number, len(body) + 2)
    crc = zlib.crc32(b"]", zlib.crc32(body, zlib.crc32(head[1:])))
    return b"".join((b"%08x" % crc, head, body, b"]\n"))


def header(generation: int) -> bytes:
    """The first frame of the journal of that generation."""
    json = msgspec.json.encode(Header(VERSION, generation))
    text = b"0 %d %b" % (len(json), json)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def read(data: bytes, path: object, generation: int) -> Frames:
    """Take a journal apart. ``path`` is for messages.

    Raises:
        StoreError: It is damaged, or of another generation or version than it should be.
    """
    lines = data.split(b"\n")
    lines.pop()  # what follows the last newline: nothing, or torn
    first = _payload(lines[0]) if lines else None
    if first is None or first[0] != 0:
        raise damaged(path, 0)
    _check_header(first[1], path, generation)
    payloads: list[bytes] = []
    end = len(lines[0]) + 1
    for number in range(1, len(lines)):
        payload = _payload(lines[number])
        if payload is None or payload[0] != number:
            if _any_frame(data, end):
                raise damaged(path, end)
            break
        payloads.append(payload[1])
        end += len(lines[number]) + 1
    return Frames(tuple(payloads), end, torn=end < len(data))


def _payload(line: bytes) -> tuple[int, bytes] | None:
    """Number and JSON of a frame, without its newline; None: it is not a valid frame."""
    text = line[_CRC_DIGITS + 1 :]
    if line[: _CRC_DIGITS + 1] != b"%08x " % zlib.crc32(text):
        return None
    number, _, rest = text.partition(b" ")
    length, _, json = rest.partition(b" ")
    if not number.isdigit() or not length.isdigit() or int(length) != len(json):
        return None
    return int(number), json


def _any_frame(data: bytes, start: int) -> bool:
    """Whether there is a valid frame anywhere from ``start`` on, its newline included.

    It need not begin a line, as the newline before it may be what is damaged. Text inside of a frame cannot pass for one:
    JSON has no newline.
    """
    for found in _START.finditer(data, start):
        end = found.end() + int(found[1])
        if data[end : end + 1] == b"\n" and _payload(data[found.start() : end]) is not None:
            return True
    return False


def _check_header(json: bytes, path: object, generation: int) -> None:
    try:
        found = msgspec.json.decode(json, type=Header)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{path} is not a journal that this version of Ostiary reads: {error}") from error
    if found.version != VERSION:
        raise StoreError(
            f"{path} has version {found.version}; this version of Ostiary reads version {VERSION}"
        )
    if found.generation != generation:
        raise StoreError(
            f"{path} is the journal of generation {found.generation}, not {generation}: {RESTORE}"
        )


def damaged(path: object, offset: int) -> StoreError:
    """What to raise for a journal that is damaged there."""
    return StoreError(f"{path} is damaged at byte {offset}: {RESTORE}")
