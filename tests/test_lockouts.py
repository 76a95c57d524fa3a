"""Who waits after wrong passwords, and who does not: time and addresses are the test's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from certs.identity import PeerIdentity
from gateway.identity.lockouts import ADDRESS_FACTOR, MAX_FAMILIAR, Attempt, Lockout, Lockouts, Scope
from gateway.model import Inbound
from persistence import JsonStores
from persistence.records import FAMILIAR_ADDRESSES, LOCKOUTS, ClientRecord
from tests.stores import client, opened

HOME = "192.0.2.1"
ELSEWHERE = "198.51.100.7"
AFTER = 3


def inbound(address: str, peer: PeerIdentity | None = None) -> Inbound:
    return Inbound("r", "POST", "/auth/login", address, None, peer, (), (), 0.0)


class World:
    def __init__(self, stores: JsonStores) -> None:
        self.now = 1_800_000_000.0
        self.alarms: list[Lockout] = []
        self.use(stores)
        self.alice = client("alice")

    def use(self, stores: JsonStores) -> None:
        self.stores = stores
        self.lockouts = Lockouts(stores, AFTER, now=lambda: self.now, alarm=self.alarms.append)

    def attempt(self, address: str, name: str = "alice") -> Attempt:
        return self.lockouts.of_password(name, inbound(address), certified=False)

    def wrong(self, address: str, times: int = 1, name: str = "alice") -> None:
        """So many wrong passwords, each as soon as it may be tried."""
        known: ClientRecord | None = self.alice if name == "alice" else None
        for _ in range(times):
            attempt = self.attempt(address, name)
            self.now += self.lockouts.wait(attempt)
            self.lockouts.wrong(attempt, known)

    def wait(self, address: str, name: str = "alice") -> int:
        return round(self.lockouts.wait(self.attempt(address, name)))

    async def right(self, address: str) -> None:
        self.lockouts.right(self.attempt(address), self.alice)
        await self.settled()

    async def settled(self) -> None:
        """What was handed to the journal is on disk, and read."""
        await self.stores.collection(LOCKOUTS).remove("nothing")

    @property
    def scopes(self) -> list[Scope]:
        return [alarm.scope for alarm in self.alarms]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(await opened(tmp_path / "persistence"))
    yield made
    await made.stores.close()


async def test_one_address_locks_nobody_out_elsewhere_however_long_it_goes_on(world: World) -> None:
    world.wrong(ELSEWHERE, 50)
    assert world.wait(ELSEWHERE) == 3600
    assert world.wait(HOME) == 0
    assert Scope.ACCOUNT not in world.scopes


async def test_guesses_from_many_addresses_lock_the_account_for_addresses_that_are_new(world: World) -> None:
    await world.right(HOME)
    for number in range(AFTER):
        world.wrong(f"198.51.100.{number}")
    assert world.wait("203.0.113.9") == 30
    assert world.wait(HOME) == 0, "its owner is at home there"
    assert world.scopes == [Scope.ACCOUNT]
    for number in range(20):
        world.wrong(f"203.0.113.{number}")
        assert world.wait(HOME) == 0
    assert world.wait("203.0.113.99") == 300, "and no longer, so that an owner gets in now and then"


async def test_over_the_certificate_of_the_account_nobody_elsewhere_matters(world: World) -> None:
    peer = PeerIdentity(
        fingerprint="f" * 43,
        serial=1,
        subject="",
        issuer="",
        common_names=("alice",),
        san_uri=(),
        san_dns=(),
        san_email=(),
        not_before=0,
        not_after=2e9,
    )
    for number in range(AFTER):
        world.wrong(f"198.51.100.{number}")
    world.wrong(HOME, 40)
    certified = world.lockouts.of_password("alice", inbound(HOME, peer), certified=True)
    assert world.lockouts.wait(certified) == 0
    for _ in range(AFTER):
        world.lockouts.wrong(certified, world.alice)
    assert world.lockouts.wait(certified) == 30, "but a stolen certificate is no way round"
    other = world.lockouts.of_password(
        "alice", inbound(HOME, replace(peer, fingerprint="g" * 43)), certified=True
    )
    assert world.lockouts.wait(other) == 0


async def test_an_address_that_tries_many_accounts_is_locked_for_all_that_are_not_at_home_there(
    world: World,
) -> None:
    await world.right(ELSEWHERE)
    for number in range(AFTER * ADDRESS_FACTOR):
        world.wrong(ELSEWHERE, name=f"name{number}")
    assert world.wait(ELSEWHERE, "somebody") == 30
    assert world.wait(ELSEWHERE) == 0
    assert world.wait(HOME, "somebody") == 0
    assert world.scopes == [Scope.ADDRESS]
    assert world.alarms[0].client is None
    world.now += 3601
    world.wrong(ELSEWHERE, name="somebody")
    assert world.wait(ELSEWHERE, "somebody") == 0, "an hour's pause, and it begins anew"


async def test_a_network_of_ipv6_is_one_address(world: World) -> None:
    for number in range(AFTER):
        world.wrong(f"2001:db8::{number}")
    assert world.wait("2001:db8::ffff") == 30
    assert world.wait("2001:db8:0:1::1") == 0


async def test_a_lock_out_and_its_doubling_survive_a_restart(world: World, tmp_path: Path) -> None:
    world.wrong(HOME, AFTER + 1)
    assert world.wait(HOME) == 60
    world.wrong(ELSEWHERE, AFTER - 1)
    await world.stores.close()
    world.use(await opened(tmp_path / "persistence"))
    assert world.wait(HOME) == 60
    world.wrong(HOME)
    assert world.wait(HOME) == 120
    assert world.wait(ELSEWHERE) == 0


async def test_names_that_nobody_has_are_locked_and_kept_alike_but_not_by_name(
    world: World, tmp_path: Path
) -> None:
    world.wrong(HOME, AFTER, name="Perhaps-A-Password-1")
    await world.stores.close()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "persistence").rglob("*") if path.is_file())
    assert b"Perhaps-A-Password" not in kept
    world.use(await opened(tmp_path / "persistence"))
    assert world.wait(HOME, "Perhaps-A-Password-1") == 30


async def test_guessing_writes_a_lock_out_each_and_nothing_else(world: World) -> None:
    world.wrong(HOME, AFTER - 1)
    await world.settled()
    assert len(world.stores.collection(LOCKOUTS)) == 0
    world.wrong(HOME, 5)
    await world.settled()
    assert len(world.stores.collection(LOCKOUTS)) == 1


async def test_a_right_one_begins_anew_and_is_remembered_as_at_home(world: World) -> None:
    world.wrong(HOME, AFTER)
    world.now += 30
    await world.right(HOME)
    assert len(world.stores.collection(LOCKOUTS)) == 0
    world.wrong(HOME, AFTER - 1)
    assert world.wait(HOME) == 0
    familiar = world.stores.collection(FAMILIAR_ADDRESSES).get("alice")
    assert familiar is not None
    assert familiar.networks == (HOME,)


async def test_so_many_addresses_are_kept_and_the_one_unused_for_longest_goes(world: World) -> None:
    for number in range(MAX_FAMILIAR + 2):
        await world.right(f"203.0.113.{number}")
        await world.right(HOME)
    familiar = world.stores.collection(FAMILIAR_ADDRESSES).get("alice")
    assert familiar is not None
    assert len(familiar.networks) == MAX_FAMILIAR
    assert HOME in familiar.networks
    assert "203.0.113.0" not in familiar.networks


async def test_what_is_over_is_cleared_away_once_it_would_make_nothing_longer(world: World) -> None:
    world.wrong(HOME, AFTER)
    await world.settled()
    world.now += 3600
    await world.lockouts.purge(100)
    assert world.lockouts.all() == []
    assert len(world.stores.collection(LOCKOUTS)) == 1, "the next one would be longer"
    world.now += 86_400
    await world.lockouts.purge(100)
    assert len(world.stores.collection(LOCKOUTS)) == 0


async def test_a_clock_that_was_put_back_locks_nobody_out_for_longer(world: World) -> None:
    world.wrong(HOME, AFTER)
    world.now -= 10 * 86_400
    assert world.wait(HOME) <= 3600


async def test_a_store_that_takes_no_writes_does_not_end_the_counting(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from persistence.records import StoreError

    def refuse(*_: object) -> None:
        raise StoreError("full")

    monkeypatch.setattr(world.stores.collection(LOCKOUTS), "put_soon", refuse)
    with caplog.at_level(logging.WARNING):
        world.wrong(HOME, AFTER)
    assert world.wait(HOME) == 30
    assert "could not be written" in caplog.text
