"""Lock-outs: who has to wait after too many wrong passwords or codes, and how long.

What is counted, each by itself; N is ``[accounts] lockout_after``:

- an account at one address (one /64 in IPv6): after N wrong ones in a row 30 s, then twice as long each time, up to 1 h;
- an account at all addresses: likewise, up to 5 min. An address counts here with N - 1 wrong ones at most, so that none
  can lock an account for others by itself;
- an address, whatever the account: after ten times N without an hour's pause, likewise, up to 1 h;
- an account's second factor: after N wrong codes, likewise, up to 1 h.

From an address that its owner signed in from before, and over its own certificate, the first alone is asked: whoever
guesses from elsewhere cannot keep an owner out who is at home. Names that nobody has are counted just the same.

A lock-out is durable, a wrong attempt that locks nobody is not: guessing costs the disk one write for each lock-out.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from gateway.clock import rfc3339
from gateway.limits import network_of
from gateway.model import Inbound
from gateway.remembered import Remembered
from persistence.account_records import FamiliarAddresses, LockoutRecord
from persistence.protocols import Stores
from persistence.records import (
    FAMILIAR_ADDRESSES,
    LOCKOUTS,
    TOMBSTONE_KEYS,
    ClientRecord,
    StoreError,
    TombstoneKey,
)

log = logging.getLogger("ostiary.auth")

FIRST_SECONDS: Final = 30.0
HOUR: Final = 3600.0
ACCOUNT_SECONDS: Final = 300.0
"""The longest lock-out of an account at all addresses."""
_DAY: Final = 86_400.0
ADDRESS_FACTOR: Final = 10
"""So many times as much is let through for an address as for an account."""
MAX_FAMILIAR: Final = 16
"""Addresses that are kept of each account; the one unused for longest is forgotten first."""
_KEY_ID: Final = "lockouts"
_MAX_COUNTED: Final = 65_536
_MAX_KEPT: Final = 16_384


class Scope(StrEnum):
    """What is locked: the stable word in records and in the audit."""

    ACCOUNT_AT_ADDRESS = "account_at_address"
    ACCOUNT = "account"
    ADDRESS = "address"
    SECOND_FACTOR = "second_factor"


@dataclass(frozen=True, slots=True)
class _Rule:
    """``after`` wrong ones lock, for ``longest`` seconds at most; ``memory`` seconds after the last all are forgotten."""

    after: int
    longest: float
    memory: float


@dataclass(frozen=True, slots=True)
class Subject:
    """What wrong ones are counted for."""

    scope: Scope
    name: str | None
    origin: str | None

    @property
    def text(self) -> str:
        """Names it; the name may be somebody's password in the wrong field."""
        return "\0".join((self.scope, self.name or "", self.origin or ""))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A password or a code that is tried, and what it counts for if it is wrong."""

    name: str
    inbound: Inbound
    subjects: tuple[Subject, ...]
    network: str | None = None
    """Where it is tried; None: over the account's own certificate, or it is a code."""

    @property
    def account(self) -> str:
        """The account for those who limit attempts by account: whoever is at home there has a limit of their own."""
        return self.subjects[0].text if len(self.subjects) == 1 else self.name


@dataclass(frozen=True, slots=True)
class Lockout:
    """A lock-out that begins. ``client`` None: nobody has that name, or it is an address that is locked."""

    scope: Scope
    attempt: Attempt
    client: ClientRecord | None
    origin: str | None
    seconds: float


Alarm = Callable[[Lockout], None]


@dataclass(slots=True)
class _Wrong:
    """The wrong ones in a row. Times are seconds since the epoch."""

    name: str | None
    count: int = 0
    last: float = 0.0
    locked_until: float = 0.0


class Lockouts:
    """All lock-outs of one gateway."""

    def __init__(
        self,
        stores: Stores,
        after: int,
        *,
        now: Callable[[], float],
        alarm: Alarm = lambda _lockout: None,
    ) -> None:
        """``after``: ``[accounts] lockout_after``."""
        self._kept = stores.collection(LOCKOUTS)
        self._familiar = stores.collection(FAMILIAR_ADDRESSES)
        self._after = after
        self._rules = {
            Scope.ACCOUNT_AT_ADDRESS: _Rule(after, HOUR, _DAY),
            Scope.ACCOUNT: _Rule(after, ACCOUNT_SECONDS, _DAY),
            Scope.ADDRESS: _Rule(after * ADDRESS_FACTOR, HOUR, HOUR),
            Scope.SECOND_FACTOR: _Rule(after, HOUR, _DAY),
        }
        self._now = now
        self._alarm = alarm
        self._counted: Remembered[str, _Wrong] = Remembered(_MAX_COUNTED)
        self._keys = stores.collection(TOMBSTONE_KEYS)
        key = self._keys.get(_KEY_ID)
        self._key = TombstoneKey(key_id=_KEY_ID, key=os.urandom(32).hex()) if key is None else key

    # Attempts

    def of_password(self, name: str, inbound: Inbound, *, certified: bool) -> Attempt:
        """A password that is tried. ``certified``: over the certificate of the client of that name."""
        if certified and inbound.peer is not None:
            origin = f"certificate {inbound.peer.fingerprint}"
            return Attempt(name, inbound, (Subject(Scope.ACCOUNT_AT_ADDRESS, name, origin),))
        network = network_of(inbound.address)
        here = Subject(Scope.ACCOUNT_AT_ADDRESS, name, network)
        if self._is_familiar(name, network):
            return Attempt(name, inbound, (here,), network)
        everywhere = Subject(Scope.ACCOUNT, name, None)
        return Attempt(name, inbound, (here, everywhere, Subject(Scope.ADDRESS, None, network)), network)

    @staticmethod
    def of_code(client_id: str, inbound: Inbound) -> Attempt:
        """A code that is tried, by somebody who knows the password."""
        return Attempt(client_id, inbound, (Subject(Scope.SECOND_FACTOR, client_id, None),))

    def wait(self, attempt: Attempt) -> float:
        """Seconds until it may be made; 0.0: now."""
        return max(self._wait(subject) for subject in attempt.subjects)

    def wrong(self, attempt: Attempt, client: ClientRecord | None) -> None:
        """It was wrong; an alarm where that locks. ``client``: whose name it is."""
        if client is not None and client.erased_at is not None:
            client = None  # nobody's any more
        own = self._count(attempt.subjects[0], attempt, client)
        for subject in attempt.subjects[1:]:
            if subject.scope is Scope.ADDRESS:
                self._count(subject, attempt, None)
            elif own < self._after:
                self._count(subject, attempt, client)

    def right(self, attempt: Attempt, client: ClientRecord) -> None:
        """It was right: what was counted for the account here is forgotten, and its owner is at home here."""
        for subject in attempt.subjects:
            if subject.scope is not Scope.ADDRESS:
                self._forget(self._id(subject))
        if attempt.network is not None:
            self._make_familiar(client, attempt.network)

    # Administration

    async def unlock(self, name: str) -> bool:
        """End every lock-out of that account, and forget what was wrong; whether there was one. Raises StoreError."""
        kept = self._kept.where("client_id", name)
        locked = any(self._is_locked(record) for record in kept)
        self._counted.drop(lambda wrong: wrong.name == name)
        await self._kept.remove(*(record.lockout_id for record in kept))
        return locked

    async def end(self, lockout_id: str) -> None:
        """End one. Raises StoreError."""
        self._counted.forget(lockout_id)
        await self._kept.remove(lockout_id)

    def get(self, lockout_id: str) -> LockoutRecord | None:
        """The lock-out, if it is not over."""
        record = self._kept.get(lockout_id)
        return record if record is not None and self._is_locked(record) else None

    def all(self) -> list[LockoutRecord]:
        """The lock-outs that are not over."""
        return [record for record in self._kept if self._is_locked(record)]

    def counts(self, name: str) -> bool:
        """Whether anything wrong is remembered of that account."""
        return bool(self._kept.where("client_id", name)) or self._counted.any(
            lambda wrong: wrong.name == name
        )

    async def purge(self, at_most: int) -> None:
        """Forget those that are over, and would not make the next one longer. Raises StoreError."""
        gone = [record.lockout_id for record in self._kept if self._restored(record) is None]
        await self._kept.remove(*gone[:at_most])

    # Counting

    def _id(self, subject: Subject) -> str:
        """The lock-out's id: whoever has it, and not the store's key, cannot test a guess of the name."""
        said = subject.text.encode("utf-8", "replace")
        return hmac.digest(bytes.fromhex(self._key.key), said, "sha256").hex()[:32]

    def _wait(self, subject: Subject) -> float:
        wrong = self._find(subject)
        if wrong is None:
            return 0.0
        # Not longer than any lock-out is, whatever happened to the clock.
        return max(0.0, min(wrong.locked_until - self._now(), self._rules[subject.scope].longest))

    def _count(self, subject: Subject, attempt: Attempt, client: ClientRecord | None) -> int:
        """One more; how many that makes."""
        now, rule = self._now(), self._rules[subject.scope]
        wrong = self._find(subject)
        if wrong is None or now - wrong.last > rule.memory:
            wrong = _Wrong(subject.name)
        wrong.count += 1
        wrong.last = now
        self._counted.put(self._id(subject), wrong)
        if wrong.count >= rule.after:
            doublings = min(wrong.count - rule.after, 16)
            seconds = min(FIRST_SECONDS * 2**doublings, rule.longest)
            wrong.locked_until = now + seconds
            self._keep(subject, wrong, client)
            self._alarm(Lockout(subject.scope, attempt, client, subject.origin, seconds))
        return wrong.count

    def _find(self, subject: Subject) -> _Wrong | None:
        """What is counted, of this run or of one before."""
        key = self._id(subject)
        wrong = self._counted.get(key)
        if wrong is not None:
            return wrong
        record = self._kept.get(key)
        return None if record is None else self._restored(record)

    def _restored(self, record: LockoutRecord) -> _Wrong | None:
        """What a lock-out that was kept means now; None: nothing any more."""
        rule = self._rules[Scope(record.scope)]
        locked_at, locked_until = _seconds(record.locked_at), _seconds(record.locked_until)
        now = self._now()
        if now - locked_at > rule.memory and locked_until <= now:
            return None
        return _Wrong(record.client_id, record.count, locked_at, locked_until)

    def _is_locked(self, record: LockoutRecord) -> bool:
        return _seconds(record.locked_until) > self._now()

    def _forget(self, key: str) -> None:
        wrong = self._counted.forget(key)
        if (wrong is not None and wrong.locked_until) or self._kept.get(key) is not None:
            self._write(lambda: self._kept.remove_soon(key))

    def _keep(self, subject: Subject, wrong: _Wrong, client: ClientRecord | None) -> None:
        record = LockoutRecord(
            lockout_id=self._id(subject),
            scope=subject.scope,
            client_id=None if client is None else client.client_id,
            tenant_id=None if client is None else client.tenant_id,
            origin=subject.origin,
            count=wrong.count,
            locked_at=rfc3339(wrong.last),
            locked_until=rfc3339(wrong.locked_until),
        )
        if self._keys.get(_KEY_ID) is None:
            self._write(lambda: self._keys.put_soon(self._key))
        if len(self._kept) >= _MAX_KEPT and self._kept.get(record.lockout_id) is None:
            oldest = next(iter(self._kept)).lockout_id
            self._write(lambda: self._kept.remove_soon(oldest))
        self._write(lambda: self._kept.put_soon(record))

    # Where accounts are at home

    def _is_familiar(self, name: str, network: str) -> bool:
        familiar = self._familiar.get(name)
        return familiar is not None and network in familiar.networks

    def _make_familiar(self, client: ClientRecord, network: str) -> None:
        familiar = self._familiar.get(client.client_id)
        known = () if familiar is None else familiar.networks
        if network in known[: MAX_FAMILIAR // 2]:
            return  # lately enough: a sign-in is not a write each time
        networks = tuple(dict.fromkeys((network, *known)))[:MAX_FAMILIAR]
        record = FamiliarAddresses(client_id=client.client_id, tenant_id=client.tenant_id, networks=networks)
        self._write(lambda: self._familiar.put_soon(record))

    @staticmethod
    def _write(change: Callable[[], None]) -> None:
        """What is lost with a store that takes no writes is a restart's worth of counting."""
        try:
            change()
        except StoreError:
            log.warning("a lock-out could not be written; a restart would forget it")


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
