"""Refresh tokens follow one another, and one that comes again ends the family (RFC 9700 section 4.14.2)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from gateway.identity.sessions import Sessions
from persistence.records import SESSIONS, TokenKind

if TYPE_CHECKING:
    from tests.api.conftest import Answer, World

GRACE = 10.0
REUSED = (400, "invalid_grant", "token_revoked")


async def _refresh(world: World, token: str, **options: Any) -> Answer:
    return await world.post("refresh", form={"refresh_token": token}, **options)


def _live(world: World) -> list[str]:
    return [
        each.token_id
        for each in world.stores.tokens
        if each.kind is TokenKind.REFRESH and each.revoked_at is None
    ]


def _restart(world: World) -> None:
    """What is in memory alone is lost."""
    world.sessions = Sessions(world.stores.collection(SESSIONS), world.tokens, grace=GRACE, now=world.clock)
    world.limit()


async def test_a_thousand_refreshes_at_once_leave_one_live_family(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    answers = await asyncio.gather(*(_refresh(world, first) for _ in range(1000)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["refresh_token"] for answer in answers}) == 1
    assert len({answer.body["access_token"] for answer in answers}) == 1
    assert len(_live(world)) == 1
    assert len(list(world.stores.collection(SESSIONS))) == 1
    assert (await _refresh(world, answers[0].body["refresh_token"])).status == 200


async def test_the_direct_parent_gets_the_same_answer_for_a_while(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    answer = (await _refresh(world, first)).body
    world.clock.now += GRACE - 1
    assert (await _refresh(world, first)).body == answer


async def test_after_the_grace_it_ends_the_family_with_an_alarm(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    body = (await world.password()).body
    answer = (await _refresh(world, body["refresh_token"])).body
    world.clock.now += GRACE
    with caplog.at_level(logging.CRITICAL):
        assert (await _refresh(world, body["refresh_token"])).error == REUSED
    assert "used again" in caplog.text
    for token in (body["access_token"], answer["access_token"]):
        assert not world.works(token)
    assert (await _refresh(world, answer["refresh_token"])).error == REUSED
    assert _live(world) == []
    [entry] = await world.audited("token_reuse")
    assert (entry.client_id, entry.status, entry.reason) == ("alice", "failed", "token_reuse")


async def test_a_grandparent_has_no_grace(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    second = (await _refresh(world, first)).body["refresh_token"]
    third = (await _refresh(world, second)).body
    assert (await _refresh(world, first)).error == REUSED
    assert not world.works(third["access_token"])
    assert _live(world) == []


async def test_another_certificate_is_another_request_and_no_repetition(world: World) -> None:
    first = (await world.password(cert="alice")).body["refresh_token"]
    assert (await _refresh(world, first, cert="alice")).status == 200
    assert (await _refresh(world, first, cert="alice/other")).error == REUSED
    assert _live(world) == []


async def test_without_a_grace_every_repetition_is_one_too_many(world: World) -> None:
    world.sessions = Sessions(world.stores.collection(SESSIONS), world.tokens, grace=0.0, now=world.clock)
    world.limit()
    first = (await world.password()).body["refresh_token"]
    assert (await _refresh(world, first)).status == 200
    assert (await _refresh(world, first)).error == REUSED


async def test_after_a_restart_a_lost_reply_locks_nobody_out(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    lost = (await _refresh(world, first)).body
    _restart(world)
    answer = await _refresh(world, first)
    assert answer.status == 200
    assert len(_live(world)) == 1
    assert world.works(lost["access_token"]), "an access token lives until its own expiry"
    # The one that was thought lost turns up: two hold tokens of one family.
    assert (await _refresh(world, lost["refresh_token"])).error == REUSED
    assert not world.works(answer.body["access_token"])
    assert _live(world) == []


async def test_after_a_restart_the_grace_is_not_longer(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    await _refresh(world, first)
    _restart(world)
    world.clock.now += GRACE
    assert (await _refresh(world, first)).error == REUSED


async def test_answers_are_forgotten_after_the_grace(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    await _refresh(world, first)
    world.clock.now += GRACE
    world.sessions.forget_answers()
    assert len(world.sessions._answers) == 0


async def test_racing_refreshes_against_the_end_of_the_session(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    [session] = world.sessions.of_client("alice")
    *answers, _ = await asyncio.gather(
        *(_refresh(world, first) for _ in range(8)), world.sessions.end(session)
    )
    assert _live(world) == []
    for answer in answers:
        assert answer.status != 200 or not world.works(answer.body["access_token"])


async def test_sessions_that_are_over_are_forgotten(world: World) -> None:
    await world.password()
    token = (await world.password()).body["refresh_token"]
    await world.post("revoke", form={"token": token}, cert="alice")
    await world.sessions.purge(100)
    assert len(list(world.stores.collection(SESSIONS))) == 1
    world.clock.now += 8 * 86400
    await world.sessions.purge(100)
    assert list(world.stores.collection(SESSIONS)) == []


async def test_an_older_refresh_token_still_ends_its_family(world: World) -> None:
    first = (await world.password()).body["refresh_token"]
    later = (await _refresh(world, first)).body
    assert (await world.post("revoke", form={"token": first}, cert="alice")).status == 200
    assert not world.works(later["access_token"])
