"""Codes are limited and used up; time is the test's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.identity.second_factors import SESSION_SECONDS
from gateway.identity.totp import STEP, code_at
from gateway.model import Deny, Inbound, Reason
from persistence.records import LOCKOUTS, ClientRecord

if TYPE_CHECKING:
    from tests.api.conftest import World


def _code(world: World, secret: bytes, ahead: int = 0) -> str:
    return code_at(secret, int(world.clock.now) // STEP + ahead)


INBOUND = Inbound("r", "POST", "/auth/login/mfa", "192.0.2.1", None, None, (), (), 0.0)


def _alice(world: World) -> ClientRecord:
    alice = world.stores.clients.get("alice")
    assert alice is not None
    return alice


async def _nothing() -> None:
    """What is entered in the audit is not looked at."""


async def _enrolled(world: World) -> tuple[bytes, tuple[str, ...]]:
    secret = await world.factors.enrol(_alice(world), _nothing)
    assert isinstance(secret, bytes)
    codes = await world.factors.confirm(_alice(world), _code(world, secret), INBOUND, _nothing)
    assert isinstance(codes, tuple)
    world.clock.now += 60
    return secret, codes


async def _reason(world: World, code: str) -> Reason | None:
    answer = await world.factors.verify(_alice(world), code, INBOUND)
    return answer.reason if isinstance(answer, Deny) else None


async def test_five_codes_a_minute_and_three_recovery_codes(world: World) -> None:
    secret, codes = await _enrolled(world)
    assert [await _reason(world, "000000") for _ in range(5)] == [Reason.MFA_CODE_INVALID] * 5
    assert await _reason(world, _code(world, secret)) is Reason.RATE_LIMITED
    assert [await _reason(world, "wrong") for _ in range(3)] == [Reason.MFA_CODE_INVALID] * 3
    assert await _reason(world, codes[0]) is Reason.RATE_LIMITED
    world.clock.now += 20
    assert await _reason(world, codes[0]) is None
    assert await _reason(world, _code(world, secret)) is None


async def test_wrong_codes_lock_with_a_back_off_and_an_administrator_unlocks(world: World) -> None:
    secret, _ = await _enrolled(world)
    for _ in range(10):
        assert await _reason(world, "000000") is Reason.MFA_CODE_INVALID
        world.clock.now += 15
    assert await _reason(world, _code(world, secret)) is Reason.RATE_LIMITED
    await world.stores.collection(LOCKOUTS).remove("nothing")  # what was handed to the journal is read
    assert await world.code_lockouts.unlock("alice")
    assert await _reason(world, _code(world, secret)) is None


async def test_the_step_of_a_code_is_used_up_with_those_before_it(world: World) -> None:
    secret, _ = await _enrolled(world)
    assert await _reason(world, _code(world, secret, 1)) is None
    assert await _reason(world, _code(world, secret, 1)) is Reason.MFA_CODE_INVALID
    assert await _reason(world, _code(world, secret)) is Reason.MFA_CODE_INVALID
    world.clock.now += 60
    assert await _reason(world, _code(world, secret)) is None
    assert await _reason(world, _code(world, secret, 2)) is Reason.MFA_CODE_INVALID


async def test_a_recovery_code_is_good_once_side_by_side(world: World) -> None:
    _, codes = await _enrolled(world)
    found = await asyncio.gather(*(_reason(world, codes[0]) for _ in range(3)))
    assert sorted(map(str, found)) == ["None", "mfa_code_invalid", "mfa_code_invalid"]


async def test_what_was_begun_is_over_after_five_minutes(world: World) -> None:
    await _enrolled(world)
    alice = _alice(world)
    token = await world.factors.begin(alice, "", None, with_refresh=True)
    world.clock.now += SESSION_SECONDS - 1
    assert world.factors.session(token) is not None
    assert world.factors.session(token + "x") is None
    world.clock.now += 1
    assert world.factors.session(token) is None
    await world.factors.purge()


async def test_a_session_token_is_good_once_side_by_side(world: World) -> None:
    secret, codes = await _enrolled(world)
    alice = _alice(world)
    session = world.factors.session(await world.factors.begin(alice, "", None, with_refresh=True))
    assert session is not None
    wrong = await world.factors.finish(session, alice, "000000", INBOUND)
    assert wrong is not None, "a wrong code does not end it"
    assert wrong.reason is Reason.MFA_CODE_INVALID
    good = (_code(world, secret), _code(world, secret, 1), codes[0])
    found = await asyncio.gather(*(world.factors.finish(session, alice, code, INBOUND) for code in good))
    assert [None if deny is None else deny.reason for deny in found] == [
        None,
        Reason.MFA_SESSION_INVALID,
        Reason.MFA_SESSION_INVALID,
    ]
    assert await _reason(world, codes[0]) is None, "what came too late used nothing up"
