"""Codes are limited and used up; time is the test's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gateway.identity.sealing import SealingError
from gateway.identity.second_factors import SESSION_SECONDS
from gateway.identity.totp import STEP, code_at
from gateway.model import Deny, Inbound, Reason, Refused
from persistence.account_records import MfaSession
from persistence.records import LOCKOUTS, SECOND_FACTORS, ClientRecord

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


async def test_a_code_may_be_spelled_as_apps_show_it(world: World) -> None:
    secret = await world.factors.enrol(_alice(world), _nothing)
    assert isinstance(secret, bytes)

    def shown(between: str) -> str:
        code = _code(world, secret)
        return f" {code[:3]}{between}{code[3:]} "

    confirmed = await world.factors.confirm(_alice(world), shown(" "), INBOUND, _nothing)
    assert isinstance(confirmed, tuple)
    for between in (" ", "\N{NO-BREAK SPACE}", "-"):
        world.clock.now += 60
        assert await _reason(world, shown(between)) is None


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


async def test_where_the_audit_cannot_say_so_nothing_is_turned_on(world: World) -> None:
    async def refused() -> None:
        raise Refused(Deny(Reason.STORE_UNAVAILABLE, "The audit is full."))

    alice = _alice(world)
    with pytest.raises(Refused):
        await world.factors.enrol(alice, refused)
    assert world.stores.collection(SECOND_FACTORS).get("alice") is None
    secret = await world.factors.enrol(alice, _nothing)
    assert isinstance(secret, bytes)
    with pytest.raises(Refused):
        await world.factors.confirm(alice, _code(world, secret), INBOUND, refused)
    assert not world.factors.enabled("alice")
    assert isinstance(await world.factors.confirm(alice, _code(world, secret), INBOUND, _nothing), tuple)


async def test_the_key_is_rotated_while_somebody_enrols(world: World) -> None:
    """Sealed with the old key, and not stored yet when the rotation looks at what is stored."""
    entering, entered = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        entering.set()
        await entered.wait()

    enrolment = asyncio.create_task(world.factors.enrol(_alice(world), slow))
    await entering.wait()
    rotation = asyncio.create_task(world.factors.rotate_key())
    await asyncio.wait({rotation}, timeout=0.1)
    entered.set()
    assert await rotation == 1
    secret = await enrolment
    assert isinstance(secret, bytes)
    assert isinstance(
        await world.factors.confirm(_alice(world), _code(world, secret), INBOUND, _nothing), tuple
    )


async def test_rotations_side_by_side(world: World) -> None:
    secret, _ = await _enrolled(world)
    assert await asyncio.gather(*(world.factors.rotate_key() for _ in range(4))) == [1] * 4
    assert await _reason(world, _code(world, secret)) is None


async def test_what_cannot_be_opened_is_named_and_adds_no_key(world: World) -> None:
    await _enrolled(world)
    key_file = world.stores.path.parent / "mfa.key"
    kept = key_file.read_bytes()
    factors = world.stores.collection(SECOND_FACTORS)
    factor = factors.get("alice")
    assert factor is not None
    await factors.put(replace(factor, client_id="bob"))
    with pytest.raises(SealingError, match="mfa-reset bob"):
        await world.factors.rotate_key()
    await factors.put(
        replace(factor, client_id="bob", sealed_secret="0." + factor.sealed_secret.partition(".")[2])
    )
    with pytest.raises(SealingError, match="mfa-reset bob"):
        await world.factors.rotate_key()
    assert key_file.read_bytes() == kept


async def test_a_password_that_is_changed_while_the_code_is_checked_ends_the_sign_in(world: World) -> None:
    """The second step looks at the password once more after the code, which takes bcrypt's time."""
    _, codes = await _enrolled(world)
    first = await world.password()
    verifying = asyncio.Event()
    changed = asyncio.Event()
    finish = world.factors.finish

    async def slow(session: MfaSession, *rest: Any) -> Deny | None:
        verifying.set()
        await changed.wait()
        return await finish(session, *rest)

    world.factors.finish = slow  # type: ignore[method-assign]
    body = {"mfa_session_token": first.body["mfa_session_token"], "code": codes[0]}
    second = asyncio.create_task(world.post("login/mfa", json=body))
    await verifying.wait()
    await world.change("alice", password_hash=await world.hasher.hash(b"Another-Horse-8"))
    changed.set()
    answer = await second
    assert (answer.status, answer.body["reason"]) == (401, "mfa_session_invalid")
