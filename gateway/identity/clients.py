"""Clients as accounts: whether one may be used, and its password, guarded against guessing.

The rules of guarding, in the order in which they are applied:

- Attempts are counted by address and by name before anything is hashed (``[limits] login_per_minute``).
- After ``[accounts] lockout_after`` wrong passwords a name is locked: 30 s, then twice as long each time, up to 1 h.
- A name that is unknown, disabled or has no password costs the same work and gets the same answer as a wrong password.
  So does the right password of a client that requires its certificate, where that is not there; it counts as wrong, too,
  or guessing without the certificate would tell.
- Hashing runs in two threads with a bounded queue: over it, an attempt is refused, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import bcrypt

from gateway.config.values import AccountSettings, LimitSettings
from gateway.identity.common_passwords import is_common
from gateway.limits import TokenBuckets, network_of
from gateway.model import Deny, Reason, Refused
from gateway.remembered import Remembered
from persistence.records import ClientRecord, ClientStore

log = logging.getLogger("ostiary.auth")

ROUNDS: Final = 12
"""bcrypt's cost: 2**12 rounds."""
SCHEME: Final = "hmac-sha256-v1"
"""Stands before bcrypt's own string in a stored hash: what was done to the password before bcrypt saw it."""
MAX_PASSWORD_BYTES: Final = 1024
"""What is looked at; rules for new passwords are ``password_problems``."""
SHORTEST: Final = 8
LONGEST: Final = 128
_WRONG: Final = "The name or the password is wrong, or a certificate is missing that the client needs."

_LABEL: Final = b"ostiary password pre-hash v1"
# A salt and a digest that nobody knows the password of.
_NOBODY: Final = "uq1fZ8WmT3oVb7cYd0LhXe" + "Kp5sR9tGj2nHv6xQw4yBaE1iUzM8dCf"

_LOCK_SECONDS: Final = 30.0
_MAX_LOCK_SECONDS: Final = 3600.0
_FORGET_SECONDS: Final = 86_400.0
"""Wrong passwords are forgotten a day after the last one."""
_MAX_NAMES: Final = 65_536
_MAX_NAME: Final = 256

T = TypeVar("T")


def is_enabled(client: ClientRecord) -> bool:
    """Whether the client may be used at all."""
    return client.disabled_at is None and client.erased_at is None


def refusal_of(client: ClientRecord | None, client_id: str) -> Deny | None:
    """Why the holder of a good credential of that client is refused; None: it is not."""
    if client is None:
        return Deny(
            Reason.CLIENT_UNKNOWN, "There is no such client: ask an administrator.", client_id=client_id
        )
    if not is_enabled(client):
        return Deny(
            Reason.CLIENT_DISABLED, "This client is disabled: ask an administrator.", client_id=client_id
        )
    return None


def password_problems(password: str, name: str) -> list[str]:
    """Every rule that a new password of ``name`` breaks, as a sentence; empty: it is good."""
    problems = []
    if not SHORTEST <= len(password) <= LONGEST:
        problems.append(f"the password must have {SHORTEST} to {LONGEST} characters")
    if not any(c.isupper() for c in password):
        problems.append("the password must have an upper-case letter")
    if not any(c.islower() for c in password):
        problems.append("the password must have a lower-case letter")
    if not any(c.isdecimal() for c in password):
        problems.append("the password must have a digit")
    if all(c.isalnum() or c.isspace() for c in password):
        problems.append("the password must have a special character, such as - or !")
    if not all(c.isprintable() for c in password):
        problems.append("the password must have printable characters only")
    if is_common(password):
        problems.append("the password must not be one of those that are tried first")
    if name and password.casefold() == name.casefold():
        problems.append("the password must not be the name")
    return problems


def require_good_password(password: str, name: str = "") -> bytes:
    """The password as bytes. Raises ValueError with every rule that it breaks."""
    problems = password_problems(password, name)
    if problems:
        raise ValueError("; ".join(problems))
    return password.encode()


async def hash_password(password: str) -> str:
    """What is stored for a new password, where no gateway runs. Raises ValueError with the rules that it breaks."""
    return await asyncio.to_thread(_hash, require_good_password(password), ROUNDS)


def _hash(password: bytes, rounds: int) -> str:
    return SCHEME + bcrypt.hashpw(_shortened(password), bcrypt.gensalt(rounds)).decode("ascii")


def _matches(password: bytes, stored: bytes) -> bool:
    return bcrypt.checkpw(_shortened(password), stored)


def _shortened(password: bytes) -> bytes:
    """44 bytes without NUL, for bcrypt takes 72 at most. The label is no secret: it only sets this use apart."""
    return base64.b64encode(hmac.digest(_LABEL, password, hashlib.sha256))


class OverloadedError(Exception):
    """More passwords wait to be hashed than may."""


class Hasher:
    """bcrypt in threads of its own (it lets go of the interpreter's lock); close it when done."""

    def __init__(self, *, rounds: int = ROUNDS, threads: int = 2, queue: int = 32) -> None:
        self._rounds = rounds
        self._places = threads + queue
        self._taken = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ostiary-bcrypt")

    async def hash(self, password: bytes) -> str:
        """What is stored for ``password``. Raises OverloadedError."""
        return await self._run(lambda: _hash(password, self._rounds))

    async def matches(self, password: bytes, stored: str | None) -> bool:
        """Whether ``password`` is the stored one. Costs the same where there is none. Raises OverloadedError."""
        scheme, dollar, rest = (stored or "").partition("$")
        known = scheme == SCHEME and bool(dollar)
        against = f"${rest}" if known else f"$2b${self._rounds:02d}${_NOBODY}"
        matched = await self._run(lambda: _matches(password, against.encode()))
        return matched and known

    async def close(self) -> None:
        """Forget what waits, let what runs come to its end."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._taken >= self._places:
            raise OverloadedError
        self._taken += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._taken -= 1


@dataclass(slots=True)
class _Wrong:
    """The wrong passwords for one name, in a row. Times are monotonic seconds."""

    count: int = 0
    last: float = 0.0
    locked_until: float = 0.0


class Lockouts:
    """Which names are locked, known or not. In memory: a restart forgets them, as the limits still hold."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._wrong: Remembered[str, _Wrong] = Remembered(_MAX_NAMES)

    def wait(self, name: str, now: float) -> float:
        """Seconds until ``name`` may try again; 0.0: now."""
        wrong = self._wrong.get(name)
        return 0.0 if wrong is None else max(0.0, wrong.locked_until - now)

    def count(self, name: str, now: float) -> float:
        """One more wrong password for ``name``; for how many seconds that locks it."""
        wrong = self._wrong.get(name)
        if wrong is None or now - wrong.last > _FORGET_SECONDS:
            wrong = _Wrong()
        wrong.count += 1
        wrong.last = now
        seconds = 0.0
        if wrong.count >= self._after:
            doublings = min(wrong.count - self._after, 16)
            seconds = min(_LOCK_SECONDS * 2**doublings, _MAX_LOCK_SECONDS)
            wrong.locked_until = now + seconds
        self._wrong.put(name, wrong)
        return seconds

    def forget(self, name: str, now: float) -> bool:
        """Begin anew with ``name``; whether it was locked."""
        wrong = self._wrong.forget(name)
        return wrong is not None and wrong.locked_until > now


class Passwords:
    """Verifies passwords, and hashes new ones."""

    def __init__(
        self,
        accounts: AccountSettings,
        limits: LimitSettings,
        *,
        monotonic: Callable[[], float],
        hasher: Hasher | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._hasher = hasher or Hasher()
        self._lockouts = Lockouts(accounts.lockout_after)
        per_minute = limits.login_per_minute
        self._by_address = TokenBuckets(per_minute, per_minute)
        self._by_name = TokenBuckets(per_minute, per_minute)

    async def verify(
        self, clients: ClientStore, name: str, readings: Sequence[str], address: str, *, certified: bool
    ) -> ClientRecord | Deny:
        """The client of that name, if its password is one of ``readings``.

        ``certified``: whether the client's own certificate is there. CERTIFICATE_REQUIRED, where one is missing, is for
        the audit alone: whoever answers the caller says INVALID_CREDENTIALS.

        ``readings``: what was sent, once for each way in which it may be understood (RFC 6749 section 2.3.1 has
        passwords form-encoded in ``Authorization: Basic``, most clients send them as they are).
        """
        name = name[:_MAX_NAME]
        now = self._monotonic()
        wait = self._by_address.take(network_of(address), now) or self._by_name.take(name, now)
        if wait > 0:
            return _too_many("Too many attempts", wait, name)
        locked = self._lockouts.wait(name, now)
        if locked > 0:
            return _too_many("Too many wrong passwords for this name", locked, name)
        client = clients.get(name)
        stored = client.password_hash if client is not None and is_enabled(client) else None
        try:
            matched = await self._matches(readings, stored)
        except OverloadedError:
            return _too_many("Too many passwords are being checked", 1.0, name)
        return self._judge(clients, name, stored if matched else None, certified=certified)

    def _judge(
        self, clients: ClientStore, name: str, proven: str | None, *, certified: bool
    ) -> ClientRecord | Deny:
        """``proven``: the stored hash that the password matched. Hashing takes a while, so look again."""
        now = self._monotonic()
        locked = self._lockouts.wait(name, now)
        if locked > 0:  # by others meanwhile: guessing side by side must not get round the lock
            return _too_many("Too many wrong passwords for this name", locked, name)
        client = clients.get(name)
        if proven is None or client is None or not is_enabled(client) or client.password_hash != proven:
            self._count(name, client, now)
            return Deny(Reason.INVALID_CREDENTIALS, _WRONG, client_id=name)
        if client.require_certificate and not certified:
            self._count(name, client, now)
            return Deny(Reason.CERTIFICATE_REQUIRED, _WRONG, client_id=name)
        self._lockouts.forget(name, now)
        return client

    def _count(self, name: str, client: ClientRecord | None, now: float) -> None:
        """A wrong password; an alarm where it locks somebody. (A name that nobody has could be a password.)"""
        seconds = self._lockouts.count(name, now)
        if seconds and client is not None:
            log.warning(
                "too many wrong passwords for client %s: locked for %.0f s; `ostiary clients unlock` ends it",
                client.client_id,
                seconds,
            )

    async def _matches(self, readings: Sequence[str], stored: str | None) -> bool:
        for reading in readings:
            password = _as_bytes(reading)
            if await self._hasher.matches(password, stored if password else None):
                return True
        return False

    def throttle(self, address: str) -> Deny | None:
        """Count an attempt to register from that address; the refusal where it is one too many."""
        wait = self._by_address.take(network_of(address), self._monotonic())
        return _too_many("Too many attempts", wait, "") if wait > 0 else None

    async def is_one_of(self, password: str, stored: Sequence[str]) -> bool:
        """Whether it is the password of one of these hashes. Raises Refused where too many wait."""
        encoded = _as_bytes(password)
        try:
            for each in stored:
                if encoded and await self._hasher.matches(encoded, each):
                    return True
        except OverloadedError:
            raise Refused(_too_many("Too many passwords are being checked", 1.0, "")) from None
        return False

    async def hash_password(self, password: str, name: str = "") -> str:
        """What is stored for a new password. Raises ValueError with the rules that it breaks, or where too many wait."""
        good = require_good_password(password, name)
        try:
            return await self._hasher.hash(good)
        except OverloadedError:
            raise ValueError("too many passwords are being hashed now; try again") from None

    def unlock(self, name: str) -> bool:
        """End the lock-out of ``name``; whether there was one."""
        return self._lockouts.forget(name, self._monotonic())

    async def close(self) -> None:
        """End the threads."""
        await self._hasher.close()


def _as_bytes(password: str) -> bytes:
    """UTF-8; empty for what can be nobody's password: too long, or not text."""
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        return b""
    return encoded if len(encoded) <= MAX_PASSWORD_BYTES else b""


def _too_many(what: str, wait: float, name: str) -> Deny:
    return Deny(
        Reason.RATE_LIMITED, f"{what}: wait {max(1, round(wait))} s.", retry_after=wait, client_id=name
    )
