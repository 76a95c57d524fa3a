"""Requests to one upstream, with what proves the gateway to it, and with the name of its caller where that is wanted.

The caller's own token goes nowhere: a field of it never reaches this room. Each upstream has its own connections, so
none is shared where the credential differs.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import jwt
import msgspec

from gateway.config.values import HttpUpstream, OAuthClient, UpstreamCredentials
from gateway.outbound.client import (
    EncodedHeaders,
    Headers,
    HttpClient,
    OutboundError,
    Response,
    encode_headers,
)

log = logging.getLogger("ostiary.mcp")

Owner = tuple[str | None, str | None]
"""(tenant_id, client_id) of whom a request is sent for."""
Sign = Callable[[str, dict[str, Any]], str]
"""Makes a JWS of a ``typ`` and claims."""

ASSERTION_FIELD: Final = "Ostiary-Identity"
ASSERTION_TYPE: Final = "ostiary-identity+jwt"
"""No access token: nobody can take it for one, the gateway itself included (RFC 8725 section 3.11)."""
ASSERTION_SECONDS: Final = 60
EARLY_SECONDS: Final = 30.0
"""A token is fetched anew so long before it expires, or after half its life."""
TOKEN_SECONDS: Final = 10.0
"""How long the token endpoint may take."""
DEFAULT_LIFE: Final = 300.0
MAX_ANSWER: Final = 64 * 1024
_FORM: Final = "application/x-www-form-urlencoded"


class CredentialError(OutboundError):
    """There is nothing to prove the gateway with: the request was not sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class UpstreamClient:
    """Sends to one upstream. Made and used within one running event loop."""

    def __init__(self, settings: HttpUpstream, sign: Sign, *, issuer: str, now: Callable[[], float]) -> None:
        """``sign`` is the gateway's own; it is not asked where the upstream has a secret for that. Raises ValueError."""
        credentials = settings.credentials
        tls = _tls(credentials)
        self._client = HttpClient(
            settings.url, ssl_context=tls if settings.url.startswith("https:") else None
        )
        self._assertion = (
            _Assertion(settings.url, credentials, sign, issuer, now) if credentials.assert_identity else None
        )
        self._fixed = encode_headers([credentials.header]) if credentials.header is not None else None
        self._tokens = (
            _Tokens(settings.name, credentials.oauth, tls) if credentials.oauth is not None else None
        )
        self._plain = self._assertion is None and self._fixed is None and self._tokens is None

    def send(
        self,
        method: str,
        target: str,
        headers: Headers | EncodedHeaders,
        body: bytes | None = None,
        *,
        owner: Owner,
    ) -> Awaitable[Response]:
        """Send a request for ``owner``. Raises OutboundError."""
        if self._plain:
            return self._client.send(method, target, headers, body)
        return self._send(method, target, headers, body, owner)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()
        if self._tokens is not None:
            await self._tokens.close()

    async def _send(
        self, method: str, target: str, headers: Headers | EncodedHeaders, body: bytes | None, owner: Owner
    ) -> Response:
        fields = headers if isinstance(headers, EncodedHeaders) else encode_headers(headers)
        if self._fixed is not None:
            fields = _joined(fields, self._fixed)
        if self._assertion is not None:
            fields = _joined(fields, self._assertion.field(owner))
        if self._tokens is None:
            return await self._client.send(method, target, fields, body)
        token = await self._tokens.token()
        response = await self._client.send(method, target, _joined(fields, _bearer(token)), body)
        if response.status != 401:
            return response
        await response.read(MAX_ANSWER)  # it was refused, so nothing was done: once more, with a new token
        self._tokens.spoilt(token)
        token = await self._tokens.token()
        return await self._client.send(method, target, _joined(fields, _bearer(token)), body)


class _Assertion:
    """Says who calls: a JWT that is good for one upstream and a minute."""

    def __init__(
        self,
        audience: str,
        credentials: UpstreamCredentials,
        sign: Sign,
        issuer: str,
        now: Callable[[], float],
    ) -> None:
        self._audience = audience
        self._issuer = issuer
        self._now = now
        self._sign = (
            sign if credentials.identity_secret is None else _with_secret(credentials.identity_secret)
        )

    def field(self, owner: Owner) -> EncodedHeaders:
        """The field for that caller; none for an anonymous one, and for the gateway itself."""
        tenant_id, client_id = owner
        if not client_id:
            return _NOTHING
        issued = int(self._now())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": client_id,
            "client_id": client_id,
            "tenant_id": tenant_id,
            "iat": issued,
            "exp": issued + ASSERTION_SECONDS,
            "jti": uuid4().hex,
        }
        return encode_headers([(ASSERTION_FIELD, self._sign(ASSERTION_TYPE, claims))])


class _Tokens:
    """The gateway's own token for one upstream (RFC 6749 section 4.4), asked for once by whoever needs it first."""

    def __init__(self, upstream: str, oauth: OAuthClient, tls: ssl.SSLContext | None) -> None:
        self._upstream = upstream
        parts = urlsplit(oauth.token_url)
        self._client = HttpClient(oauth.token_url, ssl_context=tls if parts.scheme == "https" else None)
        self._target = parts.path or "/"
        pair = f"{quote(oauth.client_id, safe='')}:{quote(oauth.client_secret, safe='')}"
        self._headers = encode_headers(
            [
                ("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"),
                ("Content-Type", _FORM),
                ("Accept", "application/json"),
            ]
        )
        scope = {"scope": oauth.scope} if oauth.scope else {}
        self._body = urlencode({"grant_type": "client_credentials", **scope}).encode()
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._token: str | None = None
        self._until = 0.0

    async def token(self) -> str:
        """A token that is good for now. Raises CredentialError."""
        async with self._turn:
            if self._token is None or self._loop.time() >= self._until:
                self._token = None
                self._token, life = await self._fetch()
                self._until = self._loop.time() + max(life - EARLY_SECONDS, life / 2)
            return self._token

    def spoilt(self, token: str) -> None:
        """The upstream does not take that one."""
        if self._token == token:
            self._token = None

    async def close(self) -> None:
        await self._client.close()

    async def _fetch(self) -> tuple[str, float]:
        try:
            async with asyncio.timeout(TOKEN_SECONDS):
                response = await self._client.send("POST", self._target, self._headers, self._body)
                answer = await response.read(MAX_ANSWER)
        except TimeoutError:
            raise self._failed("does not answer") from None
        except OutboundError:
            raise self._failed("cannot be reached") from None
        if response.status != 200:
            raise self._failed(f"answered with HTTP status {response.status}")
        try:
            granted = msgspec.json.decode(answer, type=_Granted)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise self._failed("answered with something that is no token") from None
        usable = (
            granted.access_token.isascii() and granted.access_token.isprintable() and granted.access_token
        )
        if not usable or granted.token_type.lower() != "bearer":
            raise self._failed("answered with a token that cannot be used")
        return granted.access_token, max(float(granted.expires_in or DEFAULT_LIFE), 1.0)

    def _failed(self, what: str) -> CredentialError:
        log.warning("upstream %s: its token endpoint %s", self._upstream, what)
        return CredentialError(f"The token endpoint {what}.")


class _Granted(msgspec.Struct, frozen=True):
    """What a token endpoint answers (RFC 6749 section 5.1)."""

    access_token: str
    token_type: str
    expires_in: float | None = None


_NOTHING: Final = encode_headers([])


def _joined(fields: EncodedHeaders, more: EncodedHeaders) -> EncodedHeaders:
    return replace(fields, block=fields.block + more.block, names=fields.names | more.names)


def _bearer(token: str) -> EncodedHeaders:
    return encode_headers([("Authorization", f"Bearer {token}")])


def _with_secret(secret: str) -> Sign:
    def sign(typ: str, claims: dict[str, Any]) -> str:
        return jwt.PyJWS().encode(msgspec.json.encode(claims), secret.encode(), "HS256", {"typ": typ})

    return sign


def _tls(credentials: UpstreamCredentials) -> ssl.SSLContext | None:
    """None: the system's certificate authorities, and no certificate of our own."""
    if credentials.ca is None and credentials.client_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if credentials.ca is not None:
        context.load_verify_locations(cafile=str(credentials.ca))
    else:
        context.load_default_certs()
    if credentials.client_certificate is not None and credentials.client_key is not None:
        context.load_cert_chain(credentials.client_certificate, credentials.client_key)
    return context
