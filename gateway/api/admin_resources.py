"""What there is under ``/admin/api/``: the kinds of things, and the operations that see to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.admin_answers import (
    API_KEYS,
    CLIENTS,
    INVITATIONS,
    LOCKOUTS,
    ROLES,
    SESSIONS,
    TENANTS,
    TOKENS,
    Shown,
)
from gateway.operations.api_keys import AddApiKey
from gateway.operations.invitations import AddInvitation
from gateway.operations.parameters import MAX_PAGE, AddClient, Parameters
from gateway.operations.roles import SetRole
from gateway.operations.tenants import AddTenant


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Which page of a list."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    cursor: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    """``next_cursor`` of the page before."""


class PageOfClient(Page, frozen=True, kw_only=True):
    """Which page, of one client's alone where ``client_id`` names it."""

    client_id: str | UnsetType = UNSET


class ClientPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be otherwise about a client. ``roles`` and ``permissions`` take the place of those it has."""

    roles: tuple[str, ...] | UnsetType = UNSET
    permissions: tuple[str, ...] | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    password: str | UnsetType = UNSET
    certificate: str | UnsetType | None = UNSET
    """What its certificates yield; null: no certificate is accepted."""
    require_certificate: bool | UnsetType = UNSET
    given_name: str | UnsetType | None = UNSET
    family_name: str | UnsetType | None = UNSET
    email: str | UnsetType | None = UNSET
    """Another address is unverified, unless ``email_verified`` says otherwise."""
    email_verified: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return "ClientPatch(…)"


class TenantPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be otherwise about a tenant."""

    name: str | UnsetType = UNSET
    mfa_required: bool | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class KeyRotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the new key is good, and for how long the old one is good beside it: seconds, or text such as ``"30d"``."""

    expires_in: int | str | UnsetType = UNSET
    overlap: int | str | UnsetType = UNSET


class RolePatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a role is to grant."""

    permissions: tuple[str, ...]


_WORDS: Final = {"api-keys": "API keys", "lockouts": "lock-outs"}
"""What is called otherwise than in paths."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of thing under ``/admin/api/``, and the operations that see to it."""

    noun: str
    one: str
    """The member of an operation's answer that is the thing itself."""
    key: str
    """The parameter that names one."""
    shown: Shown
    list_query: type[Page] | None = Page
    add: tuple[str, type[Parameters]] | None = None
    change: tuple[str, type[msgspec.Struct]] | None = None
    remove: str | None = None
    removal: str = ""
    """What that does, in a sentence."""
    permission: str = ""
    """The noun of its permissions, where that is another one."""
    shown_once: str = ""
    """The member of the answer to adding one that is shown this once."""

    @property
    def area(self) -> str:
        """The noun of its permissions."""
        return self.permission or self.noun

    def operation(self, name: str) -> str:
        """The operation of that name on such things."""
        return f"{self.noun.replace('-', '_')}.{name}"

    @property
    def a_one(self) -> str:
        """One of them, with its article."""
        one = _WORDS.get(self.noun, self.noun)[:-1]
        return f"a{'n' if one[0] in 'aeiouA' else ''} {one}"

    @property
    def many(self) -> str:
        """All of them, in words."""
        return _WORDS.get(self.noun, self.noun)


RESOURCES: Final = (
    Resource(
        "clients",
        "client",
        "client_id",
        CLIENTS,
        add=("clients.add", AddClient),
        change=("clients.change", ClientPatch),
        remove="clients.erase",
        removal="Erases a client for good: what identifies it goes from everywhere.",
    ),
    Resource(
        "tenants",
        "tenant",
        "tenant_id",
        TENANTS,
        add=("tenants.add", AddTenant),
        change=("tenants.set", TenantPatch),
        remove="tenants.remove",
        removal="Removes a tenant that has no clients, roles or open invitations.",
    ),
    Resource(
        "roles",
        "role",
        "role",
        ROLES,
        add=("roles.add", SetRole),
        change=("roles.set", RolePatch),
        remove="roles.remove",
        removal="Removes a role that nobody has.",
    ),
    Resource(
        "tokens",
        "token",
        "token_id",
        TOKENS,
        list_query=PageOfClient,
        remove="tokens.revoke",
        removal="Revokes a token; a refresh token with all that came of its sign-in.",
    ),
    Resource(
        "sessions",
        "session",
        "session_id",
        SESSIONS,
        list_query=PageOfClient,
        remove="sessions.end",
        removal="Ends a session, and the tokens that came of it.",
    ),
    Resource(
        "lockouts",
        "lockout",
        "lockout_id",
        LOCKOUTS,
        list_query=PageOfClient,
        remove="lockouts.end",
        removal="Ends a lock-out.",
        permission="clients",
    ),
    Resource(
        "invitations",
        "invitation",
        "invitation_id",
        INVITATIONS,
        add=("invitations.add", AddInvitation),
        remove="invitations.revoke",
        removal="Takes an invitation back.",
        permission="clients",
        shown_once="code",
    ),
    Resource(
        "api-keys",
        "key",
        "key_id",
        API_KEYS,
        list_query=PageOfClient,
        add=("api_keys.add", AddApiKey),
        remove="api_keys.revoke",
        removal="Ends an API key of a client, and the tokens that were had with it.",
        permission="clients",
        shown_once="api_key",
    ),
)
