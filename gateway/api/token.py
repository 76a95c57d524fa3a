"""``/auth/token`` and ``/auth/refresh``.

A client is its account: the password grant and client credentials prove the same thing. What sets them apart is that
the password grant comes with a refresh token (RFC 6749 section 4.4.3). Where a certificate is there, the token is bound
to it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

import msgspec
from aiohttp import web

from gateway.api.issuing import Issuing, MfaRequired, TokenAnswer, token_response
from gateway.api.oauth import (
    CredentialsRefused,
    Parameters,
    Secret,
    body_parameters,
    sent_secret,
    url_parameters,
)
from gateway.api.wellknown import resource_identifiers
from gateway.config.values import Config
from gateway.description import Description, Refusals, described
from gateway.edge.handler import GatewayRequest
from gateway.identity.sessions import Reused
from gateway.identity.tokens import VerifiedToken
from gateway.model import ClientContext, Deny, Inbound, Proof, Reason, Refused
from persistence.records import ClientRecord, TokenRecord

PASSWORD: Final = "password"  # noqa: S105 - a grant type
CLIENT_CREDENTIALS: Final = "client_credentials"
REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105
GRANT_TYPES: Final = (PASSWORD, CLIENT_CREDENTIALS, REFRESH_TOKEN)


class TokenParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What may be in the URL: no secret."""

    grant_type: Literal["", "password", "client_credentials"] | msgspec.UnsetType = msgspec.UNSET
    scope: str | msgspec.UnsetType = msgspec.UNSET
    resource: str | msgspec.UnsetType = msgspec.UNSET


class TokenEndpoint:
    """The handlers that hand out tokens."""

    def __init__(self, *, config: Config, issuing: Issuing) -> None:
        self._resources = resource_identifiers(config)
        self._audience = config.tokens.audience
        self._issuing = issuing
        self._door = issuing.door
        self._authenticator = issuing.door.authenticator

    # Handlers

    @described(
        Description(
            "A token by name and password, or by the client certificate alone.",
            {200: (TokenAnswer, MfaRequired)},
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
            {200: (TokenAnswer, MfaRequired)},
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
        if secret is None and inbound.api_keys:
            return await self._by_api_key(inbound, parameters)
        if secret is None and inbound.authorization:
            raise Refused(
                Deny(Reason.UNSUPPORTED_CREDENTIALS, "Use a client certificate or a password for a token.")
            )
        by_password = _is_password_grant(inbound, parameters, secret)
        client = await self._door.prove(inbound, secret, parameters)
        self._door.limit(client.client_id, inbound)
        scope = self._issuing.scope(client, parameters.scope, inbound.peer)
        if secret is None:
            return await self._issuing.issue(inbound, client, Proof.CERTIFICATE, scope, session=False)
        return await self._issuing.by_password(inbound, client, scope, session=by_password)

    async def _by_api_key(self, inbound: Inbound, parameters: Parameters) -> web.Response:
        """An access token for an API key, within its scopes; it does not outlive the key."""
        if parameters.grant_type == PASSWORD:
            raise Refused(Deny(Reason.BAD_REQUEST, "With an API key, the grant is client_credentials."))
        context = self._authenticator.authenticate(inbound)
        if isinstance(context, Deny):
            raise Refused(context)
        client = self._issuing.client(context, parameters.client_id)
        self._door.limit(client.client_id, inbound)
        scope = self._issuing.scope(client, parameters.scope, inbound.peer, context.scope)
        return await self._issuing.issue_for_key(inbound, client, scope, context)

    def _require_target(self, parameters: Parameters) -> None:
        """RFC 8707 section 2: each ``resource`` is one that our tokens are for."""
        if not self._resources.issuperset(parameters.resources):
            detail = f"Tokens of this gateway are for {self._audience} alone."
            raise Refused(Deny(Reason.INVALID_TARGET, detail))

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
        verified = self._issuing.tokens.verify_refresh(parameters.refresh_token)
        if isinstance(verified, Deny):
            raise CredentialsRefused(verified, invalid_grant=True)
        token, client, record = verified
        if not {caller.client_id, parameters.client_id} <= {None, client.client_id}:
            detail = "The refresh token was issued to another client."
            deny = Deny(Reason.INVALID_GRANT, detail, client_id=caller.client_id)
            raise CredentialsRefused(deny, invalid_grant=True)
        self._door.limit(client.client_id, inbound)
        allowed = inbound.peer is not None or not (token.thumbprint or client.require_certificate)
        self._authenticator.notice_use(token, inbound, allowed=allowed)
        if not allowed:
            raise Refused(_certificate_required(client))
        self._issuing.require_second_factor(client, record)
        return await self._renew(inbound, parameters.scope, token, client, record)

    async def _renew(
        self,
        inbound: Inbound,
        wanted: str | None,
        token: VerifiedToken,
        client: ClientRecord,
        record: TokenRecord,
    ) -> web.Response:
        """The tokens that follow. Raises Refused."""
        scope = self._issuing.scope(client, wanted, inbound.peer, token.scope)
        family_id = token.family_id or token.token_id
        grant = self._issuing.grant(client, scope, inbound.peer, token.auth_time, family_id)
        # RFC 6749 section 6: a narrower scope is for the access token alone.
        grant = replace(grant, refresh_scope=token.scope)
        renewed = await self._issuing.sessions.renew(record, grant, inbound)
        context = self._authenticator.context(client, Proof.TOKEN, inbound.peer, token)
        if isinstance(renewed, Reused):
            await self._door.record_failure("token_reuse", inbound, context, record)
            raise CredentialsRefused(renewed.deny, invalid_grant=True)
        if isinstance(renewed, Deny):
            raise CredentialsRefused(renewed, invalid_grant=True)
        await self._door.record("token_refreshed", inbound, context, renewed.token_id)
        return token_response(renewed)


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


def _certificate_required(client: ClientRecord) -> Deny:
    detail = "This needs the client's certificate: connect with it."
    return Deny(Reason.CERTIFICATE_REQUIRED, detail, client_id=client.client_id)
