"""``/auth/me`` and ``/auth/verify-email``: who one is, and what one's account says of its person."""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET

from gateway.api.account import Text, json_answer, json_body, owner, require_still_in, signed_in
from gateway.audit import Audit
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, Route
from gateway.identity.accounts import Accounts
from gateway.identity.profiles import ProfileChange
from gateway.identity.profiles import Text as Change
from gateway.identity.second_factors import EnabledFactor
from gateway.model import ClientContext, Deny, Inbound, Proof, Reason, Refused
from persistence.records import ClientRecord


class ProfilePatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays; null removes it. Another address is unproven. Its repr shows nothing."""

    given_name: Change = UNSET
    family_name: Change = UNSET
    email: Change = UNSET

    def __repr__(self) -> str:
        return "ProfilePatch(…)"


class EmailCode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The code that was sent to the address. Its repr shows nothing."""

    code: Text

    def __repr__(self) -> str:
        return "EmailCode(…)"


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever is calling: the account, what it may do in this way, and how it was proven."""

    client_id: str
    username: str
    user_id: str
    tenant_id: str
    email: str | None
    email_verified: bool
    given_name: str | None
    family_name: str | None
    mfa: EnabledFactor | None
    """The second factor, where one is on."""
    roles: tuple[str, ...]
    permissions: list[str]
    scope: str
    """What the token was narrowed to; empty: nothing."""
    auth_time: int | None
    token_id: str | None
    certificate: str | None
    """The thumbprint (RFC 8705 section 3.1) of the connection's certificate."""
    proof: Proof | None
    created_at: str


class ProfileEndpoint:
    """The handlers."""

    def __init__(self, *, accounts: Accounts, audit: Audit) -> None:
        self._accounts = accounts
        self._audit = audit

    def routes(self) -> dict[str, dict[str, Route]]:
        """By path and method."""
        return {
            "/auth/me": {"GET": Route(self.me), "PATCH": Route(self.change)},
            "/auth/verify-email": {"POST": Route(self.verify_email)},
        }

    @described(Description("Who the caller is.", {200: Me}))
    async def me(self, _request: GatewayRequest, _inbound: Inbound, context: ClientContext) -> web.Response:
        """``GET /auth/me``"""
        signed_in(context)
        return self._me(context)

    @described(Description("Changes one's names and e-mail address.", {200: Me}, body=ProfilePatch))
    async def change(self, request: GatewayRequest, inbound: Inbound, context: ClientContext) -> web.Response:
        """``PATCH /auth/me``"""
        client_id = owner(context)
        patch = await json_body(request, ProfilePatch)
        wanted = ProfileChange(given_name=patch.given_name, family_name=patch.family_name, email=patch.email)
        try:
            wanted.check()
        except ValueError as error:
            raise Refused(Deny(Reason.BAD_REQUEST, f"The profile cannot be changed: {error}.")) from None

        async def recorded(client: ClientRecord) -> None:
            require_still_in(request)  # who administers may have been first
            target = f"{client.client_id}: {wanted.said}"
            await self._audit.did("profile_changed", inbound, context, target)

        if wanted.said:
            await self._accounts.change_profile(client_id, wanted, recorded)
        return self._me(context)

    @described(Description("Proves the e-mail address by its code.", {200: Me}, body=EmailCode))
    async def verify_email(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``POST /auth/verify-email``"""
        client_id = owner(context)
        wanted = await json_body(request, EmailCode)

        async def recorded(_client: ClientRecord) -> None:
            require_still_in(request)
            await self._audit.did("email_verified", inbound, context)

        refusal = await self._accounts.verify_email(client_id, wanted.code, recorded)
        if refusal is not None:
            raise Refused(refusal)
        return self._me(context)

    def _me(self, context: ClientContext) -> web.Response:
        client = self._accounts.client(signed_in(context))
        return json_answer(
            Me(
                client_id=client.client_id,
                username=client.username,
                user_id=client.user_id,
                tenant_id=client.tenant_id,
                email=client.email,
                **self._accounts.profile(client),
                mfa=self._accounts.second_factor(client.client_id),
                roles=context.roles,
                permissions=sorted(context.permissions.grants),
                scope=context.scope,
                auth_time=None if context.auth_time is None else int(context.auth_time),
                token_id=context.token_id,
                certificate=context.certificate_thumbprint,
                proof=context.proofs.get("client_id"),
                created_at=client.created_at,
            )
        )
