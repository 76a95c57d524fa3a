"""How many resources may be subscribed to: of one, of all, at one upstream."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gateway.mcp import interests
from gateway.mcp.interests import Interests, Resource
from gateway.mcp.sessions import NOBODY, Owner

ALICE, BOB = ("t", "alice"), ("t", "bob")
HERE, AWAY = (NOBODY, "192.0.2.0/24"), (NOBODY, "198.51.100.0/24")
OWN = "You have subscribed to too many resources: leave some."
BUSY = "Upstream a watches as many resources as it may: try again later."


@dataclass(eq=False)
class Subscriber:
    counted: Owner
    subscribed: set[Resource] = field(default_factory=set)


@pytest.fixture
def all_of_them(monkeypatch: pytest.MonkeyPatch) -> Interests:
    monkeypatch.setattr(interests, "MAX_RESOURCES", 3)
    monkeypatch.setattr(interests, "MAX_RESOURCES_OF_ONE", 4)
    monkeypatch.setattr(interests, "MAX_RESOURCES_AT_ONE", 6)
    monkeypatch.setattr(interests, "MAX_RESOURCES_ANONYMOUS", 5)
    return Interests()


def take(of: Interests, subscriber: Subscriber, *uris: str, upstream: str = "a") -> list[str | None]:
    return [of.take(subscriber, (upstream, uri)) for uri in uris]


def test_one_client_has_so_many_in_all_its_sessions(all_of_them: Interests) -> None:
    first, second = Subscriber(ALICE), Subscriber(ALICE)
    assert take(all_of_them, first, "1", "2", "3", "4", "3") == [None, None, None, OWN, None]
    assert take(all_of_them, second, "1", "4", "5") == [None, None, OWN]  # one of them she has already
    assert take(all_of_them, second, "5", upstream="b") == [OWN]
    all_of_them.leave(first, ("a", "1"))
    assert take(all_of_them, second, "5") == [OWN]  # the other session still has it
    all_of_them.leave(second, ("a", "1"))
    assert take(all_of_them, second, "5") == [None]


def test_the_anonymous_have_so_many_together(all_of_them: Interests) -> None:
    assert take(all_of_them, Subscriber(HERE), "1", "2", "3") == [None] * 3
    assert take(all_of_them, Subscriber(AWAY), "3", "4", "5") == [None] * 3
    assert take(all_of_them, Subscriber(AWAY), "5", "6") == [None, BUSY]
    assert take(all_of_them, Subscriber(ALICE), "6", "7") == [None, BUSY]  # and so have all
    assert take(all_of_them, Subscriber(ALICE), "7", upstream="b") == [None]


def test_nothing_is_kept_of_what_was_left(all_of_them: Interests) -> None:
    subscribers = [Subscriber(owner) for owner in (ALICE, BOB, HERE)]
    for subscriber in subscribers:
        take(all_of_them, subscriber, "1", "2")
    assert ("a", "1") in all_of_them
    for subscriber in subscribers:
        for resource in (("a", "1"), ("a", "2"), ("a", "2")):
            all_of_them.leave(subscriber, resource)
    assert ("a", "1") not in all_of_them
    assert not any(vars(all_of_them).values())
