"""What upstreams say of themselves is pinned: a definition that is not as it was approved is told of, or held back.

Tools, prompts, resource templates and a server's instructions: models read them. Resources are not, for they come and go
with the data. A definition is what the upstream lists, but for ``_meta``, as canonical JSON. What was last seen of each is
kept beside what was approved, so that the difference can be shown, and approved, whether or not the gateway runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from collections.abc import Collection as Names
from typing import Any, Final

import msgspec

from gateway.audit import Audit
from gateway.clock import rfc3339
from gateway.config.values import Pinning
from gateway.mcp.listing import INSTRUCTIONS, LISTINGS, Kind
from gateway.mcp.pace import Pace
from persistence.protocols import Collection
from persistence.records import AuditEntry, AuditStatus, StoreError, ToolPin

log = logging.getLogger("ostiary.mcp")

EVENT: Final = "tool_changed"
PINNED: Final = {str(kind): LISTINGS[kind].key for kind in (Kind.TOOL, Kind.PROMPT, Kind.TEMPLATE)} | {
    INSTRUCTIONS: "name"
}
"""What is pinned, and the member of a definition that names it."""
MAX_PINS: Final = 4096
"""Definitions of one upstream that are kept; others are held back."""
FIRST_PAUSE: Final = 60.0
LONGEST_PAUSE: Final = 3600.0
"""Seconds between two times that it is told of one definition which changes again and again."""


def pin_id_of(upstream: str, kind: str, name: str) -> str:
    """The id of a definition's pin."""
    return f"{upstream}/{name}" if kind == Kind.TOOL else f"{upstream}:{kind}/{name}"


def canonical(definition: dict[str, Any]) -> str:
    """The definition with its keys in order, without ``_meta``."""
    kept = {key: value for key, value in definition.items() if key != "_meta"}
    return json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Pins:
    """Says of each definition whether it is let through, and remembers what was seen."""

    def __init__(
        self, pins: Collection[ToolPin], mode: Pinning, audit: Audit, *, now: Callable[[], float]
    ) -> None:
        self._pins = pins
        self._mode = mode
        self._audit = audit
        self._now = now
        self._told: dict[str, str] = {}
        """Of which definition of a tool it was told that it is not the approved one."""
        self._paces: dict[str, Pace] = {}
        """How often it is told of each."""
        self._kept: dict[str, set[str]] = {}
        """By upstream: the pins that are kept, or are on their way to the disk."""
        self._full: set[str] = set()
        """The upstreams of which it was told that they list too much."""

    def admits(self, upstream: str, kind: str, definition: dict[str, Any]) -> bool:
        """Whether it may be listed and used as it is defined now."""
        if self._mode is Pinning.OFF or kind not in PINNED:
            return True
        name, text = str(definition.get(PINNED[kind], "")), canonical(definition)
        pin_id = pin_id_of(upstream, kind, name)
        pin = self._pins.get(pin_id)
        if pin is None and not self._has_room(upstream, pin_id):
            return False
        if pin is None or pin.seen != text or pin.gone_since is not None:
            seen_at = rfc3339(self._now())
            new = ToolPin(pin_id=pin_id, upstream=upstream, tool=name, kind=kind, seen=text, seen_at=seen_at)
            changes = {"seen": text, "seen_at": seen_at, "gone_since": None}
            self._remember(msgspec.structs.replace(pin or new, **changes))
        if pin is not None and pin.approved_digest == digest(text):
            self._told.pop(pin_id, None)
            return True
        if self._told.get(pin_id) != text and self._may_tell(pin_id):
            self._told[pin_id] = text
            self._tell(upstream, kind, name, known=pin is not None and pin.approved is not None)
        return self._mode is not Pinning.HOLD

    def gathered(self, upstream: str, listed: Names[tuple[str, str]]) -> None:
        """All that an upstream lists now, by kind and name: what else was seen of it is there no more."""
        if self._mode is Pinning.OFF:
            return
        there = {pin_id_of(upstream, kind, name) for kind, name in listed}
        for pin in self._pins.where("upstream", upstream):
            if pin.pin_id not in there and pin.gone_since is None:
                self._remember(msgspec.structs.replace(pin, gone_since=rfc3339(self._now())))

    def renew(self, upstream: str) -> None:
        """Somebody approved or removed pins of that upstream."""
        self._kept.pop(upstream, None)
        self._full.discard(upstream)

    def _may_tell(self, pin_id: str) -> bool:
        """Whether it may be told of that definition now, lest one that changes all the time fill the disk."""
        pace, now = self._paces.setdefault(pin_id, Pace(FIRST_PAUSE, LONGEST_PAUSE)), self._now()
        if pace.wait(now) > 0:
            return False
        pace.begun(now)
        return True

    def _has_room(self, upstream: str, pin_id: str) -> bool:
        """Whether one more definition of its can be kept. Those of what it lists no more count, until they are forgotten."""
        kept = self._kept.get(upstream)
        if kept is None:
            kept = self._kept[upstream] = {pin.pin_id for pin in self._pins.where("upstream", upstream)}
        if pin_id in kept or len(kept) < MAX_PINS:
            kept.add(pin_id)
            return True
        if upstream not in self._full:
            self._full.add(upstream)
            log.warning(
                "upstream %s has listed more than %d things by different names: those that are new are held back;"
                " `ostiary tools forget %s` makes room",
                upstream,
                MAX_PINS,
                upstream,
            )
        return False

    def _remember(self, pin: ToolPin) -> None:
        try:
            self._pins.put_soon(pin)
        except StoreError as error:
            log.error("the definition of %s cannot be kept: %s", pin.pin_id, error)

    def _tell(self, upstream: str, kind: str, name: str, *, known: bool) -> None:
        held = self._mode is Pinning.HOLD
        reason = "definition_changed" if known else "definition_not_approved"
        log.warning(
            "upstream %s: the definition of the %s %r %s%s: see `ostiary tools diff %s`",
            upstream,
            kind,
            name[:200],
            "has changed since it was approved" if known else "was never approved",
            "; it is held back" if held else "",
            upstream,
        )
        self._audit.denied(
            AuditEntry(
                timestamp=rfc3339(self._now()),
                event=EVENT,
                status=AuditStatus.DENIED if held else AuditStatus.OK,
                reason=reason,
                upstream=upstream,
                target=pin_id_of(upstream, kind, name)[:512],
            )
        )
