"""What one upstream offers: its lists, read, checked, and named as the gateway names them.

What is not as it must be is left out, alone, and told of in the log.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import msgspec

from gateway.authz import rule_for
from gateway.config.values import AccessRule
from gateway.mcp.definitions import as_all_clients_take_it, check_definition, has_modern_output, tidied
from gateway.mcp.eras import Era
from gateway.mcp.listing import INSTRUCTIONS, LISTINGS, Kind, list_all
from gateway.mcp.messages import encode
from gateway.mcp.mirrored import Mirrored, mirrored_in
from gateway.mcp.templates import MAX_COST, Template, Templates, parse_template
from gateway.mcp.upstream import GATEWAY, MODERN_GATEWAY, EraChangedError, ServerInfo, Upstream
from gateway.model import ADMINISTRATION

log = logging.getLogger("ostiary.mcp")

MAX_TOLD: Final = 100
"""How much of what one upstream lists in vain is told of."""
PERMISSIONS_META: Final = "ostiary/permissions"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tool, prompt, resource or template of one upstream."""

    kind: Kind
    upstream: str
    original: str
    """Its name (or URI) at the upstream."""
    name: str
    """Its name at the gateway: with the upstream's prefix, for tools and prompts."""
    permissions: tuple[str, ...]
    rule: str
    """The pattern of the access rule that says so; empty where none does."""
    definition: msgspec.Raw = field(repr=False)
    """Its definition under ``name``."""
    unprefixed: msgspec.Raw = field(repr=False)
    """Its definition under ``original``."""
    template: Template | None = field(default=None, repr=False)
    """What URIs a template stands for; None: it cannot be read, and stands for none."""
    mirrored: tuple[Mirrored, ...] = field(default=(), repr=False)
    """The arguments of a tool that a modern client repeats in headers."""
    modern_output: bool = False
    """Whether the definition has an ``outputSchema`` that legacy clients do not take."""


@dataclass(frozen=True, slots=True)
class Offer:
    """All that one upstream offered when it was last asked."""

    info: ServerInfo
    entries: dict[Kind, dict[str, Entry]]
    """By kind, then by the original name."""
    templates: Templates[Entry]
    """Those of them that stand for URIs."""
    digest: bytes
    needs: frozenset[tuple[str, ...]] = frozenset()
    """What its entries need, each once: whoever is granted none of it may have nothing here."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The access rules of the configuration."""

    tools: tuple[AccessRule, ...] = ()
    prompts: tuple[AccessRule, ...] = ()
    resources: tuple[AccessRule, ...] = ()

    def access(self, kind: Kind, name: str) -> tuple[tuple[str, ...], str]:
        """What the thing of that kind and name needs, and the pattern of the rule that says so (empty: none does)."""
        rules = {Kind.TOOL: self.tools, Kind.PROMPT: self.prompts}.get(kind, self.resources)
        rule = rule_for(rules, name)
        return (ADMINISTRATION, "") if rule is None else (rule.permissions, rule.match)


class Approval(Protocol):
    """Says what of an upstream's offer is let through."""

    def admits(self, upstream: str, kind: str, definition: dict[str, Any]) -> bool:
        """Whether it may be listed and used as it is defined now."""

    def gathered(self, upstream: str, listed: Collection[tuple[str, str]]) -> None:
        """All that the upstream lists, by kind and name at the upstream, held back or not."""


class Offers:
    """Asks upstreams for what they offer."""

    def __init__(self, rules: Rules, approval: Approval | None = None) -> None:
        """``approval`` is asked of each definition; what it does not admit is not there. None: everything is admitted."""
        self._rules = rules
        self._approval = approval
        self._told: dict[str, set[str]] = {}
        """By upstream: what was left out, and said to be."""

    async def of(self, upstream: Upstream, prefix: str) -> Offer:
        """What it offers now. Raises UpstreamError."""
        try:
            return await self._listed(upstream, prefix)
        except EraChangedError:
            return await self._listed(upstream, prefix)

    async def _listed(self, upstream: Upstream, prefix: str) -> Offer:
        said = await upstream.describe()
        info = self._with_approved_instructions(upstream.name, said)
        if any(isinstance(c, dict) and c.get("listChanged") for c in info.capabilities.values()):
            key = MODERN_GATEWAY if info.era is Era.MODERN else GATEWAY
            upstream.listen(key)  # that is where it will say so
        digest = hashlib.sha256()
        entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in Kind}
        there: list[tuple[str, str]] = [(INSTRUCTIONS, "")] if said.instructions else []
        for kind, listing in LISTINGS.items():
            if listing.capability not in info.capabilities:
                continue
            listed: list[Any] = await list_all(upstream, info.era, kind, listing)
            doubled = _doubled(listed, listing.key)
            for definition in listed:
                name = _name(definition, listing.key)
                try:
                    entry = self._entry(kind, upstream.name, prefix, definition, info.era)
                except ValueError as error:
                    self._leave_out(upstream.name, kind, name, str(error))
                    continue
                there.append((kind, entry.original))
                if name in doubled:
                    self._leave_out(upstream.name, kind, name, "it has two definitions")
                elif name not in entries[kind] and self._admits(upstream.name, kind, definition):
                    entries[kind][entry.original] = entry
                    digest.update(bytes(entry.definition))
        if self._approval is not None:
            self._approval.gathered(upstream.name, there)
        templates = self._affordable(upstream.name, entries[Kind.TEMPLATE])
        needs = frozenset(entry.permissions for of_kind in entries.values() for entry in of_kind.values())
        return Offer(info, entries, templates, digest.digest(), needs)

    def _affordable(self, upstream: str, entries: dict[str, Entry]) -> Templates[Entry]:
        """The templates that any URI may be compared with, all in an instant; what goes beyond is taken out."""
        room = MAX_COST
        kept: list[tuple[Template, Entry]] = []
        for entry in tuple(entries.values()):
            if entry.template is None:
                continue
            if entry.template.cost > room:
                del entries[entry.original]
                why = "with those before it, more would have to be compared with every URI than may be"
                self._leave_out(upstream, Kind.TEMPLATE, entry.name, why)
            else:
                room -= entry.template.cost
                kept.append((entry.template, entry))
        return Templates(kept)

    def _leave_out(self, upstream: str, kind: Kind, name: str | None, why: str) -> None:
        """Say it, once, and not without end."""
        told = self._told.setdefault(upstream, set())
        which = f"the {kind} {name[:200]!a}" if name is not None else f"a {kind}"
        text = f"{which} is left out: {ascii(why[:300])[1:-1]}"
        if text in told or len(told) > MAX_TOLD:
            return
        told.add(text)
        if len(told) > MAX_TOLD:
            text = "more than that is left out, of which nothing is said any more"
        log.warning("upstream %s: %s", upstream, text)

    def _admits(self, upstream: str, kind: str, definition: dict[str, Any]) -> bool:
        return self._approval is None or self._approval.admits(upstream, kind, definition)

    def _with_approved_instructions(self, upstream: str, info: ServerInfo) -> ServerInfo:
        said = {"instructions": info.instructions}
        if not info.instructions or self._admits(upstream, INSTRUCTIONS, said):
            return info
        return replace(info, instructions=None)

    def _entry(self, kind: Kind, upstream: str, prefix: str, definition: Any, era: Era) -> Entry:
        """What such a definition stands for. Raises ValueError where it is not well-formed."""
        definition = tidied(definition)
        check_definition(kind, definition, era)
        key = LISTINGS[kind].key
        original: str = definition[key]
        name = prefix + original if kind in {Kind.TOOL, Kind.PROMPT} else original
        permissions, rule = self._rules.access(kind, name)
        meta = definition.get("_meta")
        plain: dict[str, Any] = {
            **as_all_clients_take_it(kind, definition),
            "_meta": {**(meta if isinstance(meta, dict) else {}), PERMISSIONS_META: list(permissions)},
        }
        return Entry(
            kind=kind,
            upstream=upstream,
            original=original,
            name=name,
            permissions=permissions,
            rule=rule,
            definition=msgspec.Raw(encode({**plain, key: name})),
            unprefixed=msgspec.Raw(encode(plain)),
            template=parse_template(original) if kind is Kind.TEMPLATE else None,
            mirrored=mirrored_in(definition["inputSchema"]) if kind is Kind.TOOL else (),
            modern_output=has_modern_output(kind, definition),
        )


def _name(definition: object, key: str) -> str | None:
    name = definition.get(key) if isinstance(definition, dict) else None
    return name if isinstance(name, str) else None


def _doubled(definitions: Iterable[object], key: str) -> frozenset[str]:
    """The names that have more than one definition: which of them is meant, nobody can say, or approve."""
    first: dict[str, bytes] = {}
    doubled: set[str] = set()
    for definition in definitions:
        name = _name(definition, key)
        if name is not None:
            text = encode(definition)
            if first.setdefault(name, text) != text:
                doubled.add(name)
    return frozenset(doubled)
