"""What Ostiary keeps: frozen records. The stores that hold them are in ``protocols``.

Times called ``exp`` are whole seconds since the epoch; all other times are RFC 3339 in UTC, as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from persistence.account_records import (
    ApiKeyRecord,
    FamiliarAddresses,
    InvitationRecord,
    LockoutRecord,
    MfaSession,
    PasswordHistory,
    ProfileRecord,
    SecondFactor,
    SessionRecord,
)

DEFAULT_TENANT = "default"


class StoreError(Exception):
    """The store cannot be opened or cannot answer; the message names the file and the remedy."""


class TokenKind(StrEnum):
    """What a token is for."""

    ACCESS = "access"
    REFRESH = "refresh"


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A client (RFC 6749): a service, an agent or a person. ``client_id`` is also the username."""

    client_id: str
    tenant_id: str = DEFAULT_TENANT
    username: str
    user_id: str
    password_hash: str | None = None
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    certificate: str | None = None
    """The client_id that the identity rules yield for its certificates; None: no certificate is accepted."""
    require_certificate: bool = False
    email: str | None = None
    created_at: str
    updated_at: str
    disabled_at: str | None = None
    erased_at: str | None = None


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A token that was issued. The token itself is never stored."""

    token_id: str
    """The JWT's ``jti`` (RFC 7519 section 4.1.7)."""
    client_id: str
    tenant_id: str = DEFAULT_TENANT
    kind: TokenKind
    exp: int
    created_at: str
    revoked_at: str | None = None
    family_id: str | None = None
    """Shared by a refresh token and every token that came from it."""
    scope: str = ""
    """Space-separated, as in RFC 6749 section 3.3; empty: all that the client may do."""
    certificate_thumbprint: str | None = None
    """``x5t#S256`` of the certificate that the token is bound to (RFC 8705 section 3.1)."""
    api_key_id: str | None = None
    """The API key that the token was had with: it may do no more, and lives no longer."""


class RevokedCertificate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A certificate that is refused whatever the CRL says."""

    revocation_id: str
    fingerprint: str | None = None
    """``x5t#S256`` of the certificate (RFC 8705 section 3.1)."""
    serial_number: str | None = None
    """In hexadecimal."""
    issuer: str | None = None
    """RFC 4514: the serial number is meant of this issuer alone. None: of any."""
    revoked_at: str


class TenantSettings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a tenant demands of its clients."""

    mfa_required: bool = False
    """Whether nobody signs in by a password alone."""


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tenant: whom clients, tokens, roles and audit entries belong to. ``default`` is there without a record, too."""

    tenant_id: str
    """A short name that stays: what every other record calls it by."""
    name: str
    """What people call it."""
    settings: TenantSettings = TenantSettings()
    created_at: str
    updated_at: str
    disabled_at: str | None = None


class RoleRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A role that was made while running, beside those of the configuration."""

    role_id: str
    """``TENANT/NAME``; ``*/NAME`` for a role of every tenant."""
    tenant_id: str | None = None
    """Whose clients may have it; None: any tenant's."""
    role: str
    permissions: tuple[str, ...] = ()
    created_at: str
    updated_at: str


class Tombstone(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What keeps a name, or a certificate id, of an erased client from being anybody's again, without telling it."""

    tombstone_id: str
    """HMAC-SHA-256 of the name or id, in hexadecimal."""
    tenant_id: str = DEFAULT_TENANT
    pseudonym: str
    """What the audit calls the client."""
    erased_at: str


class TombstoneKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The key of the tombstones; there is one."""

    key_id: str
    key: str
    """256 random bits, in hexadecimal."""


RecordT = TypeVar("RecordT", bound=msgspec.Struct)


class ToolPin(msgspec.Struct, frozen=True, kw_only=True):
    """A definition of an upstream's, as it was last seen, and as it was approved. Both are canonical JSON."""

    pin_id: str
    """UPSTREAM/TOOL, by the upstream's own name of it; of other kinds UPSTREAM:KIND/NAME."""
    upstream: str
    tool: str
    """Its name, or a template's URI."""
    kind: str = "tool"
    seen: str
    seen_at: str
    approved: str | None = None
    approved_digest: str | None = None
    """SHA-256 of it, in hex."""
    approved_at: str | None = None
    approved_by: str | None = None
    gone_since: str | None = None
    """When the upstream was first seen not to list it any more; None: it does."""


class UpstreamNames(msgspec.Struct, frozen=True, kw_only=True):
    """Under which names the gateway knew what an upstream listed last: they are its own, also while it is down."""

    upstream: str
    prefix: str
    """The prefix with which those names were made."""
    digests: tuple[str, ...]
    """Of each name and its kind, in hex."""
    templates: tuple[str, ...] = ()
    """Its URI templates, by which it serves what it does not list."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[RecordT]):
    """A kind of record that is kept as a ``Collection``: in ``NAME.json``, with ``NAME`` as its array."""

    name: str
    record: type[RecordT]
    key: str
    """The field that names a record."""
    indexes: tuple[str, ...] = ()
    """The fields by which records are looked for, too."""


REVOKED_CERTIFICATES: Final = Kind(
    "revoked_certificates", RevokedCertificate, "revocation_id", ("fingerprint", "serial_number")
)

TENANTS: Final = Kind("tenants", TenantRecord, "tenant_id")
ROLES: Final = Kind("roles", RoleRecord, "role_id", ("role",))
TOMBSTONES: Final = Kind("tombstones", Tombstone, "tombstone_id")
TOMBSTONE_KEYS: Final = Kind("tombstone_keys", TombstoneKey, "key_id")

SESSIONS: Final = Kind("sessions", SessionRecord, "session_id", ("client_id",))
PASSWORD_HISTORIES: Final = Kind("password_history", PasswordHistory, "client_id")
PROFILES: Final = Kind("profiles", ProfileRecord, "client_id")
INVITATIONS: Final = Kind("invitations", InvitationRecord, "invitation_id", ("code_hash", "client_id"))
SECOND_FACTORS: Final = Kind("second_factors", SecondFactor, "client_id")
MFA_SESSIONS: Final = Kind("mfa_sessions", MfaSession, "token_hash", ("client_id",))
TOOL_PINS: Final = Kind("tool_pins", ToolPin, "pin_id", ("upstream",))
UPSTREAM_NAMES: Final = Kind("upstream_names", UpstreamNames, "upstream")
API_KEYS: Final = Kind("api_keys", ApiKeyRecord, "key_id", ("key_hash", "client_id"))
LOCKOUTS: Final = Kind("lockouts", LockoutRecord, "lockout_id", ("client_id",))
FAMILIAR_ADDRESSES: Final = Kind("familiar_addresses", FamiliarAddresses, "client_id")

KINDS: Final[tuple[Kind[Any], ...]] = (
    REVOKED_CERTIFICATES,
    TENANTS,
    ROLES,
    TOMBSTONES,
    TOMBSTONE_KEYS,
    SESSIONS,
    PASSWORD_HISTORIES,
    PROFILES,
    INVITATIONS,
    SECOND_FACTORS,
    MFA_SESSIONS,
    API_KEYS,
    TOOL_PINS,
    UPSTREAM_NAMES,
    LOCKOUTS,
    FAMILIAR_ADDRESSES,
)
"""Every kind. A store that was made before a kind was added gets its file when it is opened."""


class AuditStatus(StrEnum):
    """How an audited action ended."""

    OK = "ok"
    ERROR = "error"
    DENIED = "denied"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of the audit: who did what, from where, and how it ended. It never holds a secret or an argument."""

    timestamp: str
    event: str
    status: AuditStatus
    tenant_id: str | None = None
    tool_name: str | None = None
    duration_ms: float | None = None
    reason: str | None = None
    request_id: str | None = None
    upstream: str | None = None
    method: str | None = None
    """The MCP or HTTP method."""
    token_id: str | None = None
    era: str | UnsetType = UNSET
    """Of MCP, in which the client spoke: ``legacy`` or ``modern``. It and what follows are left out where unset."""
    rule: str | UnsetType = UNSET
    """The pattern of the access rule that decided; empty where none matched."""
    arguments_digest: str | UnsetType = UNSET
    """SHA-256, in hex, of the arguments as JSON with sorted keys and without white space."""
    request_bytes: int | UnsetType = UNSET
    response_bytes: int | UnsetType = UNSET
    """Of the messages, as the client sent the one and was sent the other."""
    api_key_id: str | UnsetType = UNSET
    """Which API key proved the client, or had the token that did."""
    count: int = 1
    """How many like entries this one sums up."""

    # What identifies a person, last: see audit_chain.
    client_id: str | None = None
    address: str | None = None
    user_agent: str | None = None
    target: str | None = None
    """What was acted upon: a path, a resource URI, a prompt, a client, a token id."""
    actor: str | None = None
    """The operating-system user, where a command line did it."""
    certificate_thumbprint: str | None = None


class SealedSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the audit that nothing is added to any more."""

    segment: int
    first_seq: int
    last_seq: int
    oldest: str
    """The earliest and latest timestamp in it."""
    newest: str


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which audit entries are wanted; None matches all. ``since`` is inclusive, ``until`` exclusive (RFC 3339)."""

    client_id: str | None = None
    about: str | None = None
    """The client that acted, or was acted upon."""
    status: str | None = None
    event: str | None = None
    events: tuple[str, ...] = ()
    """Any of these; empty matches all."""
    tool_name: str | None = None
    tenant_id: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 100
    cursor: str | None = None
    among: int | None = None
    """Looked for in so many of the newest entries, and in what is in one segment with them; None: in all."""


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, newest first, and the cursor of the next page (None at the end)."""

    entries: tuple[AuditEntry, ...]
    next_cursor: str | None
