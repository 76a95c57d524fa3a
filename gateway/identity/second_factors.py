"""Second factors: an authenticator app's codes (RFC 6238), and recovery codes for who has lost it.

- A password alone is half of a sign-in: the other half is a code, within 300 s, by a token that is good for nothing else.
- Each code is good once, and so is each time step; the one before and the one after are accepted, too.
- Codes are limited for each account: 5 a minute, recovery codes 3; wrong ones in a row lock it (``lockouts``).
- A certificate and an API key are strong by themselves: no second factor is asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from gateway.clock import rfc3339
from gateway.identity.clients import Hasher, OverloadedError
from gateway.identity.lockouts import Attempt, Lockouts
from gateway.identity.sealing import Sealing
from gateway.identity.tenants import Tenants
from gateway.identity.totp import DIGITS, SECRET_BYTES, matching_step
from gateway.limits import TokenBuckets
from gateway.model import Deny, Inbound, Reason
from persistence.account_records import MfaSession, SecondFactor
from persistence.protocols import Stores
from persistence.records import MFA_SESSIONS, SECOND_FACTORS, TENANTS, ClientRecord

SESSION_SECONDS: Final = 300
CODES_PER_MINUTE: Final = 5
RECOVERIES_PER_MINUTE: Final = 3
RECOVERY_CODES: Final = 10
RECOVERY_ROUNDS: Final = 10
"""bcrypt's cost: a code has 49 random bits."""
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""31 characters, of which no two look alike."""


Recorded = Callable[[], Awaitable[None]]
"""Enters in the audit what is about to be done. What it raises, keeps it from being done."""


@dataclass(frozen=True, slots=True)
class MfaSettings:
    """What the configuration says of second factors."""

    required_roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Tried:
    """Who tries a code, and where."""

    client: ClientRecord
    inbound: Inbound

    @property
    def attempt(self) -> Attempt:
        """As lock-outs count it."""
        return Lockouts.of_code(self.client.client_id, self.inbound)


class EnabledFactor(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a second factor that is on."""

    enabled_at: str
    recovery_codes_left: int


def enabled_factor(stores: Stores, client_id: str) -> EnabledFactor | None:
    """That of the client; None: its password alone signs it in."""
    factor = stores.collection(SECOND_FACTORS).get(client_id)
    if factor is None or factor.confirmed_at is None:
        return None
    return EnabledFactor(enabled_at=factor.confirmed_at, recovery_codes_left=len(factor.recovery_hashes))


class SecondFactors:
    """The second factors of one gateway's clients."""

    def __init__(
        self,
        stores: Stores,
        sealing: Sealing,
        settings: MfaSettings,
        *,
        lockouts: Lockouts,
        now: Callable[[], float],
        hasher: Hasher | None = None,
    ) -> None:
        self._factors = stores.collection(SECOND_FACTORS)
        self._sessions = stores.collection(MFA_SESSIONS)
        self._tenants = Tenants(stores.collection(TENANTS))
        self._sealing = sealing
        self._settings = settings
        self._now = now
        self._hasher = hasher or Hasher(rounds=RECOVERY_ROUNDS, threads=1)
        self._lockouts = lockouts
        self._codes = TokenBuckets(CODES_PER_MINUTE, CODES_PER_MINUTE)
        self._recoveries = TokenBuckets(RECOVERIES_PER_MINUTE, RECOVERIES_PER_MINUTE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._rotation = asyncio.Lock()

    def check(self) -> None:
        """Raises SealingError where what is there cannot be opened."""
        self._sealing.check(needed=len(self._factors) > 0)

    def enabled(self, client_id: str) -> bool:
        """Whether a password alone is not enough for that client."""
        factor = self._factors.get(client_id)
        return factor is not None and factor.confirmed_at is not None

    def required(self, client: ClientRecord) -> bool:
        """Whether the client must have one: by a role, or by its tenant."""
        by_tenant = self._tenants.settings(client.tenant_id).mfa_required
        return by_tenant or not self._settings.required_roles.isdisjoint(client.roles)

    def needed(self, client: ClientRecord) -> bool:
        """Whether its password alone is not enough."""
        return self.enabled(client.client_id) or self.required(client)

    # Getting one, losing it

    async def enrol(self, client: ClientRecord, recorded: Recorded) -> bytes | Deny:
        """A new secret, which counts once it is confirmed. ``recorded``: as in ``confirm``. Raises SealingError, StoreError."""
        async with self._turn(client.client_id):
            if self.enabled(client.client_id):
                detail = "There is a second factor already: disable it first."
                return Deny(Reason.CONFLICT, detail, client_id=client.client_id)
            secret = secrets.token_bytes(SECRET_BYTES)
            sealed_secret = self._sealing.seal(secret, client.client_id)
            await recorded()
            await self._factors.put(
                SecondFactor(
                    client_id=client.client_id,
                    tenant_id=client.tenant_id,
                    sealed_secret=sealed_secret,
                    created_at=rfc3339(self._now()),
                )
            )
            return secret

    async def confirm(
        self, client: ClientRecord, code: str, inbound: Inbound, recorded: Recorded
    ) -> tuple[str, ...] | Deny:
        """The recovery codes, shown this once, for the first code of the app. Raises SealingError, StoreError.

        ``recorded`` is awaited once it is sure that it will be done, before it is.
        """
        client_id = client.client_id
        async with self._turn(client_id):
            factor = self._factors.get(client_id)
            if factor is None or factor.confirmed_at is not None:
                return Deny(Reason.CONFLICT, "There is nothing to confirm: enrol first.", client_id=client_id)
            step = self._step(factor, _normal(code), _Tried(client, inbound))
            if isinstance(step, Deny):
                return step
            moment = rfc3339(self._now())
            confirmed = msgspec.structs.replace(factor, last_step=step, confirmed_at=moment)
            return await self._put_with_new_codes(confirmed, recorded)

    async def renew_codes(
        self, client: ClientRecord, code: str, inbound: Inbound, recorded: Recorded
    ) -> tuple[str, ...] | Deny:
        """Other recovery codes in place of those that are left, for a good code. As ``confirm``."""
        client_id = client.client_id
        async with self._turn(client_id):
            wrong = await self._use_up(code, _Tried(client, inbound))
            factor = self._factors.get(client_id)
            if wrong is not None or factor is None:
                return wrong or _wrong(client_id)
            return await self._put_with_new_codes(factor, recorded)

    async def _put_with_new_codes(self, factor: SecondFactor, recorded: Recorded) -> tuple[str, ...] | Deny:
        codes = tuple(_recovery_code() for _ in range(RECOVERY_CODES))
        try:
            hashes = [await self._hasher.hash(_normal(each).encode()) for each in codes]
        except OverloadedError:
            return _too_many(1.0, factor.client_id)
        await recorded()
        await self._factors.put(msgspec.structs.replace(factor, recovery_hashes=tuple(hashes)))
        return codes

    async def verify(self, client: ClientRecord, code: str, inbound: Inbound) -> Deny | None:
        """Use up a code of the app, or a recovery code; None: it was good. Raises SealingError, StoreError."""
        async with self._turn(client.client_id):
            return await self._use_up(code, _Tried(client, inbound))

    async def _use_up(self, code: str, tried: _Tried) -> Deny | None:
        client_id, code = tried.client.client_id, _normal(code)
        factor = self._factors.get(client_id)
        if factor is None or factor.confirmed_at is None:
            return _wrong(client_id)
        if _is_totp(code):
            step = self._step(factor, code, tried)
            if isinstance(step, Deny):
                return step
            factor = msgspec.structs.replace(factor, last_step=step)
        else:
            left = await self._without(factor, code, tried)
            if isinstance(left, Deny):
                return left
            factor = msgspec.structs.replace(factor, recovery_hashes=left)
        await self._factors.put(factor)
        self._lockouts.right(tried.attempt, tried.client)
        return None

    async def remove(self, client_id: str) -> bool:
        """Take the second factor away; whether there was one. Raises StoreError."""
        async with self._turn(client_id):
            factor = self._factors.get(client_id)
            if factor is not None:
                await self._factors.remove(client_id)
            return factor is not None

    async def rotate_key(self) -> int:
        """Seal every secret with a new key, and forget the old one; how many. Raises SealingError, StoreError.

        Whoever is sealing with the old key holds a turn, though there may be no record of it yet: they are waited for.
        """
        async with self._rotation:
            for factor in self._factors:
                self._sealing.open(
                    factor.sealed_secret, factor.client_id
                )  # or there would be a key more with each try
            self._sealing.add_key()
            sealing = {*self._turns, *(factor.client_id for factor in self._factors)}
            count = sum([await self._seal_anew(client_id) for client_id in sealing])
            self._sealing.drop_old_keys()
            return count

    async def _seal_anew(self, client_id: str) -> bool:
        """With the newest key; whether there is something to seal."""
        async with self._turn(client_id):
            factor = self._factors.get(client_id)
            if factor is None:
                return False
            secret = self._sealing.open(factor.sealed_secret, client_id)
            sealed_secret = self._sealing.seal(secret, client_id)
            await self._factors.put(msgspec.structs.replace(factor, sealed_secret=sealed_secret))
            return True

    # Between the two steps

    async def begin(
        self, client: ClientRecord, scope: str, thumbprint: str | None, *, with_refresh: bool
    ) -> str:
        """The first step is done: a token for the second. Raises StoreError."""
        token = secrets.token_urlsafe(32)
        await self._sessions.put(
            MfaSession(
                token_hash=_digest(token),
                client_id=client.client_id,
                tenant_id=client.tenant_id,
                password_digest=_digest(client.password_hash or ""),
                scope=scope,
                with_refresh=with_refresh,
                certificate_thumbprint=thumbprint,
                exp=int(self._now()) + SESSION_SECONDS,
            )
        )
        return token

    def session(self, token: str) -> MfaSession | None:
        """What was begun with that token, if it is not over."""
        session = self._sessions.get(_digest(token))
        return session if session is not None and session.exp > self._now() else None

    @staticmethod
    def is_of(session: MfaSession, client: ClientRecord) -> bool:
        """Whether the password that the first step proved is still the client's."""
        return secrets.compare_digest(session.password_digest, _digest(client.password_hash or ""))

    async def finish(
        self, session: MfaSession, client: ClientRecord, code: str, inbound: Inbound
    ) -> Deny | None:
        """The second step: with a good code the token is good no more. Raises SealingError, StoreError.

        One at a time: of two good codes that come side by side, the second one finds no session.
        """
        async with self._turn(session.client_id):
            if self._sessions.get(session.token_hash) is None:
                return session_over(session.client_id)
            wrong = await self._use_up(code, _Tried(client, inbound))
            if wrong is None:
                await self._sessions.remove(session.token_hash)
            return wrong

    async def purge(self) -> None:
        """Forget what was begun and not gone on with. Raises StoreError."""
        gone = [each.token_hash for each in self._sessions if each.exp <= self._now()]
        if gone:
            await self._sessions.remove(*gone)

    async def close(self) -> None:
        """End the threads."""
        await self._hasher.close()

    # Codes

    def _step(self, factor: SecondFactor, code: str, tried: _Tried) -> int | Deny:
        """The time step of a code that has not been used. Counted as an attempt."""
        limited = self._limited(self._codes, tried)
        if limited is not None:
            return limited
        secret = self._sealing.open(factor.sealed_secret, factor.client_id)
        step = matching_step(secret, code, self._now()) if _is_totp(code) else None
        if step is None or step <= factor.last_step:
            self._lockouts.wrong(tried.attempt, tried.client)
            return _wrong(factor.client_id)
        return step

    async def _without(self, factor: SecondFactor, code: str, tried: _Tried) -> tuple[str, ...] | Deny:
        """The recovery codes that are left once ``code`` is used up. Counted as an attempt."""
        limited = self._limited(self._recoveries, tried)
        if limited is not None:
            return limited
        encoded = code.encode("utf-8", "replace")[:64]
        try:
            for stored in factor.recovery_hashes:
                if await self._hasher.matches(encoded, stored):
                    return tuple(each for each in factor.recovery_hashes if each != stored)
        except OverloadedError:
            return _too_many(1.0, factor.client_id)
        self._lockouts.wrong(tried.attempt, tried.client)
        return _wrong(factor.client_id)

    def _limited(self, buckets: TokenBuckets, tried: _Tried) -> Deny | None:
        client_id = tried.client.client_id
        wait = self._lockouts.wait(tried.attempt) or buckets.take(client_id, self._now())
        return _too_many(wait, client_id) if wait > 0 else None

    def _turn(self, client_id: str) -> asyncio.Lock:
        turn = self._turns.get(client_id)
        if turn is None:
            turn = self._turns[client_id] = asyncio.Lock()
        return turn


def _is_totp(code: str) -> bool:
    return len(code) == DIGITS and code.isascii() and code.isdecimal()


def _recovery_code() -> str:
    text = "".join(secrets.choice(_ALPHABET) for _ in range(10))
    return f"{text[:5]}-{text[5:]}"


def _normal(code: str) -> str:
    """As it is compared: without what is put between for the eye (``123 456``), and in small letters."""
    return "".join(code.lower().replace("-", "").split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _wrong(client_id: str) -> Deny:
    return Deny(Reason.MFA_CODE_INVALID, "The code is wrong, or was used before.", client_id=client_id)


def session_over(client_id: str | None) -> Deny:
    """There is nothing that a second step could follow."""
    detail = "The sign-in is over, or was never begun: sign in again."
    return Deny(Reason.MFA_SESSION_INVALID, detail, client_id=client_id)


def _too_many(wait: float, client_id: str) -> Deny:
    detail = f"Too many codes: wait {max(1, round(wait))} s."
    return Deny(Reason.RATE_LIMITED, detail, retry_after=wait, client_id=client_id)
