"""Clients as accounts: whether one may be used, and its password, guarded against guessing.

The rules of guarding, in the order in which they are applied:

- Who is locked out waits (``lockouts``).
- Attempts are counted by address and by name before anything is hashed (``[limits] login_per_minute``).
- A name that is unknown, disabled or has no password costs the same work and gets the same answer as a wrong password.
  So does the right password of a client that requires its certificate, where that is not there; it counts as wrong, too,
  or guessing without the certificate would tell.
- Hashing runs in two threads with a bounded queue: over it, an attempt is refused, and the event loop never waits.
- A hash of a lower cost than ``[accounts] bcrypt_cost`` gets the difference in work when it is compared, so that its time
  tells nothing, and is made anew when its password was right.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, TypeVar

import bcrypt
import msgspec

from gateway.config.values import AccountSettings, LimitSettings
from gateway.identity.common_passwords import is_common, is_name
from gateway.identity.lockouts import Attempt, Lockouts
from gateway.limits import TokenBuckets, network_of
from gateway.model import Deny, Inbound, Reason, Refused
from persistence.protocols import ClientStore
from persistence.records import ClientRecord, StoreError

ROUNDS: Final = 12
"""bcrypt's least cost, and the usual one: 2**12 rounds."""
_LEAST: Final = 4
"""The least cost that bcrypt knows."""
SCHEME: Final = "hmac-sha256-v1"
"""Stands before bcrypt's own string in a stored hash: what was done to the password before bcrypt saw it."""
MAX_PASSWORD_BYTES: Final = 1024
"""What is looked at; rules for new passwords are ``password_problems``."""
SHORTEST: Final = 8
LONGEST: Final = 128
HISTORY: Final = 5
"""So many passwords, the present one among them, that a new one must differ from."""
_WRONG: Final = "The name or the password is wrong, or a certificate is missing that the client needs."

_LABEL: Final = b"ostiary password pre-hash v1"
# A salt and a digest that nobody knows the password of.
_NOBODY: Final = "uq1fZ8WmT3oVb7cYd0LhXe" + "Kp5sR9tGj2nHv6xQw4yBaE1iUzM8dCf"

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


def claimed(clients: ClientStore, name: str) -> str | None:
    """The name that somebody gave, for the audit; None: nobody has it, and it may be a password in the wrong field."""
    unknown = clients.get(name[:_MAX_NAME]) is None
    return None if unknown and not password_problems(name, "") else name[:_MAX_NAME]


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
    if name and is_name(password, name):
        problems.append("the password must not be the name")
    return problems


def require_good_password(password: str, name: str = "") -> bytes:
    """The password as bytes. Raises ValueError with every rule that it breaks."""
    prepared = _prepared(password)
    problems = password_problems(prepared, name)
    if problems:
        raise ValueError("; ".join(problems))
    return prepared.encode()


def _prepared(password: str) -> str:
    """As an OpaqueString (RFC 8265 section 4.2.2): keyboards and systems write the same characters in several ways."""
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in password)
    return unicodedata.normalize("NFC", spaced)


def _hash(password: bytes, rounds: int) -> str:
    return SCHEME + bcrypt.hashpw(_shortened(password), bcrypt.gensalt(rounds)).decode("ascii")


def _matches(password: bytes, stored: str, rounds: int) -> bool:
    """Whether it is the password; the work is that of 2**rounds, however few the stored hash has."""
    shortened = _shortened(password)
    for missing in range(max(_cost(stored), _LEAST), rounds):
        bcrypt.checkpw(shortened, _nobody(missing).encode())
    return bcrypt.checkpw(shortened, stored.encode())


def _nobody(rounds: int) -> str:
    return f"$2b${rounds:02d}${_NOBODY}"


def _cost(stored: str) -> int:
    """Bcrypt's cost of a stored hash, with its scheme or without."""
    cost = stored.partition("$")[2].split("$")[1:2]
    return int(cost[0]) if cost and cost[0].isdecimal() else 0


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

    async def hash_new(self, password: str, name: str, earlier: Sequence[str]) -> str:
        """What is stored for a new password of ``name``, whose present and former hashes are ``earlier``.

        Raises ValueError with the rules that it breaks, and OverloadedError.
        """
        good = require_good_password(password, name)
        for each in earlier:
            if await self.matches(good, each):
                raise ValueError(f"the password must not be one of the last {HISTORY}")
        return await self.hash(good)

    async def matches(self, password: bytes, stored: str | None) -> bool:
        """Whether ``password`` is the stored one. Costs the same where there is none. Raises OverloadedError."""
        scheme, dollar, rest = (stored or "").partition("$")
        known = scheme == SCHEME and bool(dollar)
        against = f"${rest}" if known else _nobody(self._rounds)
        matched = await self._run(lambda: _matches(password, against, self._rounds))
        return matched and known

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash of today would cost more."""
        return _cost(stored) < self._rounds

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


class Passwords:
    """Verifies passwords, and hashes new ones."""

    def __init__(
        self,
        accounts: AccountSettings,
        limits: LimitSettings,
        *,
        lockouts: Lockouts,
        turn: asyncio.Lock,
        monotonic: Callable[[], float],
        hasher: Hasher | None = None,
    ) -> None:
        """``turn``: held while a client is changed, whoever does it."""
        self._turn = turn
        self._monotonic = monotonic
        self.hasher = hasher or Hasher(rounds=accounts.bcrypt_cost)
        self._lockouts = lockouts
        per_minute = limits.login_per_minute
        self._by_address = TokenBuckets(per_minute, per_minute)
        self._by_account = TokenBuckets(per_minute, per_minute)

    async def verify(
        self, clients: ClientStore, name: str, readings: Sequence[str], inbound: Inbound, *, certified: bool
    ) -> ClientRecord | Deny:
        """The client of that name, if its password is one of ``readings``.

        ``certified``: whether the client's own certificate is there. CERTIFICATE_REQUIRED, where one is missing, is for
        the audit alone: whoever answers the caller says INVALID_CREDENTIALS.

        ``readings``: what was sent, once for each way in which it may be understood (RFC 6749 section 2.3.1 has
        passwords form-encoded in ``Authorization: Basic``, most clients send them as they are).
        """
        answer = await self._verify(clients, name[:_MAX_NAME], readings, inbound, certified=certified)
        return replace(answer, client_id=claimed(clients, name)) if isinstance(answer, Deny) else answer

    async def _verify(
        self, clients: ClientStore, name: str, readings: Sequence[str], inbound: Inbound, *, certified: bool
    ) -> ClientRecord | Deny:
        attempt = self._lockouts.of_password(name, inbound, certified=certified)
        # An attempt while locked out counts for the address, but takes nothing of what the account's owner may try.
        refusal = self._limited(self._by_address, network_of(inbound.address), name)
        refusal = refusal or self._locked(attempt)
        refusal = refusal or self._limited(self._by_account, attempt.account, name)
        if refusal is not None:
            return refusal
        try:
            proven = await self._proven(clients, name, readings)
        except OverloadedError:
            return _too_many("Too many passwords are being checked", 1.0, name)
        judged = self._judge(clients, attempt, proven, certified=certified)
        if isinstance(judged, Deny) or proven is None or not self.hasher.is_outdated(proven[1]):
            return judged
        return await self._upgraded(clients, judged, proven[0])

    def _locked(self, attempt: Attempt) -> Deny | None:
        wait = self._lockouts.wait(attempt)
        return _too_many("Too many wrong passwords", wait, attempt.name) if wait > 0 else None

    def _limited(self, buckets: TokenBuckets, key: str, name: str) -> Deny | None:
        wait = buckets.take(key, self._monotonic())
        return _too_many("Too many attempts", wait, name) if wait > 0 else None

    async def _proven(
        self, clients: ClientStore, name: str, readings: Sequence[str]
    ) -> tuple[bytes, str] | None:
        """The password, and the stored hash that it matched. Raises OverloadedError."""
        stored = _stored_hash(clients, name)
        matched = await self._matching(readings, stored)
        now_stored = _stored_hash(clients, name)
        if matched is not None and now_stored != stored:  # it was changed meanwhile, perhaps hashed anew
            matched, stored = await self._matching(readings, now_stored), now_stored
        return None if matched is None or stored is None else (matched, stored)

    def _judge(
        self, clients: ClientStore, attempt: Attempt, proven: tuple[bytes, str] | None, *, certified: bool
    ) -> ClientRecord | Deny:
        """Hashing takes a while, so look again: guessing side by side must not get round a lock-out."""
        locked = self._locked(attempt)
        if locked is not None:
            return locked
        name, client = attempt.name, clients.get(attempt.name)
        if proven is None or client is None or not is_enabled(client) or client.password_hash != proven[1]:
            self._lockouts.wrong(attempt, client)
            return Deny(Reason.INVALID_CREDENTIALS, _WRONG, client_id=name)
        if client.require_certificate and not certified:
            self._lockouts.wrong(attempt, client)
            return Deny(Reason.CERTIFICATE_REQUIRED, _WRONG, client_id=name)
        self._lockouts.right(attempt, client)
        return client

    async def _upgraded(
        self, clients: ClientStore, client: ClientRecord, password: bytes
    ) -> ClientRecord | Deny:
        """The client with a hash of today's cost; where that cannot be made now, as it was."""
        try:
            password_hash = await self.hasher.hash(password)
        except OverloadedError:
            return client
        async with self._turn:
            present = clients.get(client.client_id)
            if present is None or not is_enabled(present):
                return Deny(Reason.INVALID_CREDENTIALS, _WRONG, client_id=client.client_id)
            if present.password_hash != client.password_hash:
                return await self._still(present, password)
            upgraded = msgspec.structs.replace(present, password_hash=password_hash)
            try:
                await clients.put(upgraded)
            except StoreError:
                return present  # signing in will say so
        return upgraded

    async def _still(self, present: ClientRecord, password: bytes) -> ClientRecord | Deny:
        """The client, if that is its password still: another may have made its hash anew, or have changed it."""
        with contextlib.suppress(OverloadedError):
            if await self.hasher.matches(password, present.password_hash):
                return present
        return Deny(Reason.INVALID_CREDENTIALS, _WRONG, client_id=present.client_id)

    async def _matching(self, readings: Sequence[str], stored: str | None) -> bytes | None:
        """The reading that is the password."""
        for reading in readings:
            password = _as_bytes(reading)
            if await self.hasher.matches(password, stored if password else None):
                return password
        return None

    def throttle(self, address: str) -> Deny | None:
        """Count an attempt to register from that address; the refusal where it is one too many."""
        return self._limited(self._by_address, network_of(address), "")

    async def hash_new(self, password: str, name: str, earlier: Sequence[str] = ()) -> str:
        """As the hasher's. Raises ValueError, and Refused where too many wait."""
        try:
            return await self.hasher.hash_new(password, name, earlier)
        except OverloadedError:
            raise Refused(_too_many("Too many passwords are being hashed", 1.0, name)) from None

    async def close(self) -> None:
        """End the threads."""
        await self.hasher.close()


def _stored_hash(clients: ClientStore, name: str) -> str | None:
    client = clients.get(name)
    return client.password_hash if client is not None and is_enabled(client) else None


def _as_bytes(password: str) -> bytes:
    """UTF-8; empty for what can be nobody's password: too long, or not text."""
    if len(password) > MAX_PASSWORD_BYTES:
        return b""
    try:
        encoded = _prepared(password).encode()
    except UnicodeEncodeError:
        return b""
    return encoded if len(encoded) <= MAX_PASSWORD_BYTES else b""


def _too_many(what: str, wait: float, name: str) -> Deny:
    return Deny(
        Reason.RATE_LIMITED, f"{what}: wait {max(1, round(wait))} s.", retry_after=wait, client_id=name
    )
