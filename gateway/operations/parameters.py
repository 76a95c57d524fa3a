"""What each administrative operation is told, and what is wrong with it whatever the store holds.

Each looks at its own words as it is made, and raises ValueError with the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from gateway.clock import rfc3339
from gateway.config.shapes import NAME, PERMISSION, PERMISSION_REMEDY, ROLE, did_you_mean
from gateway.identity.profiles import ProfileChange, Text
from persistence.records import DEFAULT_TENANT, AuditStatus

MAX_PAGE: Final = 1000
"""How many entries a page has at most."""
_MAX_CURSOR: Final = 2**53
"""More than there ever are, and exact in every JSON reader (RFC 8259 section 6)."""
NO_CERTIFICATE: Final = "none"
"""As a certificate id: no certificate is accepted."""

_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/+-]{0,127}")
"""No ``:``, with which a name ends in Basic authentication (RFC 7617 section 2)."""
_ERASED: Final = re.compile(r"erased(-[0-9]+)?", re.IGNORECASE)
"""As a client's name: what tokens and audit entries of erased clients are under."""
_MAX_DISTINGUISHED_NAME: Final = 4096
_SERIAL_NUMBER: Final = re.compile(r"[0-9a-f]{1,40}")
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_CERTIFICATE_ID: Final = re.compile(r'(?:(?!["\\,*])[!-~]){1,128}')
"""What the identity rules can yield."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operation is told. Its repr shows no values: one of them may be a password."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class AddClient(Parameters, frozen=True, kw_only=True):
    """``certificate`` None: the client_id itself; NO_CERTIFICATE: no certificate is accepted."""

    client_id: str
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    tenant_id: str = DEFAULT_TENANT
    certificate: str | None = None
    require_certificate: bool = False
    password: str | None = None

    def __post_init__(self) -> None:
        if not _CLIENT_ID.fullmatch(self.client_id):
            raise ValueError(
                'a client\'s name has 1 to 128 letters, digits and ". _ @ / + -", a letter or digit first'
            )
        if self.client_id == NO_CERTIFICATE:
            raise ValueError(f'"{NO_CERTIFICATE}" stands for no certificate; choose another name')
        if _ERASED.fullmatch(self.client_id):
            raise ValueError(f'"{self.client_id}" stands for erased clients; choose another name')
        if not NAME.fullmatch(self.tenant_id):
            raise ValueError('a tenant\'s name has 1 to 64 lower-case letters, digits, "_" and "-"')
        check_roles(self.roles)
        check_permissions(self.permissions)
        if self.certificate == NO_CERTIFICATE and self.require_certificate:
            raise ValueError("a client without a certificate cannot require one; leave out one of the two")
        if self.certificate:
            _check_certificate_id(self.certificate)


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

    def __post_init__(self) -> None:
        check_roles((*(self.roles or ()), *self.add_roles))
        check_permissions((*(self.permissions or ()), *self.add_permissions))


class RetireKey(Parameters, frozen=True, kw_only=True):
    """The ``kid`` of a key that is to sign no more."""

    kid: str


class UseKeys(Parameters, frozen=True, kw_only=True):
    """The ``kid`` of the key that is to sign. ``revoke_all``: the one before it is in wrong hands."""

    kid: str
    revoke_all: bool = False


class ChangeProfile(Parameters, frozen=True, kw_only=True):
    """What is left out stays; None removes it. ``email_verified``: as whoever asks knows."""

    client_id: str
    given_name: Text = UNSET
    family_name: Text = UNSET
    email: Text = UNSET
    email_verified: bool | UnsetType = UNSET

    def __post_init__(self) -> None:
        self.change.check()

    @property
    def change(self) -> ProfileChange:
        """What is to be otherwise about the profile."""
        return ProfileChange(
            given_name=self.given_name,
            family_name=self.family_name,
            email=self.email,
            email_verified=self.email_verified,
        )


class ChangeClient(ChangeProfile, frozen=True, kw_only=True):
    """What is None stays; ``roles`` and ``permissions`` take the place of those the client has.

    ``certificate`` None, or NO_CERTIFICATE: from now on no certificate is accepted.
    """

    roles: tuple[str, ...] | None = None
    permissions: tuple[str, ...] | None = None
    disabled: bool | None = None
    password: str | None = None
    certificate: str | UnsetType | None = UNSET
    require_certificate: bool | None = None

    def __post_init__(self) -> None:
        self.change.check()
        check_roles(self.roles or ())
        check_permissions(self.permissions or ())
        if isinstance(self.certificate, str):
            _check_certificate_id(self.certificate)


class ListClients(Parameters, frozen=True, kw_only=True):
    """A page of clients, from the one after ``cursor``."""

    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


class ListTokens(Parameters, frozen=True, kw_only=True):
    """A page of tokens in order of issue, of one client or of all."""

    client_id: str | None = None
    limit: int = MAX_PAGE
    cursor: int = 0

    def __post_init__(self) -> None:
        check_limit(self.limit)
        if not 0 <= self.cursor <= _MAX_CURSOR:
            raise ValueError("the cursor is not one of this list; leave it out to begin anew")


class OneToken(Parameters, frozen=True, kw_only=True):
    """A token, by its id."""

    token_id: str


class RevokeTokens(Parameters, frozen=True, kw_only=True):
    """One token (a refresh token with its whole family), or all of a client."""

    token_id: str | None = None
    client_id: str | None = None

    def __post_init__(self) -> None:
        if (self.token_id is None) == (self.client_id is None):
            raise ValueError("name one token, or one client")


class RecordCertificate(Parameters, frozen=True, kw_only=True):
    """A certificate that was just issued."""

    name: str
    """Its common name."""
    certificate_thumbprint: str
    """``x5t#S256``."""
    certificate: str | None = None
    """The certificate id that it yields; None: it names no client."""


class RevokeCertificate(Parameters, frozen=True, kw_only=True):
    """A certificate that is to be refused. ``fingerprint`` (``x5t#S256``) and ``issuer`` (RFC 4514): where it is at hand."""

    serial_number: str
    """Hexadecimal, lower case."""
    fingerprint: str | None = None
    issuer: str | None = None

    def __post_init__(self) -> None:
        if not _SERIAL_NUMBER.fullmatch(self.serial_number):
            raise ValueError("a serial number is 1 to 40 hexadecimal digits, in lower case")
        if self.fingerprint is not None and not _THUMBPRINT.fullmatch(self.fingerprint):
            raise ValueError("an x5t#S256 is 43 characters of base64url")
        if self.issuer is not None and len(self.issuer) > _MAX_DISTINGUISHED_NAME:
            raise ValueError(f"an issuer's name has at most {_MAX_DISTINGUISHED_NAME} characters")


class ExamineCertificate(RevokeCertificate, frozen=True, kw_only=True):
    """A certificate that somebody asks about."""

    certificate: str | None = None
    """The certificate id that it yields."""
    certificate_tenant: str | None = None
    """The tenant that its rule is for."""


class ListRevoked(Parameters, frozen=True, kw_only=True):
    """A page of revoked certificates, from the one after ``cursor``."""

    limit: int = MAX_PAGE
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit)


class Reload(Parameters, frozen=True, kw_only=True):
    """Nothing needs to be said."""


class PruneAudit(Parameters, frozen=True, kw_only=True):
    """Only what is older than so many seconds."""

    older_than: int

    def __post_init__(self) -> None:
        if self.older_than < 0:
            raise ValueError("an age is not negative; write it as 90d")


class CompressAudit(Parameters, frozen=True, kw_only=True):
    """So many segments at most."""

    most: int = 8

    def __post_init__(self) -> None:
        check_limit(self.most)


class QueryAudit(Parameters, frozen=True, kw_only=True):
    """As AuditQuery; ``since`` and ``until`` in RFC 3339 with any offset (none: UTC), or as dates."""

    client_id: str | None = None
    status: str | None = None
    event: str | None = None
    tool_name: str | None = None
    tenant_id: str | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 100
    cursor: str | None = None

    def __post_init__(self) -> None:
        if self.status is not None and self.status not in set(AuditStatus):
            raise ValueError(f"no such status; {did_you_mean(self.status, AuditStatus)}")
        check_limit(self.limit)
        for key, time in (("since", self.since), ("until", self.until)):
            if time is not None and stored_time(time) is None:
                raise ValueError(f"{key} is not a time; write it as 2026-01-31T12:00:00Z")


class FollowAudit(Parameters, frozen=True, kw_only=True):
    """``cursor``: the ``next_cursor`` of the time before; without one, the newest entries are wanted."""

    cursor: str | None = None
    limit: int = 100

    def __post_init__(self) -> None:
        check_limit(self.limit)


def stored_time(text: str) -> str | None:
    """A time in RFC 3339 or a date, as the store has its times; None: it is neither."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return rfc3339(moment.timestamp())
    except (ValueError, OverflowError):
        return None


def check_roles(roles: Iterable[str]) -> None:
    """Raises ValueError where one is no role's name."""
    for role in roles:
        if not ROLE.fullmatch(role):
            remedy = 'use letters, digits, "_", "." and "-", 64 at most'
            raise ValueError(f"not a role's name: {role[:80]!a}; {remedy}")


def check_permissions(permissions: Iterable[str]) -> None:
    """Raises ValueError where one is no permission."""
    for permission in permissions:
        if not PERMISSION.fullmatch(permission):
            raise ValueError(f"not a permission: {permission[:80]!a}; {PERMISSION_REMEDY}")


def _check_certificate_id(certificate: str) -> None:
    """Raises ValueError where it can be nobody's."""
    if not _CERTIFICATE_ID.fullmatch(certificate):
        raise ValueError("no certificate can yield that id; write 1 to 128 printable ASCII characters")


def check_limit(limit: int) -> None:
    """Raises ValueError where no page is so large."""
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"a page has 1 to {MAX_PAGE} entries; give another limit")
