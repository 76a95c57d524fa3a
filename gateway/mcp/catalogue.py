"""What the upstreams offer, and who may have it: the second, visible authorization.

The gateway gathers the lists of every upstream through its own session and keeps them until the upstream says that
they changed, or they grow old. A thing that is not in the catalogue, or that ``decide`` refuses, is neither listed
nor reached: lists and calls ask the same function.

An upstream that does not answer costs only its own entries: its last known ones stay callable (and say that it is
down), and it is asked again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from gateway.authz import authorize, permissions_for
from gateway.config import AccessRule
from gateway.mcp.listing import LISTINGS, Kind, Listing, list_all
from gateway.mcp.messages import encode
from gateway.mcp.templates import MAX_URI, Template, parse_template
from gateway.mcp.upstream import GATEWAY, ServerInfo, SessionKey, Upstream, UpstreamError
from gateway.model import ALLOW, ClientContext, Decision
from gateway.spelling import is_plain_uri

__all__ = ["LISTINGS", "Catalogue", "Entry", "Kind", "Offer", "Rules", "decide"]

log = logging.getLogger("ostiary.mcp")

FRESH_FOR: Final = 60.0
"""Seconds after which a list is gathered again, in the background, when somebody asks for it."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
RETURN_SECONDS: Final = 0.25
"""How long a list waits for an upstream that was down, to see whether it is back."""
PATIENCE: Final = 5.0
"""How long an upstream may take to list everything, at most."""
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
    definition: msgspec.Raw = field(repr=False)
    """Its definition under ``name``."""
    unprefixed: msgspec.Raw = field(repr=False)
    """Its definition under ``original``."""
    template: Template | None = field(default=None, repr=False)
    """What URIs a template stands for."""


@dataclass(frozen=True, slots=True)
class Offer:
    """All that one upstream offered when it was last asked."""

    info: ServerInfo
    entries: dict[Kind, dict[str, Entry]]
    """By kind, then by the original name."""
    digest: bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """The access rules of the configuration."""

    tools: tuple[AccessRule, ...] = ()
    prompts: tuple[AccessRule, ...] = ()
    resources: tuple[AccessRule, ...] = ()

    def permissions(self, kind: Kind, name: str) -> tuple[str, ...]:
        """What the thing of that kind and name needs."""
        rules = {Kind.TOOL: self.tools, Kind.PROMPT: self.prompts}.get(kind, self.resources)
        return permissions_for(rules, name)


@dataclass(slots=True)
class _Shelf:
    """One upstream's place in the catalogue."""

    upstream: Upstream
    prefix: str
    patience: float
    offer: Offer | None = None
    gathered_at: float = 0.0
    stale: bool = True
    down: bool = False
    pause: float = FIRST_PAUSE
    ask_again_at: float = 0.0
    gathering: asyncio.Task[None] | None = None


class Catalogue:
    """The offers of all upstreams, in the order of the configuration."""

    def __init__(
        self,
        upstreams: Iterable[tuple[Upstream, str, float]],
        rules: Rules,
        *,
        monotonic: Callable[[], float],
        on_change: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """``upstreams``: each with its prefix and its time limit in seconds. ``on_change`` gets an upstream's name."""
        self._shelves = {
            upstream.name: _Shelf(upstream, prefix, min(patience, PATIENCE))
            for upstream, prefix, patience in upstreams
        }
        self._rules = rules
        self._monotonic = monotonic
        self._on_change = on_change
        self._clashes: set[tuple[Kind, str, str, str]] = set()
        """What was warned of."""
        self.generation = 0
        """Grows whenever any offer changed."""

    def __contains__(self, upstream: str) -> bool:
        return upstream in self._shelves

    def upstream(self, name: str) -> Upstream:
        """The upstream of that name."""
        return self._shelves[name].upstream

    def unlisten(self, key: SessionKey) -> None:
        """No upstream need keep a stream open for that key."""
        for shelf in self._shelves.values():
            shelf.upstream.unlisten(key)

    def down(self) -> tuple[str, ...]:
        """The upstreams that did not answer when last asked."""
        return tuple(name for name, shelf in self._shelves.items() if shelf.down)

    def offers(self, scope: str | None) -> list[Offer]:
        """What is known now of one upstream (``scope``), or of all (None), without those that are down."""
        shelves = self._in_scope(scope)
        return [shelf.offer for shelf in shelves if shelf.offer is not None and not shelf.down]

    def entries(self, kind: Kind, scope: str | None) -> list[Entry]:
        """Everything of that kind, in stable order. The first of two equal names wins."""
        if scope is not None:
            return [entry for offer in self.offers(scope) for entry in offer.entries[kind].values()]
        merged: dict[str, Entry] = {}
        for offer in self.offers(None):
            for entry in offer.entries[kind].values():
                merged.setdefault(entry.name, entry)
        return list(merged.values())

    def visible(self, kind: Kind, scope: str | None, context: ClientContext) -> list[Entry]:
        """What of it the caller may have."""
        return [entry for entry in self.entries(kind, scope) if decide(entry, context) is ALLOW]

    def find(self, kind: Kind, name: str, scope: str | None) -> Entry | None:
        """The entry that ``name`` means: at ``/mcp`` (scope None) the gateway's name, at ``/mcp/{upstream}`` its own."""
        for shelf in self._in_scope(scope):
            if shelf.offer is None:
                continue
            original = name
            if scope is None and kind in {Kind.TOOL, Kind.PROMPT}:
                if not name.startswith(shelf.prefix):
                    continue
                original = name[len(shelf.prefix) :]
            entry = shelf.offer.entries[kind].get(original)
            if entry is not None:
                return entry
        return None

    def find_resource(self, uri: str, scope: str | None) -> Entry | None:
        """Who serves that URI: a listed resource, else a template that it fits; its rule is that of the URI.

        What only a template serves must have a single spelling, lest another one escape that rule.
        """
        entry = self.find(Kind.RESOURCE, uri, scope)
        if entry is not None:
            return entry
        if len(uri) > MAX_URI or not is_plain_uri(uri):
            return None
        for shelf in self._in_scope(scope):
            for entry in shelf.offer.entries[Kind.TEMPLATE].values() if shelf.offer else ():
                if entry.template is not None and entry.template.fits(uri):
                    permissions = (*entry.permissions, *self._rules.permissions(Kind.RESOURCE, uri))
                    return replace(
                        entry, name=uri, original=uri, permissions=tuple(dict.fromkeys(permissions))
                    )
        return None

    def find_template(self, reference: str, scope: str | None) -> Entry | None:
        """The template (or resource) that a completion refers to by its URI."""
        return self.find(Kind.TEMPLATE, reference, scope) or self.find_resource(reference, scope)

    def prefixed(self, name: str, scope: str | None) -> str:
        """The gateway's name of what is called ``name`` in that scope."""
        return name if scope is None else self._shelves[scope].prefix + name

    async def refresh(self, scope: str | None) -> None:
        """See to it that what is asked for is known.

        Waits for upstreams whose offer is unknown or out of date, and only an instant for one that was down.
        """
        new: list[asyncio.Task[None]] = []
        returning: list[asyncio.Task[None]] = []
        now = self._monotonic()
        for shelf in self._in_scope(scope):
            grown_old = now - shelf.gathered_at > FRESH_FOR
            if not (shelf.stale or shelf.down or grown_old) or (shelf.down and now < shelf.ask_again_at):
                continue
            task = self._gather(shelf)
            if shelf.down:
                returning.append(task)
            elif shelf.offer is None or shelf.stale:
                new.append(task)
        if returning:
            await asyncio.wait(returning, timeout=RETURN_SECONDS)
        if new:
            await asyncio.wait(new)

    def warm(self) -> None:
        """Begin to gather everything, so that the first request need not wait for it."""
        for shelf in self._shelves.values():
            self._gather(shelf)

    def invalidate(self, upstream: str) -> None:
        """That upstream's lists changed, or it did not answer: gather them again, now."""
        shelf = self._shelves[upstream]
        shelf.stale = True
        if self._monotonic() >= shelf.ask_again_at:
            self._gather(shelf)

    async def close(self) -> None:
        """Stop gathering."""
        tasks = [shelf.gathering for shelf in self._shelves.values() if shelf.gathering is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _in_scope(self, scope: str | None) -> Sequence[_Shelf]:
        return tuple(self._shelves.values()) if scope is None else (self._shelves[scope],)

    def _gather(self, shelf: _Shelf) -> asyncio.Task[None]:
        if shelf.gathering is None:
            shelf.gathering = asyncio.get_running_loop().create_task(self._fill(shelf))
        return shelf.gathering

    async def _fill(self, shelf: _Shelf) -> None:
        """Gather until nothing changed meanwhile, or the upstream does not answer."""
        shelf.stale = True
        try:
            while shelf.stale:
                shelf.stale = False
                try:
                    async with asyncio.timeout(shelf.patience):
                        offer = await self._ask(shelf)
                except UpstreamError as error:
                    return self._missed(shelf, error.detail)
                except TimeoutError:
                    return self._missed(shelf, "it did not list in time")
                except Exception:
                    log.exception("the lists of upstream %s cannot be read", shelf.upstream.name)
                    return self._missed(shelf, "its lists cannot be read")
                self._took(shelf, offer)
        finally:
            shelf.gathering = None

    def _missed(self, shelf: _Shelf, detail: str) -> None:
        if not shelf.down:
            log.warning("upstream %s is left out: %s", shelf.upstream.name, detail)
            self.generation += 1
        shelf.down = shelf.stale = True
        shelf.ask_again_at = self._monotonic() + shelf.pause
        shelf.pause = min(2 * shelf.pause, LONGEST_PAUSE)

    def _took(self, shelf: _Shelf, offer: Offer) -> None:
        if shelf.down:
            log.warning("upstream %s is back", shelf.upstream.name)
        changed = shelf.down or shelf.offer is None or shelf.offer.digest != offer.digest
        shelf.offer, shelf.down, shelf.pause = offer, False, FIRST_PAUSE
        shelf.gathered_at = self._monotonic()
        if changed:
            self.generation += 1
            self._warn_of_clashes()
            self._on_change(shelf.upstream.name)

    def _warn_of_clashes(self) -> None:
        """Say once of each name that two upstreams have whose it is: that of the first in the configuration."""
        owners: dict[tuple[Kind, str], str] = {}
        offers = [shelf.offer for shelf in self._shelves.values() if shelf.offer is not None]
        for entry in (entry for offer in offers for kind in Kind for entry in offer.entries[kind].values()):
            owner = owners.setdefault((entry.kind, entry.name), entry.upstream)
            clash = (entry.kind, entry.name, owner, entry.upstream)
            if owner != entry.upstream and clash not in self._clashes:
                self._clashes.add(clash)
                log.warning("the %s %r of upstream %s hides that of upstream %s", *clash)

    async def _ask(self, shelf: _Shelf) -> Offer:
        info = await shelf.upstream.describe()
        if any(isinstance(c, dict) and c.get("listChanged") for c in info.capabilities.values()):
            shelf.upstream.listen(GATEWAY)  # that is where it will say so
        digest = hashlib.sha256()
        entries: dict[Kind, dict[str, Entry]] = {}
        for kind, listing in LISTINGS.items():
            entries[kind] = {}
            if listing.capability not in info.capabilities:
                continue
            for definition in await list_all(shelf.upstream, kind, listing):
                entry = self._entry(kind, listing, shelf, definition)
                if entry is None or entry.original in entries[kind]:
                    log.warning(
                        "upstream %s lists a %s that is malformed or twice", shelf.upstream.name, kind
                    )
                    continue
                entries[kind][entry.original] = entry
                digest.update(bytes(entry.definition))
        return Offer(info, entries, digest.digest())

    def _entry(self, kind: Kind, listing: Listing, shelf: _Shelf, definition: object) -> Entry | None:
        if not isinstance(definition, dict) or not isinstance(definition.get(listing.key), str):
            return None
        original: str = definition[listing.key]
        prefixed = kind in {Kind.TOOL, Kind.PROMPT}
        name = shelf.prefix + original if prefixed else original
        permissions = self._rules.permissions(kind, name)
        meta = definition.get("_meta")
        plain: dict[str, Any] = {
            **definition,
            "_meta": {**(meta if isinstance(meta, dict) else {}), PERMISSIONS_META: list(permissions)},
        }
        return Entry(
            kind=kind,
            upstream=shelf.upstream.name,
            original=original,
            name=name,
            permissions=permissions,
            definition=msgspec.Raw(encode({**plain, listing.key: name})),
            unprefixed=msgspec.Raw(encode(plain)),
            template=parse_template(original) if kind is Kind.TEMPLATE else None,
        )


def decide(entry: Entry, context: ClientContext) -> Decision:
    """Whether the caller may have it: the one decision behind list, call, get, read, complete and subscribe."""
    return authorize(context, entry.permissions)
