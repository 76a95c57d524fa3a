"""Which resources are subscribed to: by whom, and how many there may be.

Whoever subscribes keeps its own resources; here are the subscribers of each. What an upstream is to watch, and what a client may
have it watch, is bounded by distinct resources, for what many wait for costs the upstream no more than what one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.mcp.listeners import Listener
from gateway.mcp.sessions import NOBODY, Session
from gateway.mcp.upstream import SessionKey

Resource = tuple[str, str]
"""(upstream, URI)"""

_Group = tuple[str | None, ...]

MAX_RESOURCES: Final = 256
"""Of one subscription, or of one legacy session."""
MAX_RESOURCES_OF_ONE: Final = 1_024
"""Of one client, or of one network where the callers are anonymous."""
MAX_RESOURCES_AT_ONE: Final = 4_096
"""At one upstream."""
MAX_RESOURCES_ANONYMOUS: Final = 2_048
"""Of them, of all anonymous callers together."""


Subscriber = Session | Listener
"""What it subscribed to is changed here alone."""


class Interests:
    """All of them."""

    def __init__(self) -> None:
        self._all: dict[Resource, Resource] = {}
        """One copy of each."""
        self._subscribers: dict[Resource, dict[SessionKey, set[Subscriber]]] = {}
        self._groups: dict[_Group, dict[Resource, int]] = {}

    def __contains__(self, resource: Resource) -> bool:
        """Whether anybody wants to hear of it."""
        return resource in self._all

    def wanted(self, resource: Resource, key: SessionKey) -> bool:
        """Whether anybody who uses the upstream session of that key wants to hear of it."""
        return key in self._subscribers.get(resource, {})

    def of(self, resource: Resource, key: SessionKey | None) -> set[Subscriber]:
        """Who wants to hear of it, of those who use the upstream session of that key (None: of all)."""
        by_key = self._subscribers.get(resource, {})
        return set().union(*by_key.values()) if key is None else by_key.get(key, set()).copy()

    def at(self, upstream: str, key: SessionKey | None) -> Iterator[tuple[Resource, SessionKey]]:
        """What is wanted of that upstream, and in which of its sessions: in that of ``key``, or (None) in all."""
        for resource in self._groups.get(("upstream", upstream), {}):
            by_key = self._subscribers[resource]
            for its in by_key if key is None else by_key.keys() & {key}:
                yield resource, its

    def take(self, subscriber: Subscriber, resource: Resource) -> str | None:
        """Subscribe to it; None, or why that is too much, in words for the client."""
        if resource in subscriber.subscribed:
            return None
        if len(subscriber.subscribed) >= MAX_RESOURCES:
            return _TOO_MANY
        groups = _groups_of(subscriber, resource)
        for group, (most, refusal) in groups.items():
            counted = self._groups.get(group, {})
            if resource not in counted and len(counted) >= most:
                return refusal
        resource = self._all.setdefault(resource, resource)
        for group in groups:
            counted = self._groups.setdefault(group, {})
            counted[resource] = counted.get(resource, 0) + 1
        self._subscribers.setdefault(resource, {}).setdefault(subscriber.key, set()).add(subscriber)
        subscriber.subscribed.add(resource)
        return None

    def leave(self, subscriber: Subscriber, resource: Resource) -> None:
        """Subscribe to it no more."""
        if resource not in subscriber.subscribed:
            return
        subscriber.subscribed.discard(resource)
        for group in _groups_of(subscriber, resource):
            counted = self._groups[group]
            counted[resource] -= 1
            if not counted[resource]:
                del counted[resource]
            if not counted:
                del self._groups[group]
        by_key = self._subscribers[resource]
        by_key[subscriber.key].discard(subscriber)
        if not by_key[subscriber.key]:
            del by_key[subscriber.key]
        if not by_key:
            del self._subscribers[resource], self._all[resource]


_TOO_MANY: Final = "You have subscribed to too many resources: leave some."


def _groups_of(subscriber: Subscriber, resource: Resource) -> dict[_Group, tuple[int, str]]:
    """Among what it counts there: how many there may be, and what is said where those are there already."""
    tenant, client = subscriber.counted
    busy = f"Upstream {resource[0]} watches as many resources as it may: try again later."
    groups: dict[_Group, tuple[int, str]] = {
        ("client", tenant, client): (MAX_RESOURCES_OF_ONE, _TOO_MANY),
        ("upstream", resource[0]): (MAX_RESOURCES_AT_ONE, busy),
    }
    if tenant == NOBODY:
        groups["anonymous", resource[0]] = (MAX_RESOURCES_ANONYMOUS, busy)
    return groups
