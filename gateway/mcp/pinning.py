"""Tool definitions are pinned: one that is not as it was approved is told of, or held back.

A definition is what the upstream lists, but for ``_meta``, as canonical JSON. What was last seen of each tool is kept
beside what was approved, so that the difference can be shown, and approved, whether or not the gateway runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.audit import Audit
from gateway.clock import rfc3339
from gateway.config.values import Pinning
from persistence.records import AuditEntry, AuditStatus, Collection, StoreError, ToolPin

log = logging.getLogger("ostiary.mcp")

EVENT: Final = "tool_changed"
MAX_PINS: Final = 4096
"""Tools of one upstream whose definitions are kept; others are held back."""


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
        self._kept: dict[str, set[str]] = {}
        """By upstream: the tools whose definitions are kept, or are on their way to the disk."""
        self._full: set[str] = set()
        """The upstreams of which it was told that they list too many tools."""

    def admits(self, upstream: str, definition: dict[str, Any]) -> bool:
        """Whether the tool may be listed and called as it is defined now."""
        if self._mode is Pinning.OFF:
            return True
        tool, text = str(definition["name"]), canonical(definition)
        pin_id = f"{upstream}/{tool}"
        pin = self._pins.get(pin_id)
        if pin is None and not self._has_room(upstream, tool):
            return False
        if pin is None or pin.seen != text:
            self._remember(pin, pin_id, upstream, tool, text)
        if pin is not None and pin.approved_digest == digest(text):
            self._told.pop(pin_id, None)
            return True
        if self._told.get(pin_id) != text:
            self._told[pin_id] = text
            self._tell(upstream, tool, known=pin is not None and pin.approved is not None)
        return self._mode is not Pinning.HOLD

    def _has_room(self, upstream: str, tool: str) -> bool:
        """Whether that one of its tools can be kept, too. Those that it lists no more count."""
        kept = self._kept.get(upstream)
        if kept is None:
            kept = self._kept[upstream] = {pin.tool for pin in self._pins.where("upstream", upstream)}
        if tool in kept or len(kept) < MAX_PINS:
            kept.add(tool)
            return True
        if upstream not in self._full:
            self._full.add(upstream)
            log.warning(
                "upstream %s has listed more than %d tools by different names: those that are new are held back",
                upstream,
                MAX_PINS,
            )
        return False

    def _remember(self, pin: ToolPin | None, pin_id: str, upstream: str, tool: str, text: str) -> None:
        seen_at = rfc3339(self._now())
        if pin is None:
            pin = ToolPin(pin_id=pin_id, upstream=upstream, tool=tool, seen=text, seen_at=seen_at)
        try:
            self._pins.put_soon(msgspec.structs.replace(pin, seen=text, seen_at=seen_at))
        except StoreError as error:
            log.error("the definition of %s cannot be kept: %s", pin_id, error)

    def _tell(self, upstream: str, tool: str, *, known: bool) -> None:
        held = self._mode is Pinning.HOLD
        reason = "definition_changed" if known else "definition_not_approved"
        log.warning(
            "upstream %s: the definition of the tool %r %s%s: see `ostiary tools diff %s`",
            upstream,
            tool,
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
                target=f"{upstream}/{tool}"[:512],
            )
        )
