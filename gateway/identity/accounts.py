"""An account beside its credentials: the password and its history, and what it says of its person."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from gateway.clock import rfc3339
from gateway.identity.clients import Passwords, is_enabled
from gateway.identity.profiles import ProfileChange, Profiles
from gateway.model import Deny, Reason
from persistence.account_records import PasswordHistory
from persistence.protocols import ClientStore, Stores
from persistence.records import PASSWORD_HISTORIES, ClientRecord

HISTORY: Final = 5
"""So many passwords, the present one among them, that a new one must differ from."""


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
        self._histories = stores.collection(PASSWORD_HISTORIES)
        self._profiles = Profiles(stores, now=now)
        self._passwords = passwords
        self._turn = turn
        self._now = now

    @property
    def healthy(self) -> bool:
        """Whether accounts can be used: the store takes writes."""
        return self._stores.healthy

    def client(self, client_id: str) -> ClientRecord:
        """The client of a caller that was just admitted. Raises LookupError where it is gone."""
        client = self._known.get(client_id)
        if client is None:
            raise LookupError(client_id)
        return client

    def profile(self, client: ClientRecord) -> dict[str, Any]:
        """Names, and whether the e-mail address is proven."""
        return self._profiles.shown(client)

    async def change_profile(self, client_id: str, wanted: ProfileChange, recorded: Recorded) -> None:
        """Change what is in ``wanted``. Raises StoreError, and LookupError where the client is gone."""
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
        client = self._clients.get(client_id)
        if client is None:
            raise LookupError(client_id)
        return client

    async def change_password(self, client_id: str, password: str, recorded: Recorded) -> Deny | None:
        """Give the client a new password; the refusal where it must not be that one. Raises StoreError.

        ``recorded`` is called once it is sure that it will be done, before it is.
        """
        client = self.client(client_id)
        history = self._histories.get(client_id)
        earlier = [client.password_hash, *(() if history is None else history.hashes)]
        if await self._passwords.is_one_of(password, [each for each in earlier if each is not None]):
            return _rejected(f"it is one of the last {HISTORY}: choose a new one", client_id)
        try:
            password_hash = await self._passwords.hash_password(password, client_id)
        except ValueError as error:
            return _rejected(str(error), client_id)
        async with self._turn:
            present = self._clients.get(client_id)
            if present is None or not is_enabled(self.client(client_id)):
                return Deny(Reason.CLIENT_DISABLED, "This client is disabled.", client_id=client_id)
            await recorded(present)
            await remember_password(self._stores, present)
            changed = msgspec.structs.replace(
                present, password_hash=password_hash, updated_at=rfc3339(self._now())
            )
            await self._clients.put(changed)
        return None


async def remember_password(stores: Stores, client: ClientRecord) -> None:
    """Put the present password into the history, before it is replaced. Raises StoreError."""
    if client.password_hash is None:
        return
    histories = stores.collection(PASSWORD_HISTORIES)
    history = histories.get(client.client_id)
    earlier = () if history is None else history.hashes
    hashes = tuple(dict.fromkeys((client.password_hash, *earlier)))[: HISTORY - 1]
    await histories.put(PasswordHistory(client_id=client.client_id, hashes=hashes))


def _rejected(why: str, client_id: str) -> Deny:
    return Deny(Reason.PASSWORD_REJECTED, f"The password cannot be used: {why}.", client_id=client_id)
