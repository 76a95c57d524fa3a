"""The values that travel along the way of a request. Pure: no I/O, nothing imported from the rooms that use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from certs.identity import PeerIdentity

PLATFORM: Final = "platform"


def is_of_platform(permission: str) -> bool:
    """Whether the permission crosses tenants."""
    return permission.partition(":")[0] == PLATFORM


class Reason(StrEnum):
    """Why something was refused or failed: the stable word in replies, logs and the audit."""

    # Who are you? (401)
    AUTHENTICATION_REQUIRED = "authentication_required"
    INVALID_CREDENTIALS = "invalid_credentials"
    TOKEN_MALFORMED = "token_malformed"  # noqa: S105 - a reason, not a secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"  # noqa: S105
    TOKEN_SIGNATURE = "token_signature"  # noqa: S105
    TOKEN_ISSUER = "token_issuer"  # noqa: S105
    TOKEN_AUDIENCE = "token_audience"  # noqa: S105
    TOKEN_TYPE = "token_type"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105
    CERTIFICATE_MISMATCH = "certificate_mismatch"
    CERTIFICATE_REQUIRED = "certificate_required"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    CRL_EXPIRED = "crl_expired"
    CERTIFICATE_UNMAPPED = "certificate_unmapped"
    CLIENT_DISABLED = "client_disabled"
    CLIENT_UNKNOWN = "client_unknown"
    API_KEY_UNKNOWN = "api_key_unknown"
    API_KEY_EXPIRED = "api_key_expired"
    MFA_REQUIRED = "mfa_required"
    MFA_CODE_INVALID = "mfa_code_invalid"
    MFA_SESSION_INVALID = "mfa_session_invalid"
    UNSUPPORTED_CREDENTIALS = "unsupported_credentials"
    # You may not. (403, 404)
    PERMISSION_DENIED = "permission_denied"
    HOST_NOT_ALLOWED = "host_not_allowed"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    TENANT_MISMATCH = "tenant_mismatch"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    API_KEY_NOT_FOUND = "api_key_not_found"
    SESSION_UNKNOWN = "session_unknown"
    # That is not a request. (4xx)
    BAD_REQUEST = "bad_request"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    AMBIGUOUS_REQUEST = "ambiguous_request"
    BODY_TOO_LARGE = "body_too_large"
    CONTENT_ENCODING = "content_encoding"
    CONTENT_TYPE = "content_type"
    NOT_ACCEPTABLE = "not_acceptable"
    PROTOCOL_VERSION = "protocol_version"
    INVALID_GRANT = "invalid_grant"
    EMAIL_CODE_INVALID = "email_code_invalid"
    PASSWORD_REJECTED = "password_rejected"  # noqa: S105
    CONFLICT = "conflict"
    REGISTRATION_CLOSED = "registration_closed"
    INVALID_SCOPE = "invalid_scope"
    INVALID_TARGET = "invalid_target"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    UNSUPPORTED_TOKEN_TYPE = "unsupported_token_type"  # noqa: S105
    RATE_LIMITED = "rate_limited"
    REQUEST_TIMEOUT = "request_timeout"
    # We cannot. (5xx)
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_INVALID = "upstream_invalid"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    STORE_UNAVAILABLE = "store_unavailable"
    NOT_IMPLEMENTED = "not_implemented"
    INTERNAL_ERROR = "internal_error"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Deny:
    """A refusal. ``detail`` is for the caller's eyes: it says what to do next and holds no secret."""

    reason: Reason
    detail: str
    permissions: tuple[str, ...] = ()
    """What would have been needed, where the caller may know (RFC 6750 section 3: ``scope``)."""
    retry_after: float | None = None
    """Seconds (RFC 9110 section 10.2.3)."""
    allow: tuple[str, ...] = ()
    """The methods that the path has (RFC 9110 section 10.2.1)."""
    client_id: str | None = None
    """The client that the refused credentials claim, for the audit; never shown to the caller."""
    caller: ClientContext | None = None
    """Who was refused, where that is known; for the audit."""


@dataclass(frozen=True, slots=True)
class Allow:
    """Permission to go on."""


ALLOW: Final = Allow()
Decision = Allow | Deny


class Refused(Exception):  # noqa: N818 - it is a decision on its way to the edge, not a fault
    """Carries a Deny from a handler to the edge, which alone turns it into a response."""

    def __init__(self, deny: Deny) -> None:
        super().__init__(deny.reason)
        self.deny = deny


class Proof(StrEnum):
    """How a fact about the caller was proven."""

    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105
    PASSWORD = "password"  # noqa: S105
    API_KEY = "api_key"


@dataclass(frozen=True, slots=True)
class Permissions:
    """A set of ``resource:action`` grants. ``*`` stands for one whole segment; only ``platform:…`` grants ``platform:…``."""

    grants: frozenset[str]

    def cover(self, needed: Iterable[str]) -> bool:
        """Whether every needed permission is granted. Nothing needed: True."""
        return all(self._covers(permission) for permission in needed)

    def _covers(self, permission: str) -> bool:
        if permission in self.grants:
            return True
        resource, _, action = permission.partition(":")
        if f"{resource}:*" in self.grants:
            return True
        if resource == PLATFORM:
            return False
        return "*:*" in self.grants or f"*:{action}" in self.grants

    @property
    def of_platform(self) -> bool:
        """Whether anything of this crosses tenants."""
        return any(map(is_of_platform, self.grants))

    @property
    def everything(self) -> bool:
        """Whether this is an administrator: everything in one's own tenant."""
        return "*:*" in self.grants


HAND_OVER: Final = f"{PLATFORM}:hand_over"
"""What a TLS terminator must be granted by name, for no wildcard means it: it can be anybody."""
NO_PERMISSIONS: Final = Permissions(frozenset())
ADMINISTRATION: Final = ("*:*",)
"""What is needed where no rule says otherwise."""


@dataclass(frozen=True, slots=True)
class ClientContext:
    """Who is calling, once authenticated; made in ``authn`` and nowhere else. ``client_id`` None: anonymous."""

    client_id: str | None
    tenant_id: str | None = None
    user_id: str | None = None
    username: str | None = None
    roles: tuple[str, ...] = ()
    roles_by_certificate: tuple[str, ...] = ()
    """What of ``roles`` the rule of the certificate gives: for as long as the certificate is shown."""
    permissions: Permissions = NO_PERMISSIONS
    scope: str = ""
    auth_time: float | None = None
    """When the caller proved who it is, in seconds since the epoch."""
    token_id: str | None = None
    api_key_id: str | None = None
    certificate_thumbprint: str | None = None
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    """How each fact was proven: ``{"client_id": Proof.CERTIFICATE, "roles": Proof.TOKEN}``."""

    @property
    def anonymous(self) -> bool:
        """Whether nobody is known to be calling."""
        return self.client_id is None


ANONYMOUS: Final = ClientContext(client_id=None)


@dataclass(frozen=True, slots=True)
class Inbound:
    """What the edge knows of a request before anyone has asked who sent it."""

    request_id: str
    method: str
    path: str
    address: str
    user_agent: str | None
    peer: PeerIdentity | None
    """The caller's certificate, of the connection or from a trusted terminator, if any."""
    authorization: tuple[str, ...]
    """Every ``Authorization`` field value, as received."""
    api_keys: tuple[str, ...]
    """Every ``X-API-Key`` field value, as received."""
    started: float
    """A monotonic clock's reading, in seconds."""
    tenant_id: str | None = None
    """What ``X-Tenant-ID`` says, if it is there."""
