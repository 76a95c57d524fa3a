"""Whose a name is, where all upstreams are merged into one list.

A name that two upstreams list is nobody's: neither is listed nor reached there, and it is said aloud which two they are.
An upstream's names are those that it listed last, also while it is down and after a restart: so none can take another's
name, neither by coming up first nor by outliving it. Nor is a tool merged whose name is longer than MCP allows.

What is held back is still had at ``/mcp/{upstream}``, where there is nobody else.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from gateway.mcp.listing import Kind
from gateway.mcp.templates import MAX_URI, Templates, parse_template
from persistence.protocols import Collection
from persistence.records import StoreError, UpstreamNames

log = logging.getLogger("ostiary.mcp")

MAX_TOOL_NAME: Final = 128
"""Characters of a tool's name (MCP 2025-11-25 and 2026-07-28, server/tools; SEP-986)."""
MAX_TEMPLATES: Final = 1000
"""Templates of one upstream that are kept."""
MAX_TOLD: Final = 10_000
"""How much of what is held back is remembered as told."""
_DIGEST_BYTES: Final = 12
_PREFIXED: Final = frozenset({Kind.TOOL, Kind.PROMPT})


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A name that is not served where all upstreams are merged."""

    kind: Kind
    name: str
    upstream: str
    others: tuple[str, ...]
    """The upstreams that list it, too; none: it is too long."""

    def __str__(self) -> str:
        shown = ascii(self.name[:200])[1:-1]
        if not self.others:
            return (
                f"the {self.kind} '{shown}' of upstream {self.upstream} is held back: its name is not of 1 to"
                f" {MAX_TOOL_NAME} characters; give that upstream a shorter prefix"
            )
        remedy = "give each its own prefix" if self.kind in _PREFIXED else "see that only one lists it"
        return (
            f"the {self.kind} '{shown}' is of upstream {self.upstream} and of upstream {', '.join(self.others)}:"
            f" it is not served; {remedy}"
        )


class Names:
    """Knows every upstream's names."""

    def __init__(
        self,
        prefixes: Mapping[str, str] | None = None,
        kept: Collection[UpstreamNames] | None = None,
        *,
        tell: Callable[[HeldBack], None] = lambda _held: None,
    ) -> None:
        """``prefixes``: of each configured upstream; ``kept``: their names as last seen, from which it begins.

        ``tell`` gets what is held back, once each.
        """
        self._kept = kept
        self._prefixes = prefixes or {}
        self._tell = tell
        self._of: dict[str, frozenset[str]] = {}
        self._templates: dict[str, tuple[str, ...]] = {}
        self._parsed: dict[str, Templates[str]] = {}
        self._told: set[tuple[Kind, str, frozenset[str]]] = set()
        self._too_long: set[str] = set()
        """The upstreams with a tool whose name is too long."""
        self._disputed: frozenset[str] = frozenset()
        for record in kept or ():
            if self._prefixes.get(record.upstream) == record.prefix:
                self._of[record.upstream] = frozenset(record.digests)
                self._take_templates(record.upstream, record.templates)
        self._compare()

    def holds_back(self, kind: Kind, name: str) -> bool:
        """Whether that name, as the gateway has it, is not to be served."""
        return _too_long(kind, name) or (bool(self._disputed) and _digest(kind, name) in self._disputed)

    def owner(self, kind: Kind, name: str) -> str | None:
        """The upstream whose name that is, also while it is down; None: nobody's, or of more than one."""
        digest = _digest(kind, name)
        owners = [upstream for upstream, digests in self._of.items() if digest in digests]
        return owners[0] if len(owners) == 1 else None

    def template_for(self, uri: str, upstream: str) -> str | None:
        """The template that is that upstream's alone, also while it is down, and fits the URI; None: there is none."""
        fitting = self._parsed[upstream].fitting(uri) if upstream in self._parsed else ()
        return next((text for text in fitting if not self.holds_back(Kind.TEMPLATE, text)), None)

    def concerned(self) -> tuple[str, ...]:
        """The upstreams of which something is held back."""
        return tuple(
            upstream
            for upstream, digests in self._of.items()
            if upstream in self._too_long or not digests.isdisjoint(self._disputed)
        )

    def learn(self, upstream: str, listed: Iterable[tuple[Kind, str]]) -> None:
        """What that upstream lists now, by the gateway's names."""
        names = {_digest(kind, name): (kind, name) for kind, name in listed}
        digests = frozenset(names)
        short = (name for kind, name in names.values() if kind is Kind.TEMPLATE and len(name) <= MAX_URI)
        templates = tuple(islice(short, MAX_TEMPLATES))
        if self._of.get(upstream) != digests or self._templates.get(upstream) != templates:
            self._of[upstream] = digests
            self._take_templates(upstream, templates)
            self._keep(upstream)
            self._compare()
        self._too_long.discard(upstream)
        for digest, (kind, name) in names.items():
            if _too_long(kind, name):
                self._too_long.add(upstream)
                self._say(HeldBack(kind, name, upstream, ()))
            elif digest in self._disputed:
                self._say(HeldBack(kind, name, upstream, self._others(upstream, digest)))

    def _take_templates(self, upstream: str, texts: tuple[str, ...]) -> None:
        parsed = ((parse_template(text), text) for text in texts)
        self._templates[upstream] = texts
        self._parsed[upstream] = Templates(
            (template, text) for template, text in parsed if template is not None
        )

    def _compare(self) -> None:
        counts = Counter(digest for digests in self._of.values() for digest in digests)
        self._disputed = frozenset(digest for digest, number in counts.items() if number > 1)

    def _others(self, upstream: str, digest: str) -> tuple[str, ...]:
        return tuple(other for other, digests in self._of.items() if other != upstream and digest in digests)

    def _say(self, held: HeldBack) -> None:
        told = (held.kind, held.name, frozenset((held.upstream, *held.others)))
        if told in self._told or len(self._told) >= MAX_TOLD:
            return
        self._told.add(told)
        log.error("%s", held)
        self._tell(held)

    def _keep(self, upstream: str) -> None:
        if self._kept is None:
            return
        record = UpstreamNames(
            upstream=upstream,
            prefix=self._prefixes.get(upstream, ""),
            digests=tuple(sorted(self._of[upstream])),
            templates=self._templates[upstream],
        )
        try:
            self._kept.put_soon(record)
        except StoreError as error:
            log.error("the names of upstream %s cannot be kept: %s", upstream, error)


def _too_long(kind: Kind, name: str) -> bool:
    return kind is Kind.TOOL and not 0 < len(name) <= MAX_TOOL_NAME


def _digest(kind: Kind, name: str) -> str:
    text = f"{kind}\0{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()
