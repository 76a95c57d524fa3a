"""API keys: for machines that have neither a certificate nor a way to sign in.

A key is random, shown once, and stored as its SHA-256: 256 random bits need no slow hash. It stands for its client, within
its scopes, and on every use its client and expiry are looked at anew. It is its own strong credential: no second factor is
asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from gateway.clock import rfc3339
from gateway.identity.clients import refusal_of
from gateway.model import Deny, Reason
from gateway.remembered import Remembered
from persistence.account_records import ApiKeyRecord
from persistence.large import in_turns
from persistence.protocols import ClientStore, Collection
from persistence.records import ClientRecord, StoreError

USE_SECONDS: Final = 60.0
"""So often, at most, the use of a key is noted."""
MAX_KEYS: Final = 64
"""Of one client."""
DEFAULT_LIFETIME: Final = 90 * 86400.0
"""Seconds, where none is asked for."""
MAX_LIFETIME: Final = 3660 * 86400.0
DEFAULT_OVERLAP: Final = 86400.0
MAX_OVERLAP: Final = 30 * 86400.0
_KEY: Final = re.compile(r"osk_[0-9a-f]{8}_[A-Za-z0-9_-]{43}")
_MAX_NOTED: Final = 65_536

Recorded = Callable[[ApiKeyRecord], Awaitable[None]]
"""Enters in the audit that the key is about to be. What it raises, keeps it from being made."""


def granted(key: ApiKeyRecord) -> str:
    """What the key is for, as the audit says it. Its name, which may be a person's, is not in it."""
    until = "ever" if key.exp is None else f"until {rfc3339(key.exp)}"
    return f"{key.key_id}: {' '.join(key.scopes) or 'no scopes'}; {until}"


class ApiKeys:
    """All API keys of one gateway."""

    def __init__(
        self, store: Collection[ApiKeyRecord], clients: ClientStore, *, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._clients = clients
        self._now = now
        self._noted: Remembered[str, float] = Remembered(_MAX_NOTED)
        self._turn = asyncio.Lock()
        """Held while keys are made, rotated or removed: what was looked at before is so still."""
        self._changing: set[str] = set()
        """Keys of which a change is on its way to the disk: a use that is noted now would undo it."""

    def verify(self, text: str) -> tuple[ApiKeyRecord, ClientRecord] | Deny:
        """The key and its client, if it is good now."""
        if not _KEY.fullmatch(text):
            return Deny(Reason.API_KEY_UNKNOWN, "That is no API key: they begin with osk_.")
        found = self._store.where("key_hash", _digest(text))
        if not found:
            return Deny(Reason.API_KEY_UNKNOWN, "This gateway does not know the API key: make a new one.")
        key = found[0]
        if key.exp is not None and key.exp <= self._now():
            detail = "The API key has expired: make a new one."
            return Deny(Reason.API_KEY_EXPIRED, detail, client_id=key.client_id)
        client = self._clients.get(key.client_id)
        refusal = refusal_of(client, key.client_id)
        if refusal is not None or client is None or client.user_id != key.user_id:
            detail = "The API key is of an earlier client of that name."
            return refusal or Deny(Reason.CLIENT_UNKNOWN, detail, client_id=key.client_id)
        self._note(key)
        return key, client

    def is_current(self, key_id: str) -> bool:
        """Whether a key that was good before still is."""
        key = self._store.get(key_id)
        return key is not None and (key.exp is None or key.exp > self._now())

    def of_client(self, client_id: str) -> Sequence[ApiKeyRecord]:
        """Every key of that client that has not expired, in the order in which they were made."""
        found = self._store.where("client_id", client_id)
        return [key for key in found if key.exp is None or key.exp > self._now()]

    def get(self, client_id: str, key_id: str) -> ApiKeyRecord | None:
        """That key, if it is that client's."""
        key = self._store.get(key_id)
        return key if key is not None and key.client_id == client_id else None

    async def make(
        self,
        client: ClientRecord,
        name: str,
        scopes: tuple[str, ...],
        lifetime: float,
        recorded: Recorded,
    ) -> tuple[str, ApiKeyRecord] | Deny:
        """A new key and its record. ``lifetime``: seconds. Raises StoreError."""
        async with self._turn:
            if len(self.of_client(client.client_id)) >= MAX_KEYS:
                return _too_many(client.client_id)
            text, record = self._new(client, name, scopes, int(self._now() + lifetime))
            await recorded(record)
            await self._store.put(record)
            return text, record

    async def rotate(
        self,
        client: ClientRecord,
        key_id: str,
        *,
        lifetime: float,
        overlap: float,
        recorded: Recorded,
    ) -> tuple[str, ApiKeyRecord] | Deny:
        """A key in place of that one, which is good for ``overlap`` seconds more at most. Raises StoreError.

        Expired keys, and ones whose successor lives, are not rotated.
        """
        async with self._turn:
            refusal = self._unrotatable(client.client_id, key_id, overlap)
            if refusal is not None:
                return refusal
            self._changing.add(key_id)
            try:
                old, now = self.get(client.client_id, key_id), self._now()
                if old is None:
                    return unknown_key(client.client_id)
                text, record = self._new(client, old.name, old.scopes, int(now + lifetime))
                await recorded(record)
                ends = int(now + overlap) if old.exp is None else min(old.exp, int(now + overlap))
                ended = msgspec.structs.replace(old, exp=ends, successor_id=record.key_id)
                await self._store.put(record, ended)
            finally:
                self._changing.discard(key_id)
            return text, record

    def _unrotatable(self, client_id: str, key_id: str, overlap: float) -> Deny | None:
        """Why that key cannot be rotated, if it cannot."""
        old = self.get(client_id, key_id)
        if old is None or not self.is_current(key_id):
            return unknown_key(client_id)
        if old.successor_id is not None and self.is_current(old.successor_id):
            detail = "The key was rotated already: rotate the key that came of it."
            return Deny(Reason.CONFLICT, detail, client_id=client_id)
        # With an overlap there is one key more.
        full = len(self.of_client(client_id)) >= MAX_KEYS
        return _too_many(client_id) if full and overlap > 0 else None

    async def remove(self, key: ApiKeyRecord) -> None:
        """End a key. Raises StoreError."""
        async with self._turn:
            self._changing.add(key.key_id)
            try:
                await self._store.remove(key.key_id)
            finally:
                self._changing.discard(key.key_id)

    async def purge(self, at_most: int) -> None:
        """Forget keys that have expired, with turns for others while it looks. Raises StoreError."""
        gone = [
            key.key_id
            async for key in in_turns(self._store)
            if key.exp is not None and key.exp <= self._now()
        ]
        if gone:
            await self._store.remove(*gone[:at_most])

    def _new(
        self, client: ClientRecord, name: str, scopes: tuple[str, ...], exp: int
    ) -> tuple[str, ApiKeyRecord]:
        prefix = f"osk_{secrets.token_hex(4)}"
        text = f"{prefix}_{secrets.token_urlsafe(32)}"
        record = ApiKeyRecord(
            key_id=secrets.token_hex(8),
            key_hash=_digest(text),
            prefix=prefix,
            name=name,
            client_id=client.client_id,
            tenant_id=client.tenant_id,
            user_id=client.user_id,
            scopes=scopes,
            created_at=rfc3339(self._now()),
            exp=exp,
        )
        return text, record

    def _note(self, key: ApiKeyRecord) -> None:
        now = self._now()
        if key.key_id in self._changing or now < (self._noted.get(key.key_id) or 0.0):
            return
        self._noted.put(key.key_id, now + USE_SECONDS)
        try:
            self._store.put_soon(msgspec.structs.replace(key, last_used_at=rfc3339(now)))
        except StoreError:
            return  # whoever writes on behalf of the request says so


def unknown_key(client_id: str) -> Deny:
    """The client has no such key that is good now."""
    detail = "There is no such API key: GET /auth/api-keys lists yours."
    return Deny(Reason.API_KEY_NOT_FOUND, detail, client_id=client_id)


def _too_many(client_id: str) -> Deny:
    detail = f"A client has {MAX_KEYS} API keys at most: remove one first."
    return Deny(Reason.CONFLICT, detail, client_id=client_id)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
