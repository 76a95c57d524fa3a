"""What Ostiary keeps of accounts beside the client itself: frozen records, as ``records`` has them."""

from __future__ import annotations

import msgspec


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A sign-in that goes on: a refresh token, and all that follow it. It is live as long as ``refresh_id`` is."""

    session_id: str
    """The ``family_id`` of its tokens."""
    client_id: str
    tenant_id: str
    refresh_id: str
    """The one refresh token that may be used; an earlier one that is used has been stolen, or this one has."""
    parent_id: str | None = None
    """The refresh token before it."""
    rotated_at: str | None = None
    """When ``refresh_id`` took its place."""
    exp: int
    """That of ``refresh_id``."""
    address: str | None = None
    user_agent: str | None = None
    certificate_thumbprint: str | None = None
    second_factor: bool = False
    """Whether it was begun with one."""
    created_at: str
    last_used_at: str


class PasswordHistory(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The hashes of a client's earlier passwords, newest first."""

    client_id: str
    hashes: tuple[str, ...] = ()


class ProfileRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an account says of its person. The e-mail address itself is the client's."""

    client_id: str
    tenant_id: str
    given_name: str | None = None
    family_name: str | None = None
    verified_email: str | None = None
    """The address that was proven to be theirs."""
    email_verified_at: str | None = None
    code_hash: str | None = None
    """SHA-256 of the code that proves ``code_email``."""
    code_email: str | None = None
    code_exp: int = 0
    code_wrong: int = 0


class InvitationRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Leave to make one account."""

    invitation_id: str
    code_hash: str
    """SHA-256 of the code. The code itself is never stored."""
    tenant_id: str
    roles: tuple[str, ...] = ()
    created_at: str
    created_by: str
    exp: int
    used_at: str | None = None
    client_id: str | None = None
    """The account that was made with it."""
    name: str | None = None
    """What it is for; no two of a tenant have the same."""


class SecondFactor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A client's authenticator (RFC 6238), and its recovery codes."""

    client_id: str
    tenant_id: str
    sealed_secret: str
    """AES-256-GCM: key id, nonce and ciphertext."""
    last_step: int = -1
    """The last time step whose code was used."""
    recovery_hashes: tuple[str, ...] = ()
    created_at: str
    confirmed_at: str | None = None


class MfaSession(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A sign-in of which the first step is done."""

    token_hash: str
    """SHA-256 of the ``mfa_session_token``."""
    password_digest: str
    """SHA-256 of the stored hash of the password that was proven: another password ends it."""
    client_id: str
    tenant_id: str
    scope: str = ""
    with_refresh: bool = True
    certificate_thumbprint: str | None = None
    exp: int


class ApiKeyRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A key that stands for a client. The key itself is never stored."""

    key_id: str
    key_hash: str
    """SHA-256 of the key, in hexadecimal."""
    prefix: str
    """The key's first characters, by which its owner knows it."""
    name: str
    client_id: str
    tenant_id: str
    user_id: str
    scopes: tuple[str, ...] = ()
    """Empty: all that the client may do."""
    created_at: str
    exp: int | None = None
    last_used_at: str | None = None
    successor_id: str | None = None
    """The key that takes its place; until ``exp`` both are good."""


class LockoutRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An account, an address or both, that has to wait after too many wrong passwords or codes."""

    lockout_id: str
    """A digest of what is locked."""
    scope: str
    """What is locked: ``account_at_address``, ``account``, ``address`` or ``second_factor``."""
    client_id: str | None = None
    """None: an address is locked, or a name that nobody has."""
    tenant_id: str | None = None
    origin: str | None = None
    """The address, or the network; None: wherever it is tried."""
    count: int
    """The wrong ones in a row."""
    locked_at: str
    locked_until: str


class FamiliarAddresses(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """From where an account was signed in to, the latest first."""

    client_id: str
    tenant_id: str
    networks: tuple[str, ...] = ()
