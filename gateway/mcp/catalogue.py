"""What the upstreams offer, and who may have it: the second, visible authorization.

The gateway gathers the lists of every upstream through its own session and keeps them until the upstream says that
they changed, or they grow old. A thing that is not in the catalogue, or that ``decide`` refuses, is neither listed
nor reached: lists and calls ask the same function.

An upstream that does not answer costs only its own entries: its last known ones stay callable (and say that it is
down), and it is asked again after a pause that grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import msgspec

from gateway.authz import authorize
from gateway.mcp.listing import LISTINGS, Kind
from gateway.mcp.names import Names
from gateway.mcp.offers import Approval, Entry, Offer, Offers, Rules
from gateway.mcp.source import Source
from gateway.mcp.target import Target
from gateway.mcp.templates import MAX_URI
from gateway.mcp.upstream import SessionKey, Upstream
from gateway.model import ALLOW, ClientContext, Decision
from gateway.spelling import is_plain_uri

__all__ = ["LISTINGS", "Catalogue", "Entry", "Kind", "Offer", "Rules", "decide", "has_something_for"]


class Catalogue:
    """The offers of all upstreams, in the order of the configuration."""

    def __init__(
        self,
        upstreams: Iterable[tuple[Upstream, str, float]],
        rules: Rules,
        *,
        monotonic: Callable[[], float],
        approval: Approval | None = None,
        on_change: Callable[[str], None] = lambda _name: None,
        names: Names | None = None,
    ) -> None:
        """``upstreams``: each with its prefix and its time limit in seconds. ``on_change`` gets an upstream's name.

        ``approval`` is asked of each definition (see ``Offers``).
        ``names`` says what of the merged lists is held back.
        """
        source = partial(
            Source,
            offers=Offers(rules, approval),
            monotonic=monotonic,
            on_answer=self._learn,
            on_change=on_change,
        )
        self._sources = {
            upstream.name: source(upstream, prefix, patience) for upstream, prefix, patience in upstreams
        }
        self._rules = rules
        self._names = names or Names()

    def __contains__(self, upstream: str) -> bool:
        return upstream in self._sources

    @property
    def generation(self) -> int:
        """Grows whenever there is something else to list."""
        return sum(source.version for source in self._sources.values())

    def upstream(self, name: str) -> Upstream:
        """The upstream of that name."""
        return self._sources[name].upstream

    def unlisten(self, key: SessionKey) -> None:
        """No upstream need keep a stream open for that key."""
        for source in self._sources.values():
            source.upstream.unlisten(key)

    def down(self) -> tuple[str, ...]:
        """The upstreams that did not answer when last asked."""
        return tuple(name for name, source in self._sources.items() if source.down)

    def has_something_for(self, context: ClientContext, upstream: str) -> bool:
        """Whether the caller may have anything of that upstream, as far as is known."""
        offer = self._sources[upstream].offer
        return offer is not None and has_something_for(context, offer)

    def lists_for(self, context: ClientContext, only: str | None) -> frozenset[Kind]:
        """The lists that there are for the caller: tools always, others where an upstream that is known has them.

        One of which the caller may have nothing does not count; one that is down does, for its entries come back.
        """
        known = [source.offer for source in self._asked_for(only) if source.offer is not None]
        offered = {
            name for offer in known if has_something_for(context, offer) for name in offer.info.capabilities
        }
        return frozenset(kind for kind in Kind if LISTINGS[kind].capability in {"tools", *offered})

    def held_back(self) -> tuple[str, ...]:
        """The upstreams of which a name is held back (see ``names``)."""
        return self._names.concerned()

    def offers(self, only: str | None) -> list[Offer]:
        """What is known now of one upstream (``only``), or of all (None), without those that are down."""
        sources = self._asked_for(only)
        return [source.offer for source in sources if source.offer is not None and not source.down]

    def entries(self, kind: Kind, only: str | None) -> list[Entry]:
        """Everything of that kind, in stable order; merged (``only`` None), without the names that are held back."""
        return [
            entry
            for offer in self.offers(only)
            for entry in offer.entries[kind].values()
            if only is not None or not self._names.holds_back(kind, entry.name)
        ]

    def visible(self, kind: Kind, only: str | None, context: ClientContext) -> list[Entry]:
        """What of it the caller may have."""
        return [entry for entry in self.entries(kind, only) if decide(entry, context) is ALLOW]

    def locate(self, target: Target, only: str | None) -> Entry | None:
        """What a request is after; None: there is no such thing."""
        if target.kind is Kind.RESOURCE:
            return self.find_resource(target.name, only)
        if target.kind is Kind.TEMPLATE:
            return self.find_template(target.name, only)
        return self.find(target.kind, target.name, only)

    def find(self, kind: Kind, name: str, only: str | None) -> Entry | None:
        """The entry that ``name`` means: at ``/mcp`` (only None) the gateway's name, at ``/mcp/{upstream}`` its own."""
        if only is None and self._names.holds_back(kind, name):
            return None
        for source in self._asked_for(only):
            if source.offer is None:
                continue
            original = name
            if only is None and kind in {Kind.TOOL, Kind.PROMPT}:
                if not name.startswith(source.prefix):
                    continue
                original = name[len(source.prefix) :]
            entry = source.offer.entries[kind].get(original)
            if entry is not None:
                return entry
        return None

    def find_resource(self, uri: str, only: str | None) -> Entry | None:
        """Who serves that URI: a listed resource, else a template that it fits; its rule is that of the URI.

        What only a template serves must have a single spelling, lest another one escape that rule.
        """
        entry = self.find(Kind.RESOURCE, uri, only)
        if entry is not None:
            return entry
        if not self._may_be_templated(uri, only):
            return None
        if only is None and self._names.owner(Kind.RESOURCE, uri) is not None:
            return None  # of an upstream that has not answered since the start (see ``absent``): no other serves it
        for source in self._asked_for(only):
            if source.offer is None:
                if only is None and self._names.template_for(uri, source.upstream.name) is not None:
                    return None  # as above
                continue
            for entry in source.offer.templates.fitting(uri):
                if only is not None or not self._names.holds_back(Kind.TEMPLATE, entry.name):
                    needed, rule = self._rules.access(Kind.RESOURCE, uri)
                    permissions = _both(entry.permissions, needed)
                    return replace(entry, name=uri, original=uri, permissions=permissions, rule=rule)
        return None

    def _may_be_templated(self, uri: str, only: str | None) -> bool:
        """Whether a template may serve that URI at all."""
        held_back = only is None and self._names.holds_back(Kind.RESOURCE, uri)
        return len(uri) <= MAX_URI and is_plain_uri(uri) and not held_back

    def find_template(self, reference: str, only: str | None) -> Entry | None:
        """The template (or resource) that a completion refers to by its URI."""
        entry = self.find(Kind.TEMPLATE, reference, only)
        if entry is not None or (only is None and self._names.owner(Kind.TEMPLATE, reference) is not None):
            return entry
        return self.find_resource(reference, only)

    def absent(self, target: Target, only: str | None) -> Entry | None:
        """What an upstream that has not answered yet listed, or served, before the start; its definition is not known."""
        named = target.kind in {Kind.TOOL, Kind.PROMPT}
        name = self.prefixed(target.name, only) if named else target.name
        permissions, rule = self._rules.access(target.kind, name)
        owner = self._names.owner(target.kind, name)
        if owner is None and target.kind is Kind.RESOURCE:
            owner, needed = self._absent_templated(name, only)
            permissions = _both(needed, permissions)
        if owner not in self._sources or only not in {None, owner} or self._sources[owner].offer is not None:
            return None
        nothing = msgspec.Raw(b"{}")
        return Entry(target.kind, owner, target.name, name, permissions, rule, nothing, nothing)

    def _absent_templated(self, uri: str, only: str | None) -> tuple[str | None, tuple[str, ...]]:
        """The upstream that has not answered yet and had a template for that URI; what that template needs."""
        for source in self._asked_for(only) if self._may_be_templated(uri, only) else ():
            name = source.upstream.name
            template = self._names.template_for(uri, name) if source.offer is None else None
            if template is not None:
                return name, self._rules.access(Kind.TEMPLATE, template)[0]
        return None, ()

    def prefixed(self, name: str, only: str | None) -> str:
        """The gateway's name of what is called ``name`` at that place."""
        return name if only is None else self._sources[only].prefix + name

    async def refresh(self, only: str | None) -> None:
        """See to it that what is asked for is known.

        Waits for upstreams whose offer is unknown, and only an instant for one that was down, or that changed.
        """
        waits = [(source, source.freshen()) for source in self._asked_for(only)]
        settling = [source.settled(seconds) for source, seconds in waits if seconds > 0]
        if settling:
            await asyncio.gather(*settling)

    def warm(self) -> None:
        """Begin to gather everything, so that the first request need not wait for it."""
        for source in self._sources.values():
            source.gather()

    def invalidate(self, upstream: str) -> None:
        """That upstream said that its lists changed, or it did not answer: gather them again."""
        self._sources[upstream].invalidate()

    def renew(self, upstream: str) -> None:
        """What is let through of that upstream's lists changed: gather them again, at once."""
        self._sources[upstream].renew()

    async def close(self) -> None:
        """Stop gathering."""
        await asyncio.gather(*(source.close() for source in self._sources.values()))

    def _learn(self, upstream: str, offer: Offer) -> None:
        offered = offer.entries.values()
        listed = ((entry.kind, entry.name) for entries in offered for entry in entries.values())
        self._names.learn(upstream, listed)

    def _asked_for(self, only: str | None) -> Sequence[Source]:
        return tuple(self._sources.values()) if only is None else (self._sources[only],)


def _both(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*some, *others)))


def decide(entry: Entry, context: ClientContext) -> Decision:
    """Whether the caller may have it: the one decision behind list, call, get, read, complete and subscribe."""
    return authorize(context, entry.permissions)


def has_something_for(context: ClientContext, offer: Offer) -> bool:
    """Whether the caller may have anything of it, by the same decision."""
    return any(authorize(context, needed) is ALLOW for needed in offer.needs)
