"""What ``/admin/api/…`` answers, for ``/openapi.json``: made from the records that the operations show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import fields

from gateway.identity.second_factors import EnabledFactor
from persistence.account_records import ApiKeyRecord, InvitationRecord, LockoutRecord, SessionRecord
from persistence.records import ClientRecord, RoleRecord, TenantRecord, TokenRecord

_Hidden = frozenset[str]


def _shown(
    name: str, record: type[msgspec.Struct], hidden: _Hidden = frozenset(), **more: Any
) -> type[msgspec.Struct]:
    """The record without what is hidden, and with what is said besides. Every member is in every answer."""
    members: list[tuple[str, Any]] = [(f.name, f.type) for f in fields(record) if f.name not in hidden]
    return msgspec.defstruct(name, [*members, *more.items()], kw_only=True, frozen=True)


@dataclass(frozen=True, slots=True)
class Shown:
    """What is answered for one thing, and for a page of them."""

    one: type[msgspec.Struct]
    page: type[msgspec.Struct]
    added: type[msgspec.Struct]
    """For one that was just made: with its secret, where it has one."""


def _listed(noun: str, one: type[msgspec.Struct], added: type[msgspec.Struct] | None = None) -> Shown:
    cursor = int | None if noun == "tokens" else str | None
    members: list[tuple[str, Any]] = [(noun, list[one]), ("next_cursor", cursor)]  # type: ignore[valid-type]
    name = f"PageOf{noun.title().replace('_', '')}"
    return Shown(one, msgspec.defstruct(name, members, kw_only=True, frozen=True), added or one)


_CLIENT: Final = _shown(
    "Client",
    ClientRecord,
    frozenset({"password_hash"}),
    has_password=bool,
    mfa=EnabledFactor | None,
    given_name=str | None,
    family_name=str | None,
    email_verified=bool,
)
_TENANT: Final = _shown("Tenant", TenantRecord, disabled=bool)
_ROLE: Final = _shown(
    "Role",
    RoleRecord,
    frozenset({"created_at", "updated_at"}),
    created_at=str | None,
    updated_at=str | None,
    source=str,
)
_TOKEN: Final = _shown("Token", TokenRecord)
_SESSION: Final = _shown(
    "Session",
    SessionRecord,
    frozenset({"refresh_id", "parent_id", "rotated_at", "exp", "certificate_thumbprint", "second_factor"}),
    certificate=str | None,
)
_LOCKOUT: Final = _shown("Lockout", LockoutRecord)
_KEY_HIDDEN: Final = frozenset({"key_hash", "user_id", "exp"})
_API_KEY: Final = _shown("ClientApiKey", ApiKeyRecord, _KEY_HIDDEN, expires_at=str | None)
_NEW_API_KEY: Final = _shown("NewClientApiKey", ApiKeyRecord, _KEY_HIDDEN, expires_at=str | None, api_key=str)
_INVITATION_HIDDEN: Final = frozenset({"code_hash", "exp"})
_INVITATION: Final = _shown("Invitation", InvitationRecord, _INVITATION_HIDDEN, expires_at=str)
_NEW_INVITATION: Final = _shown(
    "NewInvitation", InvitationRecord, _INVITATION_HIDDEN, expires_at=str, code=str
)

CLIENTS: Final = _listed("clients", _CLIENT)
TENANTS: Final = _listed("tenants", _TENANT)
ROLES: Final = _listed("roles", _ROLE)
TOKENS: Final = _listed("tokens", _TOKEN)
SESSIONS: Final = _listed("sessions", _SESSION)
LOCKOUTS: Final = _listed("lockouts", _LOCKOUT)
API_KEYS: Final = _listed("api_keys", _API_KEY, _NEW_API_KEY)
INVITATIONS: Final = _listed("invitations", _INVITATION, _NEW_INVITATION)
