"""How many resources may be subscribed to: of one, of all, at one upstream."""

from __future__ import annotations

import pytest

from gateway.mcp import interests
from gateway.mcp.interests import Interests
from gateway.mcp.listeners import Listener
from gateway.mcp.sessions import NOBODY, Owner
from gateway.mcp.upstream import SessionKey
from gateway.model import ANONYMOUS

ALICE, BOB = ("t", "alice"), ("t", "bob")
HERE, AWAY = (NOBODY, "192.0.2.0/24"), (NOBODY, "198.51.100.0/24")
OWN = "You have subscribed to too many resources: leave some."
BUSY = "Upstream a watches as many resources as it may: try again later."


def subscriber(owner: Owner) -> Listener:
    return Listener(1, SessionKey(owner), None, ANONYMOUS, owner)


@pytest.fixture
def all_of_them(monkeypatch: pytest.MonkeyPatch) -> Interests:
    monkeypatch.setattr(interests, "MAX_RESOURCES", 3)
    monkeypatch.setattr(interests, "MAX_RESOURCES_OF_ONE", 4)
    monkeypatch.setattr(interests, "MAX_RESOURCES_AT_ONE", 6)
    monkeypatch.setattr(interests, "MAX_RESOURCES_ANONYMOUS", 5)
    return Interests()


def take(of: Interests, one: Listener, *uris: str, upstream: str = "a") -> list[str | None]:
    return [of.take(one, (upstream, uri)) for uri in uris]


def test_one_client_has_so_many_in_all_its_sessions(all_of_them: Interests) -> None:
    first, second = subscriber(ALICE), subscriber(ALICE)
    assert take(all_of_them, first, "1", "2", "3", "4", "3") == [None, None, None, OWN, None]
    assert take(all_of_them, second, "1", "4", "5") == [None, None, OWN]  # one of them she has already
    assert take(all_of_them, second, "5", upstream="b") == [OWN]
    all_of_them.leave(first, ("a", "1"))
    assert take(all_of_them, second, "5") == [OWN]  # the other session still has it
    all_of_them.leave(second, ("a", "1"))
    assert take(all_of_them, second, "5") == [None]


def test_the_anonymous_have_so_many_together(all_of_them: Interests) -> None:
    assert take(all_of_them, subscriber(HERE), "1", "2", "3") == [None] * 3
    assert take(all_of_them, subscriber(AWAY), "3", "4", "5") == [None] * 3
    assert take(all_of_them, subscriber(AWAY), "5", "6") == [None, BUSY]
    assert take(all_of_them, subscriber(ALICE), "6", "7") == [None, BUSY]  # and so have all
    assert take(all_of_them, subscriber(ALICE), "7", upstream="b") == [None]


def test_nothing_is_kept_of_what_was_left(all_of_them: Interests) -> None:
    subscribers = [subscriber(owner) for owner in (ALICE, BOB, HERE)]
    for one in subscribers:
        take(all_of_them, one, "1", "2")
    assert ("a", "1") in all_of_them
    for one in subscribers:
        for resource in (("a", "1"), ("a", "2"), ("a", "2")):
            all_of_them.leave(one, resource)
    assert ("a", "1") not in all_of_them
    assert not any(vars(all_of_them).values())


def test_who_wants_a_resource_is_known_by_the_upstream_session_too(all_of_them: Interests) -> None:
    alice, again, bob = subscriber(ALICE), subscriber(ALICE), subscriber(BOB)
    for one in (alice, again, bob):
        take(all_of_them, one, "1")
    resource = ("a", "1")
    assert all_of_them.of(resource, None) == {alice, again, bob}
    assert all_of_them.of(resource, bob.key) == {bob}
    all_of_them.leave(alice, resource)
    assert all_of_them.wanted(resource, alice.key), "the other one of hers"
    all_of_them.leave(again, resource)
    assert not all_of_them.wanted(resource, alice.key)
    assert all_of_them.of(resource, alice.key) == set()
    assert all_of_them.of(resource, None) == {bob}
