"""What an account says of its person: names, and an e-mail address that is proven by a code.

The code is made for an administrator, who sends or hands it to that address; it is good once, for a day, for five tries.
Another address is unproven again, and ends a code that is out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.clock import rfc3339
from gateway.model import Deny, Reason
from persistence.account_records import ProfileRecord
from persistence.protocols import Stores
from persistence.records import PROFILES, ClientRecord

CODE_SECONDS: Final = 86_400
MAX_WRONG: Final = 5
MAX_NAME: Final = 100
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_EMAIL: Final = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,189}")

Text = str | None | UnsetType
"""UNSET: it stays; None: there is none any more."""


class ProfileChange(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be otherwise. Its repr shows nothing."""

    given_name: Text = UNSET
    family_name: Text = UNSET
    email: Text = UNSET
    email_verified: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return "ProfileChange(…)"

    @property
    def said(self) -> str:
        """What is changed, by name: the values are nobody's business."""
        return " ".join(name for name in self.__struct_fields__ if getattr(self, name) is not UNSET)

    def check(self) -> None:
        """Raises ValueError where it can never be."""
        for name in (self.given_name, self.family_name):
            if isinstance(name, str) and not (1 <= len(name) <= MAX_NAME and name.isprintable()):
                raise ValueError(f"a name has 1 to {MAX_NAME} printable characters; null removes it")
        if isinstance(self.email, str) and not is_email(self.email):
            raise ValueError("that is no e-mail address; write name@example.org")


def is_email(text: str) -> bool:
    """Whether it looks like an e-mail address; only a code proves it."""
    return _EMAIL.fullmatch(text) is not None and text.isprintable()


class Profiles:
    """The profiles of one gateway's accounts."""

    def __init__(self, stores: Stores, *, now: Callable[[], float]) -> None:
        self._clients = stores.clients
        self._profiles = stores.collection(PROFILES)
        self._now = now

    def shown(self, client: ClientRecord) -> dict[str, Any]:
        """Names, and whether the e-mail address is proven."""
        profile = self._profiles.get(client.client_id)
        return {
            "given_name": None if profile is None else profile.given_name,
            "family_name": None if profile is None else profile.family_name,
            "email_verified": self.is_verified(client),
        }

    def is_verified(self, client: ClientRecord) -> bool:
        """Whether the client's address was proven to be its own."""
        profile = self._profiles.get(client.client_id)
        return profile is not None and client.email is not None and profile.verified_email == client.email

    async def change(self, client: ClientRecord, wanted: ProfileChange) -> ClientRecord:
        """The client with the change, stored. The caller holds the turn, and has entered it. Raises StoreError."""
        profile = self._profile(client)
        email = client.email if isinstance(wanted.email, UnsetType) else wanted.email
        if email != client.email:
            profile = _unproven(profile)
        if wanted.email_verified is False:
            profile = _unproven(profile)
        elif wanted.email_verified is True:
            profile = self._proven(profile, email)
        names = {
            name: value
            for name, value in (("given_name", wanted.given_name), ("family_name", wanted.family_name))
            if value is not UNSET
        }
        await self._profiles.put(msgspec.structs.replace(profile, **names))
        if email == client.email:
            return client
        changed = msgspec.structs.replace(client, email=email, updated_at=rfc3339(self._now()))
        await self._clients.put(changed)
        return changed

    async def new_code(self, client: ClientRecord) -> tuple[str, int]:
        """A code that proves the client's address, in place of an earlier one, and when it expires. Raises StoreError."""
        text = "".join(secrets.choice(_ALPHABET) for _ in range(8))
        exp = int(self._now()) + CODE_SECONDS
        await self._profiles.put(
            msgspec.structs.replace(
                self._profile(client),
                code_hash=_digest(text),
                code_email=client.email,
                code_exp=exp,
                code_wrong=0,
            )
        )
        return f"{text[:4]}-{text[4:]}", exp

    async def verify(
        self, client: ClientRecord, code: str, recorded: Callable[[], Awaitable[None]]
    ) -> Deny | None:
        """Prove the address by the code; None: it is proven. The caller holds the turn. Raises StoreError.

        ``recorded`` is awaited once it is sure that it will be done, before it is.
        """
        profile = self._profile(client)
        good = (
            profile.code_hash is not None
            and profile.code_email == client.email
            and profile.code_exp > self._now()
        )
        if not good or profile.code_hash is None:
            return _refused(client, "There is no code out for your address: ask an administrator for one.")
        if not hmac.compare_digest(profile.code_hash, _digest(code)):
            wrong = msgspec.structs.replace(profile, code_wrong=profile.code_wrong + 1)
            await self._profiles.put(_without_code(wrong) if wrong.code_wrong >= MAX_WRONG else wrong)
            return _refused(client, "The code is wrong.")
        await recorded()
        await self._profiles.put(self._proven(profile, client.email))
        return None

    def _profile(self, client: ClientRecord) -> ProfileRecord:
        profile = self._profiles.get(client.client_id)
        return profile or ProfileRecord(client_id=client.client_id, tenant_id=client.tenant_id)

    def _proven(self, profile: ProfileRecord, email: str | None) -> ProfileRecord:
        moment = None if email is None else rfc3339(self._now())
        return msgspec.structs.replace(_without_code(profile), verified_email=email, email_verified_at=moment)


def _unproven(profile: ProfileRecord) -> ProfileRecord:
    return msgspec.structs.replace(_without_code(profile), verified_email=None, email_verified_at=None)


def _without_code(profile: ProfileRecord) -> ProfileRecord:
    return msgspec.structs.replace(profile, code_hash=None, code_email=None, code_exp=0, code_wrong=0)


def _digest(code: str) -> str:
    normal = "".join(code.lower().replace("-", "").split())
    return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()


def _refused(client: ClientRecord, detail: str) -> Deny:
    return Deny(Reason.EMAIL_CODE_INVALID, detail, client_id=client.client_id)
