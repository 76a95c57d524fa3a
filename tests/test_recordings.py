"""How much of what was sent is kept for clients whose streams break off."""

from __future__ import annotations

import pytest

from gateway.mcp import recordings as recordings_module
from gateway.mcp.recordings import Recordings, Shelf
from gateway.mcp.sessions import Sessions
from gateway.model import ClientContext

ALICE, BOB = ("t", "alice"), ("t", "bob")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings_module, "MAX_BYTES", 10)
    monkeypatch.setattr(recordings_module, "MAX_BYTES_OF_ONE", 40)
    monkeypatch.setattr(recordings_module, "MAX_BYTES_OF_ALL", 60)


def _filled(shelf: Shelf, owner: tuple[str, str], size: int = 10) -> tuple[Recordings, str]:
    """A session with one stream, and the id of its only event."""
    session = Recordings(owner, shelf)
    return session, session.begin().add(b"x" * size)


def test_the_oldest_of_a_client_give_way_over_all_its_sessions() -> None:
    shelf = Shelf()
    other = _filled(shelf, BOB)
    own = [_filled(shelf, ALICE) for _ in range(6)]
    assert [session.find(event) is not None for session, event in own] == [False] * 2 + [True] * 4
    assert other[0].find(other[1]) is not None
    assert shelf.size == 50


@pytest.mark.parametrize(
    "event", ["", "1", "1-", "1-\u00b2", "1-\u0661", "1--1", "1-1x", "2-1", "1-" + "1" * 16]
)
def test_what_is_no_event_of_the_session_is_not_found(event: str) -> None:
    session, first = _filled(Shelf(), ALICE)
    assert session.find(first) is not None
    assert session.find(event) is None


def test_the_oldest_of_all_give_way_where_all_are_too_much() -> None:
    shelf = Shelf()
    kept = [_filled(shelf, ("t", str(number))) for number in range(10)]
    assert [session.find(event) is not None for session, event in kept] == [False] * 4 + [True] * 6
    assert shelf.size == 60


def test_a_larger_message_is_kept_alone_and_one_that_is_too_large_not_at_all() -> None:
    shelf = Shelf()
    session = Recordings(ALICE, shelf)
    recording = session.begin()
    recording.add(b"x" * 10)
    event = recording.add(b"x" * 35)
    assert session.find(event) is not None
    assert shelf.size == 35
    huge = session.begin()
    event = huge.add(b"x" * 41)
    assert session.find(event) is None
    assert shelf.size == 0
    assert session.find(huge.add(b"x")) is None
    assert shelf.size == 0


async def test_who_reads_what_is_forgotten_comes_to_an_end() -> None:
    shelf = Shelf()
    session, _ = _filled(shelf, ALICE)
    recording = session.begin()
    recording.add(b"x")
    reading = recording.after(0)
    assert await anext(reading) == ("2-1", b"x")
    recording.forget()
    assert [each async for each in reading] == []


def test_nothing_is_kept_for_a_session_that_has_ended() -> None:
    sessions = Sessions(monotonic=lambda: 0.0)
    session = sessions.open(ClientContext(client_id="alice", tenant_id="t"), None, "2025-11-25", {})
    live = session.recordings.begin()
    event = live.add(b"x" * 10)
    sessions.end(session)
    live.add(b"x" * 10)
    session.recordings.begin().add(b"x" * 10)
    assert session.recordings.find(event) is None
    assert sessions.recorded == 0


def test_the_newest_streams_of_a_session_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings_module, "MAX_STREAMS", 2)
    shelf = Shelf()
    session = Recordings(ALICE, shelf)
    events = [session.begin().add(b"x" * 10) for _ in range(4)]
    assert [session.find(event) is not None for event in events] == [False, False, True, True]
    assert shelf.size == 20
