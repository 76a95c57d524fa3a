"""Passwords: stored, verified, and guarded against guessing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.values import AccountSettings, LimitSettings
from gateway.identity.clients import (
    MAX_PASSWORD_BYTES,
    Hasher,
    OverloadedError,
    Passwords,
    password_problems,
)
from gateway.identity.lockouts import Lockout, Lockouts
from gateway.model import Deny, Inbound, Reason
from persistence import JsonStores
from persistence.records import LOCKOUTS, ClientRecord
from tests.stores import store

GOOD = "Correct-Horse-7"
CREATED = "2026-01-01T00:00:00.000Z"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class CountingHasher(Hasher):
    """bcrypt at its lowest cost, which notes each comparison and each new hash."""

    def __init__(self, rounds: int = 4) -> None:
        super().__init__(rounds=rounds)
        self.compared = 0
        self.hashed = 0

    async def hash(self, password: bytes) -> str:
        made = await super().hash(password)
        self.hashed += 1
        return made

    async def matches(self, password: bytes, stored: str | None) -> bool:
        self.compared += 1
        return await super().matches(password, stored)


@dataclass
class Clients:
    """The least that a ClientStore is."""

    records: dict[str, ClientRecord] = field(default_factory=dict)

    def get(self, client_id: str) -> ClientRecord | None:
        return self.records.get(client_id)

    def by_certificate(self, certificate_id: str) -> ClientRecord | None:
        return None

    def __iter__(self) -> Iterator[ClientRecord]:
        return iter(self.records.values())

    async def put(self, record: ClientRecord) -> None:
        self.records[record.client_id] = record


def inbound(address: str = "192.0.2.1") -> Inbound:
    return Inbound("r", "POST", "/auth/login", address, None, None, (), (), 0.0)


class World:
    def __init__(self, stores: JsonStores, *, lockout_after: int = 3, login_per_minute: int = 1000) -> None:
        self.stores = stores
        self.alarms: list[Lockout] = []
        self.clock = Clock()
        self.hasher = CountingHasher()
        self.certified = False
        self.clients = Clients()
        self.lockouts = Lockouts(stores, lockout_after, now=self.clock, alarm=self.alarms.append)
        self.passwords = Passwords(
            AccountSettings(lockout_after=lockout_after),
            LimitSettings(login_per_minute=login_per_minute),
            lockouts=self.lockouts,
            turn=asyncio.Lock(),
            monotonic=self.clock,
            hasher=self.hasher,
        )

    async def add(self, name: str, password: str | None = GOOD, disabled_at: str | None = None) -> None:
        await self.clients.put(
            ClientRecord(
                client_id=name,
                username=name,
                user_id=f"id-{name}",
                password_hash=None if password is None else await self.hasher.hash(password.encode()),
                created_at=CREATED,
                updated_at=CREATED,
                disabled_at=disabled_at,
            )
        )

    async def verify(self, name: str, *readings: str, address: str = "192.0.2.1") -> ClientRecord | Deny:
        return await self.passwords.verify(
            self.clients, name, readings, inbound(address), certified=self.certified
        )

    async def settled(self) -> None:
        """What was handed to the journal is on disk, and read."""
        await self.stores.collection(LOCKOUTS).remove("nothing")

    async def reason(self, name: str, *readings: str, address: str = "192.0.2.1") -> Reason | None:
        answer = await self.verify(name, *readings, address=address)
        return answer.reason if isinstance(answer, Deny) else None


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[JsonStores]:
    async with store(tmp_path / "persistence") as opened:
        yield opened


@pytest.fixture
async def world(stores: JsonStores) -> AsyncIterator[World]:
    made = World(stores)
    await made.add("alice")
    yield made
    await made.passwords.close()


# What is stored


async def test_a_stored_password_names_its_scheme_and_costs_twelve() -> None:
    hasher = Hasher()
    stored = await hasher.hash_new(GOOD, "alice", ())
    await hasher.close()
    assert stored.startswith("hmac-sha256-v1$2b$12$")
    assert GOOD not in stored


async def test_the_same_password_is_stored_differently_each_time() -> None:
    hasher = Hasher(rounds=4)
    try:
        assert await hasher.hash(b"x") != await hasher.hash(b"x")
    finally:
        await hasher.close()


async def test_what_lies_beyond_72_bytes_and_after_a_nul_counts() -> None:
    hasher = Hasher(rounds=4)
    try:
        for one, other in ((b"a" * 72 + b"b", b"a" * 72 + b"c"), (b"a\0b", b"a\0c")):
            stored = await hasher.hash(one)
            assert await hasher.matches(one, stored)
            assert not await hasher.matches(other, stored)
    finally:
        await hasher.close()


async def test_a_password_is_the_same_however_its_characters_are_composed(world: World) -> None:
    composed, decomposed = "Pässwört é1!xQ", "Pa\u0308sswo\u0308rt\u00a0e\u03011!xQ"
    for name, chosen in (("composed", composed), ("decomposed", decomposed)):
        await world.add(name, None)
        stored = await world.passwords.hash_new(chosen, name)
        world.clients.records[name] = msgspec.structs.replace(
            world.clients.records[name], password_hash=stored
        )
        for typed in (composed, decomposed):
            assert await world.reason(name, typed) is None
        assert await world.reason(name, "Passwort e1!xQ") is Reason.INVALID_CREDENTIALS
        with pytest.raises(ValueError, match="the last 5"):
            await world.passwords.hash_new(composed, name, (stored,))


@pytest.mark.parametrize("stored", [None, "", "plain", "$2b$04$", "md5$2b$04$abc"])
async def test_what_is_not_a_hash_of_ours_matches_nothing(stored: str | None) -> None:
    hasher = Hasher(rounds=4)
    try:
        assert not await hasher.matches(b"", stored)
        assert not await hasher.matches(b"plain", stored)
    finally:
        await hasher.close()


async def test_a_bare_bcrypt_hash_is_not_accepted() -> None:
    hasher = Hasher(rounds=4)
    try:
        assert not await hasher.matches(b"x", bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode())
    finally:
        await hasher.close()


@pytest.mark.parametrize("cost", [4, 5, 6, 7])
async def test_comparing_costs_the_same_whatever_the_cost_of_the_stored_hash(
    cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Hasher(rounds=cost)
    hasher = Hasher(rounds=7)
    rounds: list[int] = []
    checkpw = bcrypt.checkpw

    def counted(password: bytes, hashed: bytes) -> bool:
        rounds.append(2 ** int(hashed.split(b"$")[2]))
        return checkpw(password, hashed)

    try:
        known = await stored.hash(b"x")
        monkeypatch.setattr(bcrypt, "checkpw", counted)
        assert await hasher.matches(b"x", known)
        assert sum(rounds) == 2**7
        assert hasher.is_outdated(known) is (cost < 7)
    finally:
        await stored.close()
        await hasher.close()


async def test_a_hash_of_a_lower_cost_is_made_anew_at_the_next_sign_in(world: World) -> None:
    world.hasher = CountingHasher(rounds=5)
    passwords = Passwords(
        AccountSettings(),
        LimitSettings(login_per_minute=1000),
        lockouts=world.lockouts,
        turn=asyncio.Lock(),
        monotonic=world.clock,
        hasher=world.hasher,
    )
    before = world.clients.records["alice"].password_hash
    wrong = await passwords.verify(world.clients, "alice", ["wrong"], inbound(), certified=False)
    assert isinstance(wrong, Deny)
    assert world.clients.records["alice"].password_hash == before
    tries = [passwords.verify(world.clients, "alice", [GOOD], inbound(), certified=False) for _ in range(4)]
    answers = await asyncio.gather(*tries)
    assert all(isinstance(answer, ClientRecord) for answer in answers), "side by side, too"
    after = world.clients.records["alice"].password_hash
    assert after is not None
    assert after.startswith("hmac-sha256-v1$2b$05$")
    again = await passwords.verify(world.clients, "alice", [GOOD], inbound(), certified=False)
    assert again is world.clients.records["alice"]
    assert again.password_hash == after
    await passwords.close()


async def test_a_password_that_was_changed_while_its_hash_was_made_anew_is_not_right_any_more(
    world: World,
) -> None:
    turn, hasher = asyncio.Lock(), CountingHasher(rounds=5)
    passwords = Passwords(
        AccountSettings(),
        LimitSettings(login_per_minute=1000),
        lockouts=world.lockouts,
        turn=turn,
        monotonic=world.clock,
        hasher=hasher,
    )
    client = world.clients.records["alice"]
    async with turn:
        signing_in = asyncio.create_task(
            passwords.verify(world.clients, "alice", [GOOD], inbound(), certified=False)
        )
        while hasher.hashed == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reset = await hasher.hash_new("Another-Horse-8", "alice", ())
        await world.clients.put(msgspec.structs.replace(client, password_hash=reset))
    answer = await signing_in
    assert isinstance(answer, Deny)
    assert answer.reason is Reason.INVALID_CREDENTIALS
    assert world.clients.records["alice"].password_hash == reset
    await passwords.close()


# What is right and what is wrong


async def test_the_right_password_gives_the_client(world: World) -> None:
    assert await world.verify("alice", GOOD) is world.clients.get("alice")


async def test_any_reading_of_the_password_may_be_right(world: World) -> None:
    assert isinstance(await world.verify("alice", "Correct%2DHorse-7", GOOD), ClientRecord)


async def test_wrong_and_unknown_get_the_same_answer_and_the_same_work(world: World) -> None:
    await world.add("off", disabled_at=CREATED)
    await world.add("machine", password=None)
    await world.clients.put(
        ClientRecord(
            client_id="gone",
            username="gone",
            user_id="id-gone",
            password_hash=await world.hasher.hash(GOOD.encode()),
            created_at=CREATED,
            updated_at=CREATED,
            erased_at=CREATED,
        )
    )
    answers = []
    for name, password in (
        ("alice", "wrong"),
        ("nobody", GOOD),
        ("off", GOOD),
        ("machine", GOOD),
        ("machine", ""),
        ("gone", GOOD),
        ("alice", "x" * (MAX_PASSWORD_BYTES + 1)),
        ("alice", "\ud800"),
    ):
        before = world.hasher.compared
        answer = await world.verify(name, password)
        assert isinstance(answer, Deny)
        assert answer.client_id == name
        assert world.hasher.compared == before + 1, name
        answers.append((answer.reason, answer.detail, answer.retry_after))
    assert len(set(answers)) == 1
    assert answers[0][0] is Reason.INVALID_CREDENTIALS


async def test_a_right_password_without_the_certificate_that_it_needs_is_as_good_as_a_wrong_one(
    world: World,
) -> None:
    alice = world.clients.records["alice"]
    await world.clients.put(msgspec.structs.replace(alice, require_certificate=True))
    right, wrong = await world.verify("alice", GOOD), await world.verify("alice", "wrong")
    assert isinstance(right, Deny)
    assert isinstance(wrong, Deny)
    assert (right.reason, wrong.reason) == (Reason.CERTIFICATE_REQUIRED, Reason.INVALID_CREDENTIALS)
    assert (right.detail, right.retry_after) == (wrong.detail, wrong.retry_after)
    assert await world.reason("alice", GOOD) is Reason.CERTIFICATE_REQUIRED
    assert await world.reason("alice", GOOD) is Reason.RATE_LIMITED, "it counted, each time"
    world.clock.now += 30
    world.certified = True
    assert isinstance(await world.verify("alice", GOOD), ClientRecord)


async def test_the_longest_password_that_is_looked_at(world: World) -> None:
    longest = "é" * (MAX_PASSWORD_BYTES // 2)
    await world.add("bob", password=longest)
    assert isinstance(await world.verify("bob", longest), ClientRecord)
    assert await world.reason("bob", longest[:-1]) is Reason.INVALID_CREDENTIALS


async def test_a_client_disabled_while_its_password_is_hashed_is_refused(world: World) -> None:
    verifying = asyncio.create_task(world.verify("alice", GOOD))
    await asyncio.sleep(0)
    world.clients.records["alice"] = msgspec.structs.replace(
        world.clients.records["alice"], disabled_at=CREATED
    )
    answer = await verifying
    assert isinstance(answer, Deny)
    assert answer.reason is Reason.INVALID_CREDENTIALS


# Guessing


async def test_too_many_wrong_ones_lock_the_name_for_half_a_minute(world: World) -> None:
    for _ in range(3):
        assert await world.reason("alice", "wrong") is Reason.INVALID_CREDENTIALS
    compared = world.hasher.compared
    answer = await world.verify("alice", GOOD)
    assert isinstance(answer, Deny)
    assert answer.reason is Reason.RATE_LIMITED
    assert answer.retry_after == pytest.approx(30.0)
    assert world.hasher.compared == compared
    world.clock.now += 30.0
    assert isinstance(await world.verify("alice", GOOD), ClientRecord)


async def test_unknown_names_are_locked_just_the_same(world: World) -> None:
    for name in ("alice", "nobody"):
        answers = [await world.verify(name, "wrong") for _ in range(4)]
        last = answers[-1]
        assert isinstance(last, Deny)
        assert (last.reason, last.retry_after) == (Reason.RATE_LIMITED, pytest.approx(30.0))


async def test_the_lock_doubles_up_to_an_hour(world: World) -> None:
    for _ in range(2):
        await world.verify("alice", "wrong")
    waits = []
    for _ in range(10):
        assert await world.reason("alice", "wrong") is Reason.INVALID_CREDENTIALS
        locked = await world.verify("alice", GOOD)
        assert isinstance(locked, Deny)
        assert locked.retry_after is not None
        waits.append(round(locked.retry_after))
        world.clock.now += locked.retry_after
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


async def test_a_right_one_begins_the_count_anew(world: World) -> None:
    for _ in range(4):
        for _ in range(2):
            await world.verify("alice", "wrong")
        assert isinstance(await world.verify("alice", GOOD), ClientRecord)


async def test_wrong_ones_are_forgotten_after_a_day(world: World) -> None:
    for _ in range(2):
        await world.verify("alice", "wrong")
    world.clock.now += 86_401
    await world.verify("alice", "wrong")
    assert isinstance(await world.verify("alice", GOOD), ClientRecord)


async def test_guessing_side_by_side_does_not_get_round_the_lock(world: World) -> None:
    guesses = [world.reason("alice", "wrong") for _ in range(8)]
    answers = await asyncio.gather(*guesses, world.reason("alice", GOOD))
    assert answers.count(Reason.INVALID_CREDENTIALS) == 3
    assert answers[-1] is Reason.RATE_LIMITED


async def test_unlock_ends_a_lock(world: World) -> None:
    assert not await world.lockouts.unlock("alice")
    for _ in range(3):
        await world.verify("alice", "wrong")
    await world.settled()
    assert await world.lockouts.unlock("alice")
    assert not await world.lockouts.unlock("alice")
    assert isinstance(await world.verify("alice", GOOD), ClientRecord)


async def test_attempts_are_limited_by_address_and_by_name_before_anything_is_hashed(
    stores: JsonStores,
) -> None:
    world = World(stores, lockout_after=1000, login_per_minute=5)
    await world.add("alice")
    try:
        for number in range(5):
            assert await world.reason(f"name{number}", "wrong") is Reason.INVALID_CREDENTIALS
        compared = world.hasher.compared
        assert await world.reason("alice", GOOD) is Reason.RATE_LIMITED
        assert world.hasher.compared == compared
        for number in range(5):
            address = f"198.51.100.{number}"
            assert await world.reason("alice", "wrong", address=address) is Reason.INVALID_CREDENTIALS
        answer = await world.verify("alice", GOOD, address="198.51.100.99")
        assert isinstance(answer, Deny)
        assert answer.reason is Reason.RATE_LIMITED
        assert answer.retry_after == pytest.approx(12.0)
    finally:
        await world.passwords.close()


# The threads


async def test_a_full_queue_refuses_instead_of_waiting(world: World) -> None:
    hasher = Hasher(rounds=4, threads=1, queue=1)
    passwords = Passwords(
        AccountSettings(),
        LimitSettings(login_per_minute=1000),
        lockouts=world.lockouts,
        turn=asyncio.Lock(),
        monotonic=world.clock,
        hasher=hasher,
    )
    try:
        attempts = [
            passwords.verify(world.clients, "alice", [GOOD], inbound(), certified=False) for _ in range(3)
        ]
        answers = await asyncio.gather(*attempts)
        assert [isinstance(answer, ClientRecord) for answer in answers] == [True, True, False]
        refused = answers[2]
        assert isinstance(refused, Deny)
        assert (refused.reason, refused.retry_after) == (Reason.RATE_LIMITED, 1.0)
        hashing = asyncio.gather(*(hasher.hash(b"x") for _ in range(3)), return_exceptions=True)
        assert isinstance((await hashing)[2], OverloadedError)
    finally:
        await passwords.close()


async def test_places_are_free_again_after_cancellation() -> None:
    hasher = Hasher(rounds=4, threads=1, queue=1)
    try:
        for _ in range(10):
            task = asyncio.create_task(hasher.hash(b"x"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await hasher.hash(b"x")
    finally:
        await hasher.close()


# New passwords


@pytest.mark.parametrize(
    ("password", "missing"),
    [
        ("Aa1!bcd", "8 to 128"),
        ("Aa1!" + "a" * 125, "8 to 128"),
        ("correct-horse-7", "upper-case"),
        ("CORRECT-HORSE-7", "lower-case"),
        ("Correct-Horse", "digit"),
        ("CorrectHorse 7", "special"),
        ("Correct\x00Horse-7", "printable"),
    ],
)
def test_rules_for_new_passwords(password: str, missing: str) -> None:
    problems = password_problems(password, "alice")
    assert len(problems) == 1
    assert missing in problems[0]


def test_every_broken_rule_is_named() -> None:
    assert len(password_problems("", "alice")) == 5


def test_the_name_is_no_password() -> None:
    assert password_problems("aLICE-doe-1", "Alice-Doe-1") == ["the password must not be the name"]


@pytest.mark.parametrize("password", [GOOD, "Aa1!bcde", "Grüße-Ähre-1", "Aa1!" + "a" * 124])
def test_good_passwords(password: str) -> None:
    assert password_problems(password, "alice") == []


async def test_a_bad_password_is_not_hashed(world: World) -> None:
    with pytest.raises(ValueError, match=r"upper-case.*; .*digit"):
        await world.passwords.hash_new("only-lower", "alice")
    with pytest.raises(ValueError, match="special"):
        await world.hasher.hash_new("NothingSpecial1", "alice", ())
    with pytest.raises(ValueError, match="must not be the name"):
        await world.hasher.hash_new("Alice-Doe-1", "alice-doe-1", ())


async def test_one_of_the_passwords_before_is_not_hashed(world: World) -> None:
    earlier = [await world.passwords.hash_new(each, "alice") for each in (GOOD, "Another-Horse-8")]
    for each in (GOOD, "Another-Horse-8"):
        with pytest.raises(ValueError, match="one of the last 5"):
            await world.passwords.hash_new(each, "alice", earlier)


async def test_a_new_password_can_be_verified(world: World) -> None:
    stored = await world.passwords.hash_new("Another-Horse-8", "alice")
    assert await world.hasher.matches(b"Another-Horse-8", stored)


@given(st.text(max_size=200), st.text(max_size=20))
def test_password_problems_never_fails(password: str, name: str) -> None:
    for problem in password_problems(password, name):
        assert problem.startswith("the password must")
