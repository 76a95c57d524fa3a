"""An account beside its credentials: the password and its history, and what it says of its person."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.clock import rfc3339
from gateway.identity.clients import HISTORY, Passwords, is_enabled
from gateway.identity.profiles import ProfileChange, Profiles
from gateway.identity.second_factors import EnabledFactor, enabled_factor
from gateway.model import Deny, Reason, Refused
from persistence.account_records import PasswordHistory
from persistence.protocols import ClientStore, Stores
from persistence.records import PASSWORD_HISTORIES, ClientRecord

Recorded = Callable[[ClientRecord], Awaitable[None]]
"""Enters in the audit what is about to be done to the client. What it raises, keeps it from being done."""


class Accounts:
    """The accounts of one gateway. Changes of a client run one after the other, with those of the administration."""

    def __init__(
        self,
        stores: Stores,
        known: ClientStore,
        passwords: Passwords,
        *,
        turn: asyncio.Lock,
        now: Callable[[], float],
    ) -> None:
        """``known``: the clients as their tenants let them be known."""
        self._stores = stores
        self._clients = stores.clients
        self._known = known
        self._profiles = Profiles(stores, now=now)
        self._passwords = passwords
        self._turn = turn
        self._now = now

    @property
    def healthy(self) -> bool:
        """Whether accounts can be used: the store takes writes."""
        return self._stores.healthy

    def client(self, client_id: str) -> ClientRecord:
        """The client of a caller that was just admitted. Raises Refused where it is gone."""
        return _still_there(self._known.get(client_id), client_id)

    def profile(self, client: ClientRecord) -> dict[str, Any]:
        """Names, and whether the e-mail address is proven."""
        return self._profiles.shown(client)

    def second_factor(self, client_id: str) -> EnabledFactor | None:
        """The one that is on; None: there is none."""
        return enabled_factor(self._stores, client_id)

    async def change_profile(self, client_id: str, wanted: ProfileChange, recorded: Recorded) -> None:
        """Change what is in ``wanted``. Raises StoreError, and Refused where the client is gone."""
        async with self._turn:
            client = self._present(client_id)
            await recorded(client)
            await self._profiles.change(client, wanted)

    async def verify_email(self, client_id: str, code: str, recorded: Recorded) -> Deny | None:
        """Prove the address by the code; the refusal where it is not good. Raises as ``change_profile`` does."""
        async with self._turn:
            client = self._present(client_id)
            return await self._profiles.verify(client, code, lambda: recorded(client))

    def _present(self, client_id: str) -> ClientRecord:
        return _still_there(self._clients.get(client_id), client_id)

    async def change_password(self, proven: ClientRecord, password: str, recorded: Recorded) -> Deny | None:
        """Give the client a new password; the refusal where it must not be that one. Raises StoreError, Refused.

        ``proven``: the client as it was when the present password was checked. Where that is another one by now (it was
        reset, or changed beside this), nothing is done. ``recorded`` is called once it is sure that it will be done,
        before it is.
        """
        client_id = proven.client_id
        try:
            earlier = password_hashes(self._stores, proven)
            password_hash = await self._passwords.hash_new(password, client_id, earlier)
        except ValueError as error:
            detail = f"The password cannot be used: {error}."
            return Deny(Reason.PASSWORD_REJECTED, detail, client_id=client_id)
        async with self._turn:
            present = self._known.get(client_id)
            if present is None or not is_enabled(present):
                return Deny(Reason.CLIENT_DISABLED, "This client is disabled.", client_id=client_id)
            if present.password_hash != proven.password_hash:
                detail = "The password was changed meanwhile: sign in with the new one."
                return Deny(Reason.CONFLICT, detail, client_id=client_id)
            present = self._present(client_id)
            await recorded(present)
            await remember_password(self._stores, present)
            changed = msgspec.structs.replace(
                present, password_hash=password_hash, updated_at=rfc3339(self._now())
            )
            await self._clients.put(changed)
        return None


def _still_there(client: ClientRecord | None, client_id: str) -> ClientRecord:
    if client is None or client.erased_at is not None:
        raise Refused(Deny(Reason.CLIENT_UNKNOWN, "There is no such client any more.", client_id=client_id))
    return client


async def remember_password(stores: Stores, client: ClientRecord) -> None:
    """Put the present password into the history, before it is replaced. Raises StoreError."""
    if client.password_hash is None:
        return
    hashes = password_hashes(stores, client)[: HISTORY - 1]
    histories = stores.collection(PASSWORD_HISTORIES)
    await histories.put(PasswordHistory(client_id=client.client_id, hashes=hashes))


def password_hashes(stores: Stores, client: ClientRecord) -> tuple[str, ...]:
    """Those that are remembered of a client, the present one first."""
    history = stores.collection(PASSWORD_HISTORIES).get(client.client_id)
    earlier = () if history is None else history.hashes
    return tuple(dict.fromkeys(each for each in (client.password_hash, *earlier) if each is not None))
