"""``POST /auth/register``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.api.account import Text, json_answer, json_body
from gateway.api.oauth_door import OAuthDoor
from gateway.audit import Audit
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, Route
from gateway.identity.registration import Application, Registration
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from gateway.operations.parameters import AddClient
from persistence.records import AuditStatus, ClientRecord


class Register(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who wants an account. Its repr shows nothing."""

    username: Text
    password: Text
    email: Annotated[str, Meta(max_length=254)] | None = None
    invitation: Annotated[str, Meta(max_length=128)] | None = None

    def __repr__(self) -> str:
        return "Register(…)"


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """The new account; sign in to use it."""

    client_id: str
    username: str
    tenant_id: str
    email: str | None
    email_verified: bool
    roles: tuple[str, ...]


class RegisterEndpoint:
    """The handler."""

    def __init__(self, registration: Registration, door: OAuthDoor, audit: Audit) -> None:
        self._registration = registration
        self._door = door
        self._audit = audit

    def routes(self) -> dict[str, dict[str, Route]]:
        """By path and method."""
        return {"/auth/register": {"POST": Route(self.register, identify=False)}}

    @described(
        Description(
            "Makes an account, where the configuration lets people do so.",
            {201: Registered},
            body=Register,
            refusals=(401, 403, 409, 429, 503),
        )
    )
    async def register(
        self, request: GatewayRequest, inbound: Inbound, _context: ClientContext
    ) -> web.Response:
        """``POST /auth/register``"""
        return await self._door.answer_problem(request, inbound, self._register)

    async def _register(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        wanted = await json_body(request, Register)
        if inbound.authorization or inbound.api_keys:
            detail = "Register with nobody's credentials: leave the Authorization and X-API-Key headers out."
            raise Refused(Deny(Reason.AMBIGUOUS_CREDENTIALS, detail))
        self._door.check_certificate(inbound.peer)
        try:
            AddClient(client_id=wanted.username)
        except ValueError as error:
            raise Refused(Deny(Reason.BAD_REQUEST, f"The name cannot be used: {error}.")) from None

        async def recorded(client: ClientRecord) -> None:
            entry = self._audit.entry(
                "admin_change",
                AuditStatus.OK,
                inbound,
                client_id=client.client_id,
                method="clients.register",
                target=f"{client.client_id}: {' '.join(client.roles)}" if client.roles else client.client_id,
                duration_ms=self._audit.since(inbound),
            )
            # The client is not stored yet, so the entry cannot know its tenant.
            await self._audit.record(msgspec.structs.replace(entry, tenant_id=client.tenant_id))

        application = Application(
            wanted.username, wanted.password, wanted.email, wanted.invitation, inbound.tenant_id
        )
        made = await self._registration.register(application, inbound.address, recorded)
        if isinstance(made, Deny):
            raise Refused(made)
        answer = Registered(
            client_id=made.client_id,
            username=made.username,
            tenant_id=made.tenant_id,
            email=made.email,
            email_verified=False,
            roles=made.roles,
        )
        return json_answer(answer, status=201)
