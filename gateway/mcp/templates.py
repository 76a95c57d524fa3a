"""URI templates (RFC 6570), read backwards: whether a template can expand to a URI.

All positions that a template's pieces so far can end at are followed at once, so nothing is ever tried again: a
template of P pieces costs at most P passes over the URI.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_URI: Final = 2048
"""Characters of a URI that a template may stand for."""
MAX_PIECES: Final = 64
"""Literals and expressions of a template that can be read."""

_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)[^{}]*\}")


@dataclass(frozen=True, slots=True)
class _Expression:
    """What an expression may expand to: nothing, or ``lead`` and then anything up to a character of ``barrier``."""

    lead: str
    barrier: re.Pattern[str] | None


_SIMPLE: Final = _Expression("", re.compile(r"[/?#]"))
_OTHER: Final = _Expression("", re.compile(r"#"))
_BY_OPERATOR: Final = {
    "": _SIMPLE,
    "+": _Expression("", None),
    "#": _Expression("#", None),
    "/": _Expression("/", re.compile(r"[?#]")),
}


@dataclass(frozen=True, slots=True)
class Template:
    """A URI template, taken a little wider than it says: an expression stands for any value, of any length."""

    pieces: tuple[str | _Expression, ...]
    """Literal text and expressions, in turn."""

    def fits(self, uri: str) -> bool:
        """Whether it can expand to the whole of ``uri``. One that is longer than MAX_URI fits nothing."""
        if len(uri) > MAX_URI:
            return False
        ends = bytearray(len(uri) + 1)
        ends[0] = 1
        for piece in self.pieces:
            ends = _after_literal(ends, uri, piece) if isinstance(piece, str) else _after(ends, uri, piece)
            if 1 not in ends:
                return False
        return ends[-1] == 1


def parse_template(template: str) -> Template | None:
    """Read a template; None where it cannot be read, or has more than MAX_PIECES pieces."""
    pieces: list[str | _Expression] = []
    end = 0
    for expression in _EXPRESSION.finditer(template):
        pieces += [template[end : expression.start()], _BY_OPERATOR.get(expression[1], _OTHER)]
        end = expression.end()
    pieces.append(template[end:])
    if len(pieces) > MAX_PIECES or any(isinstance(p, str) and ("{" in p or "}" in p) for p in pieces):
        return None
    return Template(tuple(piece for piece in pieces if piece))


def _after_literal(ends: bytearray, uri: str, literal: str) -> bytearray:
    """Where the URI may go on once ``literal`` has followed. ``ends`` has a 1 for each position so far."""
    reached = bytearray(len(ends))
    at = ends.find(1)
    while at >= 0:
        at = uri.find(literal, at)
        if at < 0:
            break
        if ends[at]:
            reached[at + len(literal)] = 1
        at = ends.find(1, at + 1)
    return reached


def _after(ends: bytearray, uri: str, expression: _Expression) -> bytearray:
    """Where the URI may go on once ``expression`` has followed."""
    reached = bytearray(ends)
    begins = _after_literal(ends, uri, expression.lead) if expression.lead else ends
    at = begins.find(1)
    while at >= 0:
        barrier = expression.barrier.search(uri, at) if expression.barrier is not None else None
        stop = barrier.start() if barrier is not None else len(uri)
        reached[at : stop + 1] = b"\x01" * (stop + 1 - at)
        at = begins.find(1, stop + 1)
    return reached
