"""Making an account of one's own, where the configuration lets people do so.

The invitation is looked at before the name, so that who has none learns nothing of names. In the open mode a name that is
taken is said to be taken: whoever may choose a name must be told, and could find out by signing in anyway; attempts are
limited for each address, as those to sign in. An account gets no role unless its invitation names some, and no certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.clock import rfc3339
from gateway.config.values import Register
from gateway.identity.clients import Passwords
from gateway.identity.profiles import is_email
from gateway.identity.tenants import Tenants
from gateway.model import Deny, Reason
from persistence.account_records import InvitationRecord
from persistence.large import in_turns
from persistence.protocols import ClientStore, Stores
from persistence.records import DEFAULT_TENANT, INVITATIONS, TENANTS, ClientRecord


@dataclass(frozen=True, slots=True)
class Application:
    """What somebody who registers says. Its repr shows nothing."""

    username: str
    password: str
    email: str | None
    invitation: str | None
    tenant_id: str | None = None
    """The tenant that the request was for, where it said so."""

    def __repr__(self) -> str:
        return "Application(…)"


class Registration:
    """Makes accounts."""

    def __init__(
        self,
        stores: Stores,
        known: ClientStore,
        passwords: Passwords,
        mode: Register,
        *,
        turn: asyncio.Lock,
        now: Callable[[], float],
    ) -> None:
        self._clients = stores.clients
        self._known = known
        self._invitations = stores.collection(INVITATIONS)
        self._tenants = Tenants(stores.collection(TENANTS))
        self._passwords = passwords
        self._mode = mode
        self._turn = turn
        self._now = now

    async def register(
        self, wanted: Application, address: str, recorded: Callable[[ClientRecord], Awaitable[None]]
    ) -> ClientRecord | Deny:
        """The new account. ``recorded`` is called before it is made. ``username`` is a well-formed name.

        Raises StoreError.
        """
        if self._mode is Register.OFF:
            return _CLOSED
        limited = self._passwords.throttle(address)
        if limited is not None:
            return limited
        if wanted.invitation is None and self._mode is Register.INVITATION:
            return Deny(Reason.REGISTRATION_CLOSED, "An invitation is needed: ask an administrator.")
        if wanted.invitation is not None and self._invitation(wanted.invitation) is None:
            return _INVITATION_REFUSED
        if wanted.invitation is None and not self._tenants.is_enabled(DEFAULT_TENANT):
            return _CLOSED
        if wanted.email is not None and not is_email(wanted.email):
            return Deny(Reason.BAD_REQUEST, "That is no e-mail address.")
        try:
            password_hash = await self._passwords.hash_new(wanted.password, wanted.username)
        except ValueError as error:
            return Deny(Reason.PASSWORD_REJECTED, f"The password cannot be used: {error}.")
        async with self._turn:
            return await self._make(wanted, password_hash, recorded)

    async def _make(
        self, wanted: Application, password_hash: str, recorded: Callable[[ClientRecord], Awaitable[None]]
    ) -> ClientRecord | Deny:
        invitation = None if wanted.invitation is None else self._invitation(wanted.invitation)
        if wanted.invitation is not None and invitation is None:
            return _INVITATION_REFUSED
        if invitation is None and not self._tenants.is_enabled(DEFAULT_TENANT):
            return _CLOSED
        tenant_id = DEFAULT_TENANT if invitation is None else invitation.tenant_id
        if wanted.tenant_id not in {None, tenant_id}:
            return Deny(Reason.TENANT_MISMATCH, "X-Tenant-ID names another tenant: leave it out.")
        if await self._is_taken(wanted.username):
            return Deny(Reason.CONFLICT, "The name is taken: choose another.")
        moment = rfc3339(self._now())
        client = ClientRecord(
            client_id=wanted.username,
            tenant_id=tenant_id,
            username=wanted.username,
            user_id=str(uuid.uuid4()),
            password_hash=password_hash,
            roles=() if invitation is None else invitation.roles,
            certificate=None,
            email=wanted.email,
            created_at=moment,
            updated_at=moment,
        )
        await recorded(client)
        if invitation is not None:
            used = msgspec.structs.replace(invitation, used_at=moment, client_id=client.client_id)
            await self._invitations.put(used)
        await self._clients.put(client)
        return client

    async def _is_taken(self, name: str) -> bool:
        """Whether somebody has that name, or one that differs by case alone: nobody takes themselves for another."""
        if self._known.get(name) is not None:
            return True
        folded = name.casefold()
        return any([client.client_id.casefold() == folded async for client in in_turns(self._clients)])

    def _invitation(self, code: str) -> InvitationRecord | None:
        """The invitation of that code, if it is good now, and so is its tenant."""
        found = self._invitations.where("code_hash", code_digest(code))
        now, enabled = self._now(), self._tenants.is_enabled
        good = (e for e in found if e.used_at is None and e.exp > now and enabled(e.tenant_id))
        return next(good, None)


def code_digest(code: str) -> str:
    """What is kept of an invitation's code."""
    return hashlib.sha256(code.strip().encode()).hexdigest()


_CLOSED: Final = Deny(Reason.REGISTRATION_CLOSED, "Nobody registers here: ask an administrator.")
_INVITATION_REFUSED: Final = Deny(
    Reason.REGISTRATION_CLOSED, "The invitation is not good, was used, or has expired: ask for a new one."
)
