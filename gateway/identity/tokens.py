"""Tokens: issued, verified, remembered, revoked.

- Access tokens are JWTs as RFC 9068 has them (``typ`` ``at+jwt``), refresh tokens are JWTs, too (``rt+jwt``).
- A token is stored before it is handed out. What the store does not know is refused, however well it is signed.
- A token that was verified is remembered by its hash, for verifying costs a hundred times as much. On every use it is
  checked anew against its expiry, the store and its client; the certificate is ``authn``'s part.
- What failed is never remembered.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from gateway.clock import rfc3339
from gateway.config.values import TokenSettings
from gateway.identity.clients import refusal_of
from gateway.identity.keyring import MAX_TOKEN, Keyring, Opened
from gateway.identity.roles import all_roles
from gateway.model import Deny, Reason
from gateway.remembered import Remembered
from persistence.protocols import ClientStore, TokenStore
from persistence.records import ClientRecord, TokenKind, TokenRecord

TYPES: Final = {TokenKind.ACCESS: "at+jwt", TokenKind.REFRESH: "rt+jwt"}
"""The header's ``typ`` (RFC 9068 section 2.1; the second is our own)."""
TOKEN_ID_BYTES: Final = 16
"""128 random bits, written in hexadecimal: an id may stand on a command line."""
MAX_ISSUED: Final = 7168
"""Characters of a token that is handed out: with its header's name it fits into a line of 8 KiB."""
_REMEMBERED: Final = 32_768

_Text = Annotated[str, Meta(min_length=1, max_length=512)]
_Seconds = Annotated[int, Meta(ge=0, le=1 << 53)]


class _Confirmation(msgspec.Struct, frozen=True):
    """RFC 8705 section 3.1."""

    x5t_s256: Annotated[str, Meta(min_length=43, max_length=43)] = msgspec.field(name="x5t#S256")


class _Claims(msgspec.Struct, frozen=True):
    """What must be in every token of ours (RFC 7519 section 4.1, RFC 9068 section 2.2)."""

    iss: _Text
    aud: _Text | Annotated[list[_Text], Meta(min_length=1, max_length=16)]
    sub: _Text
    client_id: _Text
    user_id: _Text
    tenant_id: _Text
    jti: _Text
    type: TokenKind
    iat: _Seconds
    nbf: _Seconds
    exp: _Seconds
    auth_time: _Seconds
    cnf: _Confirmation | None = None

    def names_audience(self, audience: str) -> bool:
        """Whether the token is for ``audience``, perhaps among others."""
        return audience == self.aud if isinstance(self.aud, str) else audience in self.aud


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that is ours. Times are seconds since the epoch."""

    kind: TokenKind
    token_id: str
    client_id: str
    user_id: str
    tenant_id: str
    scope: str
    """What it was narrowed to; empty: not at all."""
    issued_at: int
    exp: int
    auth_time: int
    thumbprint: str | None
    """``x5t#S256``. Access token: good only with that certificate. Refresh token: it was issued with one."""
    family_id: str | None
    api_key_id: str | None
    """The API key that it was had with."""
    digest: bytes
    """SHA-256 of the token."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is issued for."""

    client: ClientRecord
    scope: str
    """What the token is narrowed to; empty: not at all."""
    permissions: str
    """What the token allows now, as a scope: for whoever reads it."""
    auth_time: int
    thumbprint: str | None = None
    family_id: str | None = None
    api_key_id: str | None = None
    roles_by_certificate: tuple[str, ...] = ()
    refresh_scope: str | None = None
    """What the refresh token is narrowed to, where it is not ``scope``."""
    lifetime: float | None = None
    """Seconds, where it is not the usual one."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What is handed out, once. Its repr shows no token."""

    token_id: str
    access_token: str
    refresh_token: str | None
    expires_in: int
    scope: str
    refresh: TokenRecord | None = None
    """The record of ``refresh_token``."""

    def __repr__(self) -> str:
        return f"Issued({self.token_id!r})"


class Tokens:
    """All tokens of one gateway."""

    def __init__(
        self,
        settings: TokenSettings,
        keyring: Keyring,
        store: TokenStore,
        clients: ClientStore,
        *,
        now: Callable[[], float],
        email_verified: Callable[[ClientRecord], bool] = lambda _client: False,
    ) -> None:
        """``email_verified``: whether the client's address was proven."""
        self._email_verified = email_verified
        self._settings = settings
        self._keyring = keyring
        self._store = store
        self._clients = clients
        self._now = now
        self._leeway = settings.leeway
        self._remembered: Remembered[bytes, VerifiedToken] = Remembered(_REMEMBERED)

    @property
    def access_ttl(self) -> float:
        """How long an access token lives, in seconds."""
        return self._settings.access_ttl

    # Issuing

    async def issue(self, grant: Grant, *, with_refresh: bool) -> Issued | Deny:
        """An access token and, if wanted, a refresh token, both stored. Raises StoreError."""
        now = int(self._now())
        family_id = grant.family_id
        if family_id is None and with_refresh:
            family_id = secrets.token_hex(TOKEN_ID_BYTES)
        access_token, access = self._make(TokenKind.ACCESS, grant, now, family_id)
        if len(access_token) > MAX_ISSUED:
            return Deny(
                Reason.INVALID_SCOPE,
                "The client's roles and permissions do not fit into a token: ask for a narrower scope.",
                client_id=grant.client.client_id,
            )
        refresh_token, refresh, records = None, None, [access]
        if with_refresh:
            refresh_token, refresh = self._make(TokenKind.REFRESH, grant, now, family_id)
            records.append(refresh)
        await self._store.put(*records)
        return Issued(
            access.token_id, access_token, refresh_token, access.exp - now, grant.permissions, refresh
        )

    def _make(
        self, kind: TokenKind, grant: Grant, now: int, family_id: str | None
    ) -> tuple[str, TokenRecord]:
        settings, client = self._settings, grant.client
        is_access = kind is TokenKind.ACCESS
        token_id = secrets.token_hex(TOKEN_ID_BYTES)
        exp = now + int(grant.lifetime or (settings.access_ttl if is_access else settings.refresh_ttl))
        claims: dict[str, Any] = {
            "iss": settings.issuer,
            "aud": settings.audience if is_access else settings.issuer,
            "sub": client.client_id,
            "client_id": client.client_id,
            "username": client.username,
            "user_id": client.user_id,
            "tenant_id": client.tenant_id,
            "jti": token_id,
            "type": kind.value,
            "iat": now,
            "nbf": now,
            "exp": exp,
            "auth_time": grant.auth_time,
        }
        if is_access:
            roles = all_roles(client, grant.roles_by_certificate)
            claims |= {"roles": list(roles), "scope": grant.permissions}
            if client.email is not None:
                # OpenID Connect Core 1.0 section 5.1.
                claims |= {"email": client.email, "email_verified": self._email_verified(client)}
            if grant.thumbprint is not None:
                claims["cnf"] = {"x5t#S256": grant.thumbprint}
        record = TokenRecord(
            token_id=token_id,
            client_id=client.client_id,
            tenant_id=client.tenant_id,
            kind=kind,
            exp=exp,
            created_at=rfc3339(now),
            family_id=family_id,
            scope=grant.scope if is_access or grant.refresh_scope is None else grant.refresh_scope,
            certificate_thumbprint=grant.thumbprint,
            api_key_id=grant.api_key_id,
        )
        return self._keyring.sign(TYPES[kind], claims), record

    # Verifying

    def verify(self, token: str, kind: TokenKind) -> tuple[VerifiedToken, ClientRecord] | Deny:
        """The token and its client, if it is of that kind and good now."""
        verified = self._recall(token)
        if isinstance(verified, Deny):
            return verified
        if verified.kind is not kind:
            return _refused(
                Reason.TOKEN_TYPE,
                "Access tokens are for calls, refresh tokens for /auth/refresh.",
                verified.client_id,
            )
        return self._check(verified)

    def verify_refresh(self, token: str) -> tuple[VerifiedToken, ClientRecord, TokenRecord] | Deny:
        """A refresh token, its client and its record, ended or not: ``Sessions`` knows what that means."""
        verified = self._recall(token)
        if isinstance(verified, Deny):
            return verified
        if verified.kind is not TokenKind.REFRESH:
            detail = "Send the refresh token, not the access token."
            return _refused(Reason.TOKEN_TYPE, detail, verified.client_id)
        record = self._store.get(verified.token_id)
        checked = self._check(verified, ended_too=True)
        if isinstance(checked, Deny) or record is None:
            return checked if isinstance(checked, Deny) else _unknown(verified.client_id)
        return *checked, record

    def inspect(self, token: str) -> tuple[VerifiedToken, ClientRecord] | Deny:
        """As ``verify``, for a token of either kind."""
        verified = self._recall(token)
        return verified if isinstance(verified, Deny) else self._check(verified)

    def is_current(self, token_id: str) -> bool:
        """Whether a token that was verified before has neither expired nor been revoked."""
        record = self._store.get(token_id)
        return record is not None and record.revoked_at is None and record.exp + self._leeway > self._now()

    def forget_verified(self) -> None:
        """The keys have changed: look at every token anew."""
        self._remembered.clear()

    def _recall(self, token: str) -> VerifiedToken | Deny:
        if len(token) > MAX_TOKEN or not token.isascii():
            return Deny(Reason.TOKEN_MALFORMED, f"A token has at most {MAX_TOKEN} characters of ASCII.")
        digest = hashlib.sha256(token.encode()).digest()
        return self._remembered.get(digest) or self._read(token, digest)

    def _check(
        self, token: VerifiedToken, *, ended_too: bool = False
    ) -> tuple[VerifiedToken, ClientRecord] | Deny:
        """What may have changed since the token was verified."""
        if token.exp + self._leeway <= self._now():
            self._remembered.forget(token.digest)
            return _refused(Reason.TOKEN_EXPIRED, "The token has expired: get a new one.", token.client_id)
        record = self._store.get(token.token_id)
        if record is None:
            return _unknown(token.client_id)
        if record.revoked_at is not None and not ended_too:
            return _refused(Reason.TOKEN_REVOKED, "The token was revoked: get a new one.", token.client_id)
        client = self._clients.get(token.client_id)
        refusal = refusal_of(client, token.client_id)
        if refusal is not None or client is None:
            return refusal or _unknown(token.client_id)
        if client.user_id != token.user_id or client.tenant_id != token.tenant_id:
            return _refused(
                Reason.CLIENT_UNKNOWN, "The token is of an earlier client of that name.", token.client_id
            )
        return token, client

    def _read(self, token: str, digest: bytes) -> VerifiedToken | Deny:
        """Everything about the token that never changes; good ones are remembered."""
        opened = self._keyring.open(token)
        if isinstance(opened, Deny):
            return opened
        try:
            claims = msgspec.convert(opened.claims, _Claims)
        except msgspec.ValidationError:
            return _refused(
                Reason.TOKEN_MALFORMED,
                "The token lacks a claim, or has one of the wrong kind.",
                _claimed_client(opened.claims),
            )
        refusal = self._refusal(opened.typ, claims)
        if refusal is not None:
            return refusal
        record = self._store.get(claims.jti)
        if record is None or (record.client_id, record.kind) != (claims.client_id, claims.type):
            return _unknown(claims.client_id)
        verified = VerifiedToken(
            kind=claims.type,
            token_id=claims.jti,
            client_id=claims.client_id,
            user_id=claims.user_id,
            tenant_id=claims.tenant_id,
            scope=record.scope,
            issued_at=claims.iat,
            exp=claims.exp,
            auth_time=claims.auth_time,
            thumbprint=record.certificate_thumbprint if claims.cnf is None else claims.cnf.x5t_s256,
            family_id=record.family_id,
            api_key_id=record.api_key_id,
            digest=digest,
        )
        self._remembered.put(digest, verified)
        return verified

    def _refusal(self, typ: str, claims: _Claims) -> Deny | None:
        settings, client_id = self._settings, claims.client_id
        is_access = claims.type is TokenKind.ACCESS
        if typ != TYPES[claims.type]:
            return _refused(Reason.TOKEN_TYPE, "The token's typ and type disagree.", client_id)
        if claims.iss != settings.issuer:
            return _refused(Reason.TOKEN_ISSUER, "The token is from another issuer.", client_id)
        if claims.sub != client_id:
            return _refused(Reason.TOKEN_MALFORMED, "The token names two clients.", client_id)
        if not claims.names_audience(settings.audience if is_access else settings.issuer):
            return _refused(Reason.TOKEN_AUDIENCE, "The token is for another audience.", client_id)
        if claims.exp + self._leeway <= self._now():
            return _refused(Reason.TOKEN_EXPIRED, "The token has expired: get a new one.", client_id)
        if max(claims.nbf, claims.iat) > self._now() + self._leeway:
            return _refused(Reason.TOKEN_NOT_YET_VALID, "The token is not valid yet.", client_id)
        return None

    # Revoking

    def find(self, token: str) -> TokenRecord | None:
        """The record of a token that was issued here; None: it was not, or it has expired."""
        opened = self._keyring.open(token) if token.isascii() else None
        if not isinstance(opened, Opened):
            return None
        token_id = opened.claims.get("jti")
        return self._store.get(token_id) if isinstance(token_id, str) else None

    def get(self, token_id: str) -> TokenRecord | None:
        """The record of that id."""
        return self._store.get(token_id)

    async def revoke(self, record: TokenRecord) -> int:
        """End an access token alone, a refresh token with its family; how many were live. Raises StoreError."""
        revoked_at = rfc3339(self._now())
        count = 0
        # Again until none is left: another may have been issued while the first ones were written.
        while live := [each for each in self._ended_with(record) if each.revoked_at is None]:
            await self._store.put(*(msgspec.structs.replace(each, revoked_at=revoked_at) for each in live))
            count += len(live)
        return count

    def leads_to_live(self, record: TokenRecord) -> bool:
        """Whether ``revoke`` would end anything."""
        return any(each.revoked_at is None for each in self._ended_with(record))

    async def end(self, *records: TokenRecord) -> int:
        """End these tokens alone; how many were live. Raises StoreError."""
        revoked_at = rfc3339(self._now())
        current = (self._store.get(each.token_id) for each in records)
        live = [each for each in current if each is not None and each.revoked_at is None]
        await self._store.put(*(msgspec.structs.replace(each, revoked_at=revoked_at) for each in live))
        return len(live)

    def of_client(self, client_id: str) -> Sequence[TokenRecord]:
        """The records of that client's tokens."""
        return self._store.of_client(client_id)

    def of_family(self, family_id: str) -> Sequence[TokenRecord]:
        """The records of that family's tokens."""
        return self._store.of_family(family_id)

    def _ended_with(self, record: TokenRecord) -> Sequence[TokenRecord]:
        if record.kind is TokenKind.REFRESH and record.family_id is not None:
            return self._store.of_family(record.family_id)
        current = self._store.get(record.token_id)
        return () if current is None else (current,)


def _refused(reason: Reason, detail: str, client_id: str | None) -> Deny:
    return Deny(reason, detail, client_id=client_id)


def _unknown(client_id: str) -> Deny:
    return _refused(Reason.TOKEN_UNKNOWN, "This gateway does not know the token: get a new one.", client_id)


def _claimed_client(claims: dict[str, Any]) -> str | None:
    client_id = claims.get("client_id")
    return client_id[:256] if isinstance(client_id, str) else None
