"""How tokens are handed out, whichever endpoint was asked: scope, binding, session, audit, and the form of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec
from aiohttp import web

from certs.identity import PeerIdentity
from gateway.api.oauth import NO_STORE, CredentialsRefused
from gateway.api.oauth_door import OAuthDoor
from gateway.identity.api_keys import ApiKeys
from gateway.identity.roles import requested_scope, scope_of
from gateway.identity.second_factors import SESSION_SECONDS, SecondFactors
from gateway.identity.sessions import Sessions
from gateway.identity.tokens import Grant, Issued, Tokens
from gateway.model import ClientContext, Deny, Inbound, Proof, Reason, Refused
from persistence.records import ClientRecord, TokenRecord

ENROLMENT_SCOPE: Final = "mfa:enrol"
ENROLMENT_SECONDS: Final = 600.0


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 6749 section 5.1. Its repr shows no token."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str
    refresh_token: str | msgspec.UnsetType = msgspec.UNSET
    mfa_enrolment_required: bool | msgspec.UnsetType = msgspec.UNSET
    """The token is good for ``/auth/mfa/enrol`` and ``confirm`` alone; then sign in again."""

    def __repr__(self) -> str:
        return "TokenAnswer(…)"


class MfaRequired(msgspec.Struct, frozen=True, kw_only=True):
    """The first step is done; ``/auth/login/mfa`` is the second. Its repr shows no token."""

    mfa_required: bool
    mfa_session_token: str
    expires_in: int

    def __repr__(self) -> str:
        return "MfaRequired(…)"


@dataclass(frozen=True, slots=True)
class Issuing:
    """Hands out tokens to who has been proven."""

    tokens: Tokens
    sessions: Sessions
    door: OAuthDoor
    api_keys: ApiKeys
    factors: SecondFactors
    now: Callable[[], float]

    async def issue(
        self,
        inbound: Inbound,
        client: ClientRecord,
        proof: Proof,
        scope: str,
        *,
        session: bool,
        second_factor: bool = False,
    ) -> web.Response:
        """An access token, and with ``session`` a refresh token. Raises Refused, StoreError."""
        grant = self.grant(client, scope, inbound.peer, int(self.now()))
        if session:
            issued = await self.sessions.begin(grant, inbound, second_factor=second_factor)
        else:
            issued = await self.tokens.issue(grant, with_refresh=False)
        if isinstance(issued, Deny):
            raise Refused(issued)
        context = self.door.authenticator.context(client, proof, inbound.peer)
        if proof is Proof.PASSWORD and not self._is_enough(context, client, second_factor=second_factor):
            await self._take_back(issued)
            detail = "The password or the second factor was changed meanwhile: sign in again."
            raise Refused(Deny(Reason.INVALID_CREDENTIALS, detail, client_id=client.client_id))
        if session:
            await self.door.record("login", inbound, context, issued.token_id)
        await self.door.record("token_issued", inbound, context, issued.token_id)
        return token_response(issued)

    def _is_enough(self, context: ClientContext, proven: ClientRecord, *, second_factor: bool) -> bool:
        """Whether what proved the client still does, now that its tokens are stored and a reset would find them."""
        present = self.door.client(context)
        same = present is not None and present.password_hash == proven.password_hash
        return same and (second_factor or not self.factors.enabled(proven.client_id))

    async def _take_back(self, issued: Issued) -> None:
        """End tokens that nobody was given yet. Raises StoreError."""
        token = self.tokens.get(issued.token_id)
        if token is not None:
            await self.tokens.end(
                *([token] if token.family_id is None else self.tokens.of_family(token.family_id))
            )

    async def by_password(
        self, inbound: Inbound, client: ClientRecord, scope: str, *, session: bool
    ) -> web.Response:
        """The tokens for a password; where a second factor is needed, what leads to them. Raises Refused, StoreError."""
        if self.factors.enabled(client.client_id):
            thumbprint = None if inbound.peer is None else inbound.peer.fingerprint
            token = await self.factors.begin(client, scope, thumbprint, with_refresh=session)
            answer = MfaRequired(mfa_required=True, mfa_session_token=token, expires_in=SESSION_SECONDS)
            return web.Response(
                body=msgspec.json.encode(answer), content_type="application/json", headers=NO_STORE
            )
        if self.factors.required(client):
            return await self._only_to_enrol(inbound, client)
        return await self.issue(inbound, client, Proof.PASSWORD, scope, session=session)

    def require_second_factor(self, client: ClientRecord, refresh: TokenRecord) -> None:
        """A session that was begun without one goes no further once one is demanded. Raises Refused."""
        if self.factors.required(client) and not self.sessions.had_second_factor(refresh):
            detail = "A second factor is demanded now: sign in again."
            deny = Deny(Reason.MFA_REQUIRED, detail, client_id=client.client_id)
            raise CredentialsRefused(deny, invalid_grant=True)

    async def _only_to_enrol(self, inbound: Inbound, client: ClientRecord) -> web.Response:
        """A token that is good for getting the second factor that the client must have, and for nothing else."""
        peer = inbound.peer
        grant = Grant(
            client=client,
            scope=ENROLMENT_SCOPE,
            permissions=ENROLMENT_SCOPE,
            auth_time=int(self.now()),
            thumbprint=None if peer is None else peer.fingerprint,
            lifetime=min(self.tokens.access_ttl, ENROLMENT_SECONDS),
        )
        issued = await self.tokens.issue(grant, with_refresh=False)
        if isinstance(issued, Deny):
            raise Refused(issued)
        context = self.door.authenticator.context(client, Proof.PASSWORD, peer)
        await self.door.record("token_issued", inbound, context, issued.token_id)
        return token_response(issued, mfa_enrolment_required=True)

    async def issue_for_key(
        self, inbound: Inbound, client: ClientRecord, scope: str, context: ClientContext
    ) -> web.Response:
        """An access token that ends with the API key that it was had with. Raises Refused, StoreError."""
        key = self.api_keys.get(client.client_id, context.api_key_id or "")
        if key is None:
            raise Refused(
                Deny(Reason.API_KEY_UNKNOWN, "The API key was removed.", client_id=client.client_id)
            )
        now = self.now()
        grant = self.grant(client, scope, inbound.peer, int(now), key.key_id)
        grant = replace(grant, api_key_id=key.key_id)
        if key.exp is not None:
            grant = replace(grant, lifetime=max(1.0, min(self.tokens.access_ttl, key.exp - now)))
        issued = await self.tokens.issue(grant, with_refresh=False)
        if isinstance(issued, Deny):
            raise Refused(issued)
        if not self.api_keys.is_current(key.key_id):  # it was removed while the token was being stored
            await self.tokens.end(*self.tokens.of_family(key.key_id))
            raise Refused(
                Deny(Reason.API_KEY_UNKNOWN, "The API key was removed.", client_id=client.client_id)
            )
        await self.door.record("token_issued", inbound, context, issued.token_id)
        return token_response(issued)

    def client(self, context: ClientContext, named: str | None) -> ClientRecord:
        """The client of a caller that was just admitted; ``named``: the client that the request names. Raises Refused."""
        client = self.door.client(context)
        if client is None or named not in {None, client.client_id}:
            detail = "client_id names another client than the credential."
            raise Refused(Deny(Reason.INVALID_CREDENTIALS, detail, client_id=context.client_id))
        return client

    def scope(
        self, client: ClientRecord, wanted: str | None, peer: PeerIdentity | None, limit: str = ""
    ) -> str:
        """The scope of a new token, within ``limit`` if there is one; ``peer``: the client's certificate. Raises Refused."""
        scope = requested_scope(wanted, self.door.authenticator.permissions(client, limit, peer))
        if isinstance(scope, Deny):
            raise Refused(replace(scope, client_id=client.client_id))
        return scope or limit

    def grant(
        self,
        client: ClientRecord,
        scope: str,
        peer: PeerIdentity | None,
        auth_time: int,
        family_id: str | None = None,
    ) -> Grant:
        """What a token is issued for, bound to the connection's certificate if there is one."""
        return Grant(
            client=client,
            scope=scope,
            permissions=scope_of(self.door.authenticator.permissions(client, scope, peer)),
            roles_by_certificate=self.door.authenticator.roles_by_certificate(peer),
            auth_time=auth_time,
            thumbprint=None if peer is None else peer.fingerprint,
            family_id=family_id,
        )


def token_response(issued: Issued, *, mfa_enrolment_required: bool = False) -> web.Response:
    """RFC 6749 section 5.1."""
    answer = TokenAnswer(
        access_token=issued.access_token,
        token_type="Bearer",  # noqa: S106 - a kind of token
        expires_in=issued.expires_in,
        scope=issued.scope,
        refresh_token=msgspec.UNSET if issued.refresh_token is None else issued.refresh_token,
        mfa_enrolment_required=True if mfa_enrolment_required else msgspec.UNSET,
    )
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json", headers=NO_STORE)
