"""``/auth/revoke`` and ``/auth/introspect``: one's own tokens, and those of others for who may see to them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.api.oauth import NO_STORE, Parameters, body_parameters
from gateway.api.oauth_door import OAuthDoor
from gateway.config.values import Config
from gateway.description import Description, Refusals, described
from gateway.edge.handler import GatewayRequest
from gateway.identity.roles import scope_of
from gateway.identity.tokens import Tokens, VerifiedToken
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from persistence.records import ClientRecord, TokenKind, TokenRecord

TOKENS_READ: Final = "tokens:read"
TOKENS_WRITE: Final = "tokens:write"
ACROSS_TENANTS: Final = "platform:tokens"
"""What other tenants' tokens need beside."""


class Introspection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 7662 section 2.2; of a token that is not good there is ``active`` alone."""

    active: bool
    client_id: str | msgspec.UnsetType = msgspec.UNSET
    username: str | msgspec.UnsetType = msgspec.UNSET
    user_id: str | msgspec.UnsetType = msgspec.UNSET
    tenant_id: str | msgspec.UnsetType = msgspec.UNSET
    sub: str | msgspec.UnsetType = msgspec.UNSET
    scope: str | msgspec.UnsetType = msgspec.UNSET
    token_type: str | msgspec.UnsetType = msgspec.UNSET
    iss: str | msgspec.UnsetType = msgspec.UNSET
    aud: str | msgspec.UnsetType = msgspec.UNSET
    jti: str | msgspec.UnsetType = msgspec.UNSET
    iat: int | msgspec.UnsetType = msgspec.UNSET
    nbf: int | msgspec.UnsetType = msgspec.UNSET
    exp: int | msgspec.UnsetType = msgspec.UNSET
    auth_time: int | msgspec.UnsetType = msgspec.UNSET
    cnf: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    """RFC 8705 section 3.1."""


_INACTIVE: Final = Introspection(active=False)


class RevocationEndpoint:
    """The handlers that end tokens, and that describe them."""

    def __init__(self, *, config: Config, tokens: Tokens, door: OAuthDoor) -> None:
        self._audience = config.tokens.audience
        self._issuer = config.tokens.issuer
        self._tokens = tokens
        self._door = door
        self._authenticator = door.authenticator

    @described(
        Description(
            "End a token (RFC 7009).",
            {200: dict[str, Any]},
            body=Parameters,
            form=True,
            form_of_refusals=Refusals.OAUTH,
        )
    )
    async def revoke(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/revoke`` (RFC 7009); ``token_id`` in place of ``token`` for who has no more than that."""
        return await self._door.answer(request, inbound, self._revoke, bearer=True)

    @described(
        Description(
            "What a token is good for (RFC 7662).",
            {200: Introspection},
            body=Parameters,
            form=True,
            form_of_refusals=Refusals.OAUTH,
        )
    )
    async def introspect(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.StreamResponse:
        """``POST /auth/introspect`` (RFC 7662)."""
        return await self._door.answer(request, inbound, self._introspect, bearer=True)

    async def _revoke(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        parameters = await body_parameters(request)
        caller = await self._door.known_caller(inbound, parameters)
        if (parameters.token is None) == (parameters.token_id is None):
            raise Refused(Deny(Reason.BAD_REQUEST, "Send either token or token_id."))
        if parameters.token is not None:
            record = self._tokens.find(parameters.token)
        else:
            record = self._tokens.get(parameters.token_id or "")
            if caller.permissions.cover((TOKENS_WRITE,)):
                record = self._seen(caller, record)
            elif record is None:
                raise Refused(_not_yours(caller))  # as for one that exists: who may not know learns nothing
        if record is not None and not (
            _may_of_others(caller, record, TOKENS_WRITE) or self._is_own(caller, record)
        ):
            raise Refused(_not_yours(caller))
        if record is not None and self._tokens.leads_to_live(record):
            await self._door.record(
                "token_revoked", inbound, caller, record.token_id, target=record.client_id
            )
            await self._tokens.revoke(record)
        return web.json_response({}, headers=NO_STORE)

    async def _introspect(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        parameters = await body_parameters(request)
        caller = await self._door.known_caller(inbound, parameters)
        if parameters.token is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "token is missing."))
        verified = self._tokens.inspect(parameters.token)
        token = self._tokens.find(parameters.token) if isinstance(verified, Deny) else verified[0]
        if token is not None and not (
            caller.client_id == token.client_id or _may_of_others(caller, token, TOKENS_READ)
        ):
            same_tenant = token.tenant_id == caller.tenant_id  # whose audit must not name another's clients
            target = token.client_id if same_tenant else token.token_id
            self._door.withheld(inbound, caller, token.token_id, target)
            return _answer(_INACTIVE)
        if isinstance(verified, Deny):
            return _answer(_INACTIVE)
        return _answer(self._description(*verified))

    @staticmethod
    def _seen(caller: ClientContext, record: TokenRecord | None) -> TokenRecord | None:
        """The token, if it is there for whoever administers a tenant."""
        if record is None or caller.client_id == record.client_id:
            return record
        return record if _may_of_others(caller, record, TOKENS_WRITE) else None

    def _is_own(self, caller: ClientContext, record: TokenRecord) -> bool:
        """Whether the caller may end the token as its own.

        An API key, and a token that was had with one or was narrowed, stands for the client at work, not for the account:
        it ends itself, and what came with it.
        """
        if caller.client_id != record.client_id:
            return False
        if caller.api_key_id is not None:
            return record.api_key_id == caller.api_key_id
        own = None if caller.token_id is None else self._tokens.get(caller.token_id)
        if not caller.scope or own is None:
            return True
        same_family = own.family_id is not None and own.family_id == record.family_id
        return same_family or own.token_id == record.token_id

    def _description(self, token: VerifiedToken, client: ClientRecord) -> Introspection:
        """RFC 7662 section 2.2."""
        is_access = token.kind is TokenKind.ACCESS
        bound = is_access and token.thumbprint is not None
        return Introspection(
            active=True,
            client_id=client.client_id,
            username=client.username,
            user_id=client.user_id,
            tenant_id=client.tenant_id,
            sub=client.client_id,
            scope=scope_of(self._authenticator.permissions(client, token.scope)),
            token_type="Bearer" if is_access else "refresh_token",
            iss=self._issuer,
            aud=self._audience if is_access else self._issuer,
            jti=token.token_id,
            iat=token.issued_at,
            nbf=token.issued_at,
            exp=token.exp,
            auth_time=token.auth_time,
            cnf={"x5t#S256": token.thumbprint} if bound and token.thumbprint else msgspec.UNSET,
        )


def _answer(introspection: Introspection) -> web.Response:
    body = msgspec.json.encode(introspection)
    return web.Response(body=body, content_type="application/json", headers=NO_STORE)


def _may_of_others(caller: ClientContext, token: TokenRecord | VerifiedToken, permission: str) -> bool:
    """Whether it is another client's, and the caller may see to the tokens of others, and to those of that tenant."""
    if caller.client_id == token.client_id:
        return False
    crosses = caller.tenant_id != token.tenant_id
    return caller.permissions.cover((permission, ACROSS_TENANTS) if crosses else (permission,))


def _not_yours(caller: ClientContext) -> Deny:
    detail = "The token is not yours to revoke."
    return Deny(Reason.PERMISSION_DENIED, detail, permissions=(TOKENS_WRITE,), client_id=caller.client_id)
