"""What each administrative operation is told."""

from __future__ import annotations

from typing import Final

import msgspec

from persistence.records import DEFAULT_TENANT

MAX_PAGE: Final = 1000
"""How many entries a page has at most."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operation is told. Its repr shows no values: one of them may be a password."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class AddClient(Parameters, frozen=True, kw_only=True):
    """``certificate`` None: the client_id itself; "none": no certificate is accepted."""

    client_id: str
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    tenant_id: str = DEFAULT_TENANT
    certificate: str | None = None
    require_certificate: bool = False
    password: str | None = None


class OneClient(Parameters, frozen=True, kw_only=True):
    """The operations that need nothing but the client."""

    client_id: str


class SetPassword(Parameters, frozen=True, kw_only=True):
    """A new password, in plain text: it is hashed here and goes nowhere else."""

    client_id: str
    password: str


class ChangeRoles(Parameters, frozen=True, kw_only=True):
    """``roles`` and ``permissions`` replace what the client has (None: do not); then some are added, some removed."""

    client_id: str
    roles: tuple[str, ...] | None = None
    add_roles: tuple[str, ...] = ()
    remove_roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] | None = None
    add_permissions: tuple[str, ...] = ()
    remove_permissions: tuple[str, ...] = ()


class ListClients(Parameters, frozen=True, kw_only=True):
    """A page of clients, from the one after ``cursor``."""

    limit: int = MAX_PAGE
    cursor: str | None = None


class ListTokens(Parameters, frozen=True, kw_only=True):
    """A page of tokens in order of issue, of one client or of all."""

    client_id: str | None = None
    limit: int = MAX_PAGE
    cursor: int = 0


class RevokeTokens(Parameters, frozen=True, kw_only=True):
    """One token (a refresh token with its whole family), or all of a client."""

    token_id: str | None = None
    client_id: str | None = None


class PruneAudit(Parameters, frozen=True, kw_only=True):
    """Only what is older than so many seconds."""

    older_than: int


class CompressAudit(Parameters, frozen=True, kw_only=True):
    """So many segments at most."""

    most: int = 8


class QueryAudit(Parameters, frozen=True, kw_only=True):
    """As AuditQuery; ``since`` and ``until`` in RFC 3339."""

    client_id: str | None = None
    status: str | None = None
    event: str | None = None
    tool_name: str | None = None
    tenant_id: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 100
    cursor: str | None = None
