"""The members of an upstream's result, by name: decoded only where one that is looked for may be there. Sans I/O.

A result may be large, and most are passed on as they are. Whether a name is in it is told by its bytes; that is the truth
only once the names are ``plain``, for JSON can write each letter as an escape too. Values stay raw.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from gateway.mcp.messages import encode

_ESCAPED_LETTER: Final = re.compile(rb"\\u00[4-7]")


def plain(result: bytes) -> bytes:
    """The result with its members' names, and its type, without escapes: what ``members`` and ``says`` look at.

    The same object where there was nothing to do. Raises MsgspecError where it is no object.
    """
    if b"\\u00" not in result or not _ESCAPED_LETTER.search(result):
        return result
    found = msgspec.json.decode(result, type=dict[str, msgspec.Raw])
    if "resultType" in found:
        found["resultType"] = msgspec.Raw(encode(msgspec.json.decode(found["resultType"])))
    return encode(found)


def says(result: bytes, *words: str) -> bool:
    """Whether one of these names or values may be in it, at whatever depth. No: they are not."""
    return any(b'"%b"' % word.encode() in result for word in words)


def members(result: bytes, *names: str) -> dict[str, msgspec.Raw] | None:
    """All its members, where one of ``names`` is among them or inside; None: certainly not."""
    return msgspec.json.decode(result, type=dict[str, msgspec.Raw]) if says(result, *names) else None


def with_members(result: bytes, added: bytes) -> bytes:
    """The result with ``added`` (members as JSON, without braces) before its own."""
    rest = result.lstrip()[1:].lstrip()
    return b"{%b%b%b" % (added, b"" if rest[:1] == b"}" else b",", rest)
