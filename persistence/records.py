"""What Ostiary keeps: frozen records, and the protocols of the stores that hold them.

Reads are synchronous: every store holds its live records in memory, because they are asked for on every request.
Writes are coroutines: when one returns, the write is durable.

Times called ``exp`` are whole seconds since the epoch; all other times are RFC 3339 in UTC, as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeVar

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
    tool_name: str | None = None
    tenant_id: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 100
    cursor: str | None = None


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, newest first, and the cursor of the next page (None at the end)."""

    entries: tuple[AuditEntry, ...]
    next_cursor: str | None


class ClientStore(Protocol):
    """The clients."""

    def get(self, client_id: str) -> ClientRecord | None:
        """The client of that name, disabled and erased ones included."""

    def by_certificate(self, certificate_id: str) -> ClientRecord | None:
        """The client whose certificates yield ``certificate_id``."""

    def __iter__(self) -> Iterator[ClientRecord]:
        """All clients, by client_id."""

    async def put(self, record: ClientRecord) -> None:
        """Insert or replace. Raises StoreError where the write is not durable, or the certificate id is taken."""

    async def remove(self, client_id: str) -> None:
        """Forget the client; its certificate id is anybody's again. Raises StoreError."""


class TokenStore(Protocol):
    """The tokens that have not expired."""

    def get(self, token_id: str) -> TokenRecord | None:
        """The token with that id, revoked ones included; None: unknown or purged."""

    def of_client(self, client_id: str) -> Sequence[TokenRecord]:
        """Every token of that client."""

    def of_family(self, family_id: str) -> Sequence[TokenRecord]:
        """Every token of that family."""

    def __iter__(self) -> Iterator[TokenRecord]:
        """All tokens, in order of issue."""

    async def put(self, *records: TokenRecord) -> None:
        """Insert or replace all of them as one write."""

    def purge(self, now: float, at_most: int | None = None) -> int:
        """Forget those that expired before ``now``; how many. (Derivable from ``exp``: nothing to make durable.)

        ``at_most``: so many in one call, which is then to be repeated until it says less.
        """


class Collection(Protocol[RecordT]):
    """The records of one kind."""

    def get(self, key: str) -> RecordT | None:
        """The record with that key."""

    def where(self, index: str, value: str) -> Sequence[RecordT]:
        """The records whose field ``index``, one of the kind's indexes, is ``value``; in order of insertion."""

    def __iter__(self) -> Iterator[RecordT]:
        """All records, in order of insertion."""

    def __len__(self) -> int:
        """How many there are."""

    async def put(self, *records: RecordT) -> None:
        """Insert or replace all of them as one write. Raises StoreError where it is not durable."""

    async def remove(self, *keys: str) -> None:
        """Remove the records with these keys as one write. Raises StoreError where it is not durable."""

    def put_soon(self, *records: RecordT) -> None:
        """As ``put``, without waiting for the disk: for what may be lost. Raises StoreError."""

    def remove_soon(self, *keys: str) -> None:
        """As ``remove``, without waiting for the disk. Raises StoreError."""


class Intent(Protocol):
    """An action about to be forwarded, already durable in the audit."""

    def finish(
        self,
        status: AuditStatus,
        *,
        timestamp: str,
        duration_ms: float,
        reason: str | None = None,
        response_bytes: int | UnsetType = UNSET,
    ) -> None:
        """Hand the outcome to the journal. Once only. Raises StoreError where the journal takes no more writes."""


class AuditStore(Protocol):
    """The audit: append-only."""

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry; durable on return. Raises StoreError."""

    def has_room(self) -> bool:
        """Whether there is more room than what is kept for known callers: else what anybody can cause is not entered."""

    def append_soon(self, entry: AuditEntry) -> None:
        """Hand an entry to the journal without waiting for the disk. Raises StoreError."""

    async def begin(self, entry: AuditEntry) -> Intent:
        """Make the intent durable. If no outcome ever follows, it becomes an entry ``error``, ``interrupted``."""

    async def query(self, query: AuditQuery) -> AuditPage:
        """Entries, newest first. Raises ValueError for a cursor that this store did not give."""

    async def follow(self, cursor: str | None, limit: int) -> AuditPage:
        """The first ``limit`` entries behind ``cursor``, oldest first; without one, the newest ones.

        ``next_cursor`` is never None: with it, ask for what comes. Raises ValueError for a cursor that is not one of this
        audit, StoreError where it cannot be read.
        """

    async def checkpoint(self) -> bytes:
        """The newest signed checkpoint, a JSON document."""

    def prunable(self, before: str) -> Sequence[SealedSegment]:
        """The segments that ``prune`` would remove. Raises ValueError where ``before`` is not RFC 3339."""

    async def prune(self, before: str) -> Sequence[SealedSegment]:
        """Remove the oldest segments, as far as all that is in them is older than ``before``; which those were.

        Raises StoreError, and ValueError as ``prunable`` does.
        """

    async def erase(self, entry: AuditEntry, client_id: str) -> int:
        """Take what identifies that client out of all entries so far; how many values. ``entry`` says so: ``erased``.

        The entries go on to be told apart, as those of ``erased-N``, N being the number of that entry. Raises StoreError.
        """

    async def compress(self, most: int) -> tuple[int, int]:
        """Compress up to ``most`` sealed segments; how many were, and how many are left. Raises StoreError."""


class Stores(Protocol):
    """All stores of one gateway, opened together and closed together."""

    @property
    def clients(self) -> ClientStore:
        """The clients."""

    @property
    def tokens(self) -> TokenStore:
        """The tokens."""

    @property
    def audit(self) -> AuditStore:
        """The audit."""

    def collection(self, kind: Kind[RecordT]) -> Collection[RecordT]:
        """The records of that kind."""

    @property
    def healthy(self) -> bool:
        """Whether writes are being taken."""

    async def close(self) -> None:
        """Write the last checkpoint and let go of the files."""
