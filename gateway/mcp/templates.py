"""URI templates (RFC 6570), read backwards: which of them can expand to a URI.

All positions that a template's pieces so far can end at are followed at once, so nothing is ever tried again. A set of
positions is an integer, in which bit n is the position before the character n: a character, or an expression whatever
it expands to, is a few operations on such integers. What a template costs is therefore known beforehand (its ``cost``),
and there is a bound on what the templates of one upstream may cost together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Generic, TypeVar

MAX_URI: Final = 2048
"""Characters of a URI that a template may stand for."""
MAX_PIECES: Final = 64
"""Literals and expressions of a template that can be read."""
MAX_COST: Final = 8192
"""Of all templates of one upstream."""
RECENT: Final = 8
"""How many answers about URIs are kept: who is told of a change asks for the same one again and again."""

_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)[^{}]*\}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Expression:
    """What an expression may expand to: nothing, or ``lead`` and then anything up to a character of ``barrier``."""

    lead: str
    barrier: str


_SIMPLE: Final = _Expression("", "/?#")
_OTHER: Final = _Expression("", "#")
_BY_OPERATOR: Final = {
    "": _SIMPLE,
    "+": _Expression("", ""),
    "#": _Expression("#", ""),
    "/": _Expression("/", "?#"),
}


class _Uri:
    """A URI, and where in it what stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._free: dict[str, int] = {}

    @cached_property
    def _places(self) -> dict[str, int]:
        """The positions of each character."""
        places: dict[str, int] = {}
        for at, character in enumerate(self.text):
            places[character] = places.get(character, 0) | 1 << at
        return places

    def after(self, ends: int, piece: str | _Expression) -> int:
        """Where the URI may go on once ``piece`` has followed on any of ``ends``."""
        if isinstance(piece, str):
            for character in piece:
                ends = (ends & self._places.get(character, 0)) << 1
                if not ends:
                    break
            return ends
        begins = self.after(ends, piece.lead) if piece.lead else ends
        free = self._free_of(piece.barrier)
        # Added to a run of free positions, a beginning in it carries to the position after the run.
        return ends | begins | (((begins & free) + free) ^ free)

    def _free_of(self, barrier: str) -> int:
        """The positions of all other characters."""
        free = self._free.get(barrier)
        if free is None:
            free = (1 << len(self.text)) - 1
            for character in barrier:
                free &= ~self._places.get(character, 0)
            self._free[barrier] = free
        return free


@dataclass(frozen=True, slots=True)
class Template:
    """A URI template, taken a little wider than it says: an expression stands for any value, of any length."""

    prefix: str
    """The literal text before its first expression."""
    middle: tuple[str | _Expression, ...]
    """Its expressions, and the literal text between them."""
    suffix: str
    """The literal text after its last expression."""

    @property
    def cost(self) -> int:
        """What it costs at most to find out whether it fits: one, and one for each expression and character between."""
        return 1 + sum(len(piece) if isinstance(piece, str) else 1 + len(piece.lead) for piece in self.middle)

    def fits(self, uri: str) -> bool:
        """Whether it can expand to the whole of ``uri``. One that is longer than MAX_URI fits nothing."""
        return len(uri) <= MAX_URI and self.spells(_Uri(uri))

    def spells(self, uri: _Uri) -> bool:
        """The same, of a URI that is not too long and that other templates are compared with, too."""
        text = uri.text
        end = len(text) - len(self.suffix)
        if end < len(self.prefix) or not text.startswith(self.prefix) or not text.endswith(self.suffix):
            return False
        ends = 1 << len(self.prefix)
        for piece in self.middle:
            ends = uri.after(ends, piece)
            if not ends:
                return False
        return bool(ends >> end & 1)


class Templates(Generic[T]):
    """Templates and what each stands for, in order; found by the literal text that they begin with."""

    def __init__(self, templates: Iterable[tuple[Template, T]] = ()) -> None:
        self._by_prefix: dict[str, list[tuple[int, Template, T]]] = {}
        for place, (template, meant) in enumerate(templates):
            self._by_prefix.setdefault(template.prefix, []).append((place, template, meant))
        self._lengths = sorted({len(prefix) for prefix in self._by_prefix})
        self.fitting = lru_cache(maxsize=RECENT)(self._fitting)
        """What those stand for that can expand to a URI, in their order."""

    def _fitting(self, uri: str) -> tuple[T, ...]:
        if len(uri) > MAX_URI:
            return ()
        prefixes = (uri[:length] for length in self._lengths if length <= len(uri))
        candidates = [candidate for prefix in prefixes for candidate in self._by_prefix.get(prefix, ())]
        candidates.sort(key=lambda candidate: candidate[0])
        read = _Uri(uri)
        return tuple(meant for _, template, meant in candidates if template.spells(read))


def parse_template(template: str) -> Template | None:
    """Read a template; None where it cannot be read, or has more than MAX_PIECES pieces."""
    pieces: list[str | _Expression] = []
    literals: list[str] = []
    end = 0
    for expression in _EXPRESSION.finditer(template):
        literals.append(template[end : expression.start()])
        pieces += [literals[-1], _BY_OPERATOR.get(expression[1], _OTHER)]
        end = expression.end()
    literals.append(template[end:])
    if len(pieces) + 1 > MAX_PIECES or any("{" in literal or "}" in literal for literal in literals):
        return None
    if not pieces:
        return Template(template, (), "")
    return Template(literals[0], tuple(piece for piece in pieces[1:] if piece), literals[-1])
