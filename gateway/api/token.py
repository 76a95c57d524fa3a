"""``/auth/token`` and ``/auth/refresh``.

A client is its account: the password grant and client credentials prove the same thing. What sets them apart is that
the password grant comes with a refresh token (RFC 6749 section 4.4.3). Where a certificate is there, the token is bound
to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

import msgspec
from aiohttp import web

from certs.identity import PeerIdentity
from gateway.api.oauth import (
    NO_STORE,
    CredentialsRefused,
    Parameters,
    Secret,
    body_parameters,
    sent_secret,
    url_parameters,
)
from gateway.api.oauth_door import OAuthDoor
from gateway.api.wellknown import resource_identifiers
from gateway.config import Config
from gateway.description import Description, Refusals, described
from gateway.edge import GatewayRequest
from gateway.identity.roles import requested_scope, scope_of
from gateway.identity.tokens import Grant, Issued, Tokens, VerifiedToken
from gateway.model import ClientContext, Deny, Inbound, Proof, Reason, Refused
from persistence.records import ClientRecord, TokenKind

PASSWORD: Final = "password"  # noqa: S105 - a grant type
CLIENT_CREDENTIALS: Final = "client_credentials"
REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105
GRANT_TYPES: Final = (PASSWORD, CLIENT_CREDENTIALS, REFRESH_TOKEN)


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 6749 section 5.1. Its repr shows no token."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str
    refresh_token: str | msgspec.UnsetType = msgspec.UNSET

    def __repr__(self) -> str:
        return "TokenAnswer(…)"


class TokenParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What may be in the URL: no secret."""

    grant_type: Literal["password", "client_credentials"] | msgspec.UnsetType = msgspec.UNSET
    scope: str | msgspec.UnsetType = msgspec.UNSET
    resource: str | msgspec.UnsetType = msgspec.UNSET


class TokenEndpoint:
    """The handlers that hand out tokens."""

    def __init__(self, *, config: Config, tokens: Tokens, door: OAuthDoor, now: Callable[[], float]) -> None:
        self._resources = resource_identifiers(config)
        self._audience = config.tokens.audience
        self._tokens = tokens
        self._door = door
        self._authenticator = door.authenticator
        self._now = now

    # Handlers

    @described(
        Description(
            "A token by name and password, or by the client certificate alone.",
            {200: TokenAnswer},
            query=TokenParameters,
            form_of_refusals=Refusals.OAUTH,
        )
    )
    async def get(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``GET /auth/token``: Basic, or a certificate alone."""
        return await self._door.answer(request, inbound, self._get)

    @described(
        Description(
            "A token by password, client credentials or refresh token (RFC 6749 section 3.2).",
            {200: TokenAnswer},
            body=Parameters,
            needs_body=False,
            form=True,
            form_of_refusals=Refusals.OAUTH,
        )
    )
    async def post(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/token`` (RFC 6749 section 3.2)."""
        return await self._door.answer(request, inbound, self._post)

    @described(
        Description(
            "A new access token for a refresh token.",
            {200: TokenAnswer},
            body=Parameters,
            form=True,
            form_of_refusals=Refusals.OAUTH,
        )
    )
    async def refresh(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/refresh``: the refresh grant under a name of its own."""
        return await self._door.answer(request, inbound, self._refresh, bearer=True)

    # Issuing

    async def _get(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        if inbound.method != "GET":  # HEAD would issue a token that nobody sees
            deny = Deny(Reason.METHOD_NOT_ALLOWED, "Use GET or POST.", allow=("GET", "POST"))
            raise Refused(deny)
        return await self._issue(inbound, url_parameters(request))

    async def _post(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        parameters = await body_parameters(request)
        if parameters.grant_type == REFRESH_TOKEN:
            return await self._exchange(inbound, parameters)
        return await self._issue(inbound, parameters)

    async def _issue(self, inbound: Inbound, parameters: Parameters) -> web.Response:
        if parameters.grant_type not in {None, PASSWORD, CLIENT_CREDENTIALS}:
            raise Refused(Deny(Reason.UNSUPPORTED_GRANT_TYPE, f"Use one of: {', '.join(GRANT_TYPES)}."))
        self._require_target(parameters)
        secret = sent_secret(inbound, parameters)
        if secret is None and (inbound.authorization or inbound.api_keys):
            raise Refused(
                Deny(Reason.UNSUPPORTED_CREDENTIALS, "Use a client certificate or a password for a token.")
            )
        by_password = _is_password_grant(inbound, parameters, secret)
        client = await self._door.prove(inbound, secret, parameters)
        self._door.limit(client.client_id, inbound)
        scope = self._scope(client, parameters.scope, "")
        grant = self._grant(client, scope, inbound.peer, int(self._now()))
        issued = await self._tokens.issue(grant, with_refresh=by_password)
        if isinstance(issued, Deny):
            raise Refused(issued)
        proof = Proof.CERTIFICATE if secret is None else Proof.PASSWORD
        context = self._authenticator.context(client, proof, inbound.peer)
        if by_password:
            await self._door.record("login", inbound, context, issued.token_id)
        await self._door.record("token_issued", inbound, context, issued.token_id)
        return _token_response(issued, issued.refresh_token)

    def _require_target(self, parameters: Parameters) -> None:
        """RFC 8707 section 2: each ``resource`` is one that our tokens are for."""
        if not self._resources.issuperset(parameters.resources):
            detail = f"Tokens of this gateway are for {self._audience} alone."
            raise Refused(Deny(Reason.INVALID_TARGET, detail))

    def _scope(self, client: ClientRecord, wanted: str | None, limit: str) -> str:
        """The scope of a new token, within ``limit`` if there is one. Raises Refused."""
        scope = requested_scope(wanted, self._authenticator.permissions(client, limit))
        if isinstance(scope, Deny):
            raise Refused(replace(scope, client_id=client.client_id))
        return scope or limit

    def _grant(
        self,
        client: ClientRecord,
        scope: str,
        peer: PeerIdentity | None,
        auth_time: int,
        family_id: str | None = None,
    ) -> Grant:
        return Grant(
            client=client,
            scope=scope,
            permissions=scope_of(self._authenticator.permissions(client, scope)),
            auth_time=auth_time,
            thumbprint=None if peer is None else peer.fingerprint,
            family_id=family_id,
        )

    # Refreshing

    async def _refresh(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        parameters = await body_parameters(request)
        if parameters.grant_type not in {None, REFRESH_TOKEN}:
            raise Refused(Deny(Reason.UNSUPPORTED_GRANT_TYPE, "Use /auth/token for other grants."))
        return await self._exchange(inbound, parameters)

    async def _exchange(self, inbound: Inbound, parameters: Parameters) -> web.Response:
        """A refresh token for an access token (RFC 6749 section 6). It identifies its client by itself."""
        if parameters.refresh_token is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "refresh_token is missing."))
        self._require_target(parameters)
        caller = await self._door.caller(inbound, parameters)
        verified = self._tokens.verify(parameters.refresh_token, TokenKind.REFRESH)
        if isinstance(verified, Deny):
            raise CredentialsRefused(verified, invalid_grant=True)
        token, client = verified
        if not {caller.client_id, parameters.client_id} <= {None, client.client_id}:
            detail = "The refresh token was issued to another client."
            deny = Deny(Reason.INVALID_GRANT, detail, client_id=caller.client_id)
            raise CredentialsRefused(deny, invalid_grant=True)
        self._door.limit(client.client_id, inbound)
        allowed = inbound.peer is not None or not (token.thumbprint or client.require_certificate)
        self._authenticator.notice_use(token, inbound, allowed=allowed)
        if not allowed:
            raise Refused(_certificate_required(client))
        scope = self._scope(client, parameters.scope, token.scope)
        grant = self._grant(client, scope, inbound.peer, token.auth_time, token.family_id)
        issued = await self._tokens.issue(grant, with_refresh=False)
        if isinstance(issued, Deny):
            raise Refused(issued)
        await self._end_if_revoked(token, issued)
        context = self._authenticator.context(client, Proof.TOKEN, inbound.peer, token)
        await self._door.record("token_refreshed", inbound, context, issued.token_id)
        return _token_response(issued, self._next_refresh_token(parameters.refresh_token))

    async def _end_if_revoked(self, parent: VerifiedToken, issued: Issued) -> None:
        """The family may have been revoked while its new token was being stored. Raises Refused."""
        if self._tokens.is_current(parent.token_id):
            return
        record = self._tokens.get(issued.token_id)
        if record is not None:
            await self._tokens.revoke(record)
        deny = Deny(Reason.TOKEN_REVOKED, "The refresh token was revoked.", client_id=parent.client_id)
        raise CredentialsRefused(deny, invalid_grant=True)

    def _next_refresh_token(self, used: str) -> str:
        """The refresh token that follows the used one: the same. Rotation has its place here."""
        return used


def _is_password_grant(inbound: Inbound, parameters: Parameters, secret: Secret | None) -> bool:
    """Which grant it is, where ``grant_type`` may be left out. Raises Refused.

    RFC 6749 section 4.3.2: the password grant is a ``username`` and a ``password``; a client's authentication is not
    enough. GET has no body, so there Basic carries them.
    """
    in_body = secret is not None and secret.is_grant
    by_user = in_body or (secret is not None and inbound.method == "GET")
    if parameters.grant_type == CLIENT_CREDENTIALS:
        if in_body:
            raise Refused(Deny(Reason.BAD_REQUEST, "client_credentials takes client_id and client_secret."))
        return False
    if parameters.grant_type == PASSWORD and not by_user:
        raise Refused(Deny(Reason.BAD_REQUEST, "username and password are missing."))
    return by_user


def _token_response(issued: Issued, refresh_token: str | None) -> web.Response:
    """RFC 6749 section 5.1."""
    answer = TokenAnswer(
        access_token=issued.access_token,
        token_type="Bearer",  # noqa: S106 - a kind of token
        expires_in=issued.expires_in,
        scope=issued.scope,
        refresh_token=msgspec.UNSET if refresh_token is None else refresh_token,
    )
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json", headers=NO_STORE)


def _certificate_required(client: ClientRecord) -> Deny:
    detail = "This needs the client's certificate: connect with it."
    return Deny(Reason.CERTIFICATE_REQUIRED, detail, client_id=client.client_id)
