"""``/auth/token``, ``/auth/refresh``, ``/auth/revoke`` and ``/auth/introspect``.

A client is its account: the password grant and client credentials prove the same thing. What sets them apart is that
the password grant comes with a refresh token (RFC 6749 section 4.4.3).

Where a certificate is there it must be the client's, and the token is bound to it. Every token that is handed out, and
every refusal, is in the audit before the reply leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from certs.identity import PeerIdentity
from gateway.api.oauth import (
    NO_STORE,
    GrantRefused,
    Parameters,
    Secret,
    body_parameters,
    oauth_error,
    sent_secret,
    url_parameters,
)
from gateway.audit import Audit
from gateway.authn import UNMAPPED, Authenticator
from gateway.config import Config
from gateway.edge import GatewayRequest
from gateway.identity.clients import Passwords
from gateway.identity.roles import requested_scope, scope_of
from gateway.identity.tokens import Grant, Issued, Tokens, VerifiedToken
from gateway.model import ClientContext, Deny, Inbound, Proof, Reason, Refused
from persistence.records import AuditStatus, ClientRecord, StoreError, Stores, TokenKind, TokenRecord

log = logging.getLogger("ostiary.errors")

PASSWORD: Final = "password"  # noqa: S105 - a grant type
CLIENT_CREDENTIALS: Final = "client_credentials"
REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105
GRANT_TYPES: Final = (PASSWORD, CLIENT_CREDENTIALS, REFRESH_TOKEN)
CLIENT_AUTHENTICATION: Final = ("client_secret_basic", "client_secret_post", "tls_client_auth")
"""How clients authenticate (RFC 8414 section 2, RFC 8705 section 2.1.1)."""

TOKENS_READ: Final = "tokens:read"
TOKENS_WRITE: Final = "tokens:write"
ACROSS_TENANTS: Final = "platform:tokens"
"""What other tenants' tokens need beside."""


class TokenEndpoint:
    """The handlers. They read the credentials themselves, for here passwords are accepted."""

    def __init__(
        self,
        *,
        config: Config,
        tokens: Tokens,
        passwords: Passwords,
        authenticator: Authenticator,
        stores: Stores,
        audit: Audit,
        now: Callable[[], float],
    ) -> None:
        self._audience = config.tokens.audience
        self._issuer = config.tokens.issuer
        self._mcp_url = f"{config.server.public_url.rstrip('/')}/mcp"
        self._tokens = tokens
        self._passwords = passwords
        self._authenticator = authenticator
        self._clients = stores.clients
        self._audit = audit
        self._now = now

    # Handlers

    async def get(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``GET /auth/token``: Basic, or a certificate alone."""
        return await self._answered(request, inbound, self._get(request, inbound))

    async def post(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/token`` (RFC 6749 section 3.2)."""
        return await self._answered(request, inbound, self._post(request, inbound))

    async def refresh(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/refresh``: the refresh grant under a name of its own."""
        return await self._answered(request, inbound, self._refresh(request, inbound), bearer=True)

    async def revoke(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/revoke`` (RFC 7009); ``token_id`` in place of ``token`` for who has no more than that."""
        return await self._answered(request, inbound, self._revoke(request, inbound), bearer=True)

    async def introspect(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/introspect`` (RFC 7662)."""
        return await self._answered(request, inbound, self._introspect(request, inbound), bearer=True)

    async def _answered(
        self,
        request: GatewayRequest,
        inbound: Inbound,
        answer: Awaitable[web.Response],
        *,
        bearer: bool = False,
    ) -> web.Response:
        """The answer, or the refusal in OAuth's form, once it is in the audit."""
        invalid_grant = False
        try:
            return await answer
        except GrantRefused as refused:
            deny, invalid_grant = refused.deny, True
        except Refused as refused:
            deny = refused.deny
        except StoreError as error:
            log.critical("the store cannot be written: %s", error)
            deny = Deny(Reason.STORE_UNAVAILABLE, "The gateway cannot keep its records now: try again later.")
        self._audit.refused(inbound, deny)
        response = oauth_error(deny, inbound.request_id, invalid_grant=invalid_grant, bearer=bearer)
        if not request.content.is_eof():
            response.force_close()
        return response

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
        by_password = _is_password_grant(parameters, secret)
        client = await self._prove(inbound, secret, parameters)
        scope = self._scope(client, parameters.scope, "")
        grant = self._grant(client, scope, inbound.peer, int(self._now()))
        issued = await self._tokens.issue(grant, with_refresh=by_password)
        if isinstance(issued, Deny):
            raise Refused(issued)
        proof = Proof.CERTIFICATE if secret is None else Proof.PASSWORD
        context = self._authenticator.context(client, proof, inbound.peer)
        if by_password:
            await self._record("login", inbound, context, issued.token_id)
        await self._record("token_issued", inbound, context, issued.token_id)
        return _token_response(issued, issued.refresh_token)

    async def _prove(self, inbound: Inbound, secret: Secret | None, parameters: Parameters) -> ClientRecord:
        """The client that the password or the certificate proves; where both are there they agree. Raises Refused."""
        certified = self._certified(inbound.peer)
        if secret is None:
            if certified is None:
                raise Refused(
                    Deny(
                        Reason.AUTHENTICATION_REQUIRED,
                        "Send a name and password, or connect with a certificate.",
                    )
                )
            if parameters.client_id not in {None, certified.client_id}:
                raise Refused(_mismatch(parameters.client_id))
            return certified
        if certified is not None and certified.client_id != secret.name:
            raise Refused(_mismatch(secret.name))
        client = await self._passwords.verify(self._clients, secret.name, secret.readings, inbound.address)
        if isinstance(client, Deny):
            raise GrantRefused(client) if secret.is_grant else Refused(client)
        if client.require_certificate and certified is None:
            raise Refused(_certificate_required(client))
        return client

    def _certified(self, peer: PeerIdentity | None) -> ClientRecord | None:
        """The client of the connection's certificate; None: there is no certificate. Raises Refused for others."""
        if peer is None:
            return None
        certified = self._authenticator.certified(peer)
        if isinstance(certified, Deny):
            raise Refused(certified)
        if certified is None:
            raise Refused(UNMAPPED)
        return certified

    def _require_target(self, parameters: Parameters) -> None:
        """RFC 8707 section 2: each ``resource`` is one that our tokens are for."""
        for resource in parameters.resources:
            within = f"{resource.rstrip('/')}/".startswith(f"{self._mcp_url}/") and not {*"?#"} & {*resource}
            if resource != self._audience and not within:
                raise Refused(
                    Deny(Reason.INVALID_TARGET, f"Tokens of this gateway are for {self._audience} alone.")
                )

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
        caller = await self._caller(inbound, parameters)
        verified = self._tokens.verify(parameters.refresh_token, TokenKind.REFRESH)
        if isinstance(verified, Deny):
            raise GrantRefused(verified)
        token, client = verified
        if not {caller.client_id, parameters.client_id} <= {None, client.client_id}:
            detail = "The refresh token was issued to another client."
            raise GrantRefused(Deny(Reason.INVALID_GRANT, detail, client_id=caller.client_id))
        if inbound.peer is None and (token.thumbprint is not None or client.require_certificate):
            raise Refused(_certificate_required(client))
        scope = self._scope(client, parameters.scope, token.scope)
        grant = self._grant(client, scope, inbound.peer, token.auth_time, token.family_id)
        issued = await self._tokens.issue(grant, with_refresh=False)
        if isinstance(issued, Deny):
            raise Refused(issued)
        await self._end_if_revoked(token, issued)
        context = self._authenticator.context(client, Proof.TOKEN, inbound.peer, token)
        await self._record("token_refreshed", inbound, context, issued.token_id)
        return _token_response(issued, self._next_refresh_token(parameters.refresh_token))

    async def _end_if_revoked(self, parent: VerifiedToken, issued: Issued) -> None:
        """The family may have been revoked while its new token was being stored. Raises Refused."""
        if self._tokens.is_current(parent.token_id):
            return
        record = self._tokens.get(issued.token_id)
        if record is not None:
            await self._tokens.revoke(record)
        deny = Deny(Reason.TOKEN_REVOKED, "The refresh token was revoked.", client_id=parent.client_id)
        raise GrantRefused(deny)

    def _next_refresh_token(self, used: str) -> str:
        """The refresh token that follows the used one: the same. Rotation has its place here."""
        return used

    # Revoking and looking

    async def _revoke(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        parameters = await body_parameters(request)
        caller = await self._known_caller(inbound, parameters)
        if (parameters.token is None) == (parameters.token_id is None):
            raise Refused(Deny(Reason.BAD_REQUEST, "Send either token or token_id."))
        if parameters.token is not None:
            record = self._tokens.find(parameters.token)
        else:
            record = self._tokens.get(parameters.token_id or "")
            if record is None and not caller.permissions.cover((TOKENS_WRITE,)):
                raise Refused(_not_yours(caller))  # as for one that exists: who may not know learns nothing
        if record is not None and not _may(caller, record, TOKENS_WRITE):
            raise Refused(_not_yours(caller))
        if record is not None and record.revoked_at is None:
            await self._record("token_revoked", inbound, caller, record.token_id, target=record.client_id)
            await self._tokens.revoke(record)
        return web.json_response({}, headers=NO_STORE)

    async def _introspect(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        parameters = await body_parameters(request)
        caller = await self._known_caller(inbound, parameters)
        if parameters.token is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "token is missing."))
        verified = self._tokens.inspect(parameters.token)
        if isinstance(verified, Deny) or not _may(caller, verified[0], TOKENS_READ):
            return web.json_response({"active": False}, headers=NO_STORE)
        return web.json_response(self._description(*verified), headers=NO_STORE)

    def _description(self, token: VerifiedToken, client: ClientRecord) -> dict[str, Any]:
        """RFC 7662 section 2.2."""
        is_access = token.kind is TokenKind.ACCESS
        description = {
            "active": True,
            "client_id": client.client_id,
            "username": client.username,
            "user_id": client.user_id,
            "tenant_id": client.tenant_id,
            "sub": client.client_id,
            "scope": scope_of(self._authenticator.permissions(client, token.scope)),
            "token_type": "Bearer" if is_access else "refresh_token",
            "iss": self._issuer,
            "aud": self._audience if is_access else self._issuer,
            "jti": token.token_id,
            "iat": token.issued_at,
            "nbf": token.issued_at,
            "exp": token.exp,
            "auth_time": token.auth_time,
        }
        if is_access and token.thumbprint is not None:
            description["cnf"] = {"x5t#S256": token.thumbprint}
        return description

    # What they share

    async def _known_caller(self, inbound: Inbound, parameters: Parameters) -> ClientContext:
        caller = await self._caller(inbound, parameters)
        if caller.anonymous:
            detail = "Authenticate with a certificate, a password or a token."
            raise Refused(Deny(Reason.AUTHENTICATION_REQUIRED, detail))
        return caller

    async def _caller(self, inbound: Inbound, parameters: Parameters) -> ClientContext:
        """Who asks: by password, or as everywhere else. Raises Refused."""
        secret = sent_secret(inbound, parameters)
        if secret is not None:
            client = await self._prove(inbound, secret, parameters)
            return self._authenticator.context(client, Proof.PASSWORD, inbound.peer)
        self._certified(inbound.peer)  # here a certificate that names nobody is no anonymous caller
        context = self._authenticator.authenticate(inbound)
        if isinstance(context, Deny):
            raise Refused(context)
        return context

    async def _record(
        self, event: str, inbound: Inbound, context: ClientContext, token_id: str, target: str | None = None
    ) -> None:
        """One entry, durable on return. Raises Refused."""
        entry = self._audit.entry(event, AuditStatus.OK, inbound, context, token_id=token_id, target=target)
        await self._audit.record(entry)


def _is_password_grant(parameters: Parameters, secret: Secret | None) -> bool:
    """Which grant it is, where ``grant_type`` may be left out. Raises Refused."""
    if parameters.grant_type == CLIENT_CREDENTIALS:
        if secret is not None and secret.is_grant:
            raise Refused(Deny(Reason.BAD_REQUEST, "client_credentials takes client_id and client_secret."))
        return False
    if parameters.grant_type == PASSWORD:
        if secret is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "username and password are missing."))
        return True
    return secret is not None and parameters.client_secret is None


def _token_response(issued: Issued, refresh_token: str | None) -> web.Response:
    """RFC 6749 section 5.1."""
    answer: dict[str, Any] = {
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "scope": issued.scope,
    }
    if refresh_token is not None:
        answer["refresh_token"] = refresh_token
    return web.json_response(answer, headers=NO_STORE)


def _may(caller: ClientContext, token: TokenRecord | VerifiedToken, permission: str) -> bool:
    """Whether the token is the caller's own, or the caller may see to those of others."""
    if caller.tenant_id != token.tenant_id:
        return caller.permissions.cover((permission, ACROSS_TENANTS))
    return caller.client_id == token.client_id or caller.permissions.cover((permission,))


def _mismatch(client_id: str | None) -> Deny:
    detail = "The certificate is another client's than the one that is named."
    return Deny(Reason.CERTIFICATE_MISMATCH, detail, client_id=client_id)


def _certificate_required(client: ClientRecord) -> Deny:
    detail = "This needs the client's certificate: connect with it."
    return Deny(Reason.CERTIFICATE_REQUIRED, detail, client_id=client.client_id)


def _not_yours(caller: ClientContext) -> Deny:
    detail = "The token is not yours to revoke."
    return Deny(Reason.PERMISSION_DENIED, detail, permissions=(TOKENS_WRITE,), client_id=caller.client_id)
