"""``/auth/mfa/…`` and the second step of signing in."""

from __future__ import annotations

import io
import logging
from typing import Final

import msgspec
import segno
from aiohttp import web

from gateway.api.account import Text, json_answer, json_body, owner, require_still_in
from gateway.api.issuing import ENROLMENT_SCOPE, Issuing, TokenAnswer
from gateway.api.oauth import NO_STORE
from gateway.audit import Audit
from gateway.description import Description, described
from gateway.edge.handler import GatewayRequest, Route
from gateway.identity.accounts import Accounts
from gateway.identity.clients import refusal_of
from gateway.identity.sealing import SealingError
from gateway.identity.second_factors import SecondFactors, session_over
from gateway.identity.totp import base32, otpauth_uri
from gateway.model import ClientContext, Deny, Inbound, Proof, Reason, Refused
from persistence.account_records import MfaSession
from persistence.records import ClientRecord

log = logging.getLogger("ostiary.auth")

_QR_SCALE: Final = 4


class MfaLogin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The second step. Its repr shows nothing."""

    mfa_session_token: Text
    code: Text

    def __repr__(self) -> str:
        return "MfaLogin(…)"


class MfaCode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A code of the app. Its repr shows nothing."""

    code: Text

    def __repr__(self) -> str:
        return "MfaCode(…)"


class BothFactors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both factors. Its repr shows nothing."""

    password: Text
    code: Text

    def __repr__(self) -> str:
        return "BothFactors(…)"


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What an authenticator app needs. Its repr shows nothing."""

    secret: str
    otpauth_uri: str
    qr_svg: str

    def __repr__(self) -> str:
        return "Enrolment(…)"


class RecoveryCodes(msgspec.Struct, frozen=True, kw_only=True):
    """Shown this once. Its repr shows nothing."""

    recovery_codes: tuple[str, ...]

    def __repr__(self) -> str:
        return "RecoveryCodes(…)"


class MfaEndpoint:
    """The handlers."""

    def __init__(
        self, *, issuing: Issuing, factors: SecondFactors, accounts: Accounts, audit: Audit, issuer: str
    ) -> None:
        """``issuer``: what the authenticator app calls the gateway."""
        self._issuing = issuing
        self._door = issuing.door
        self._factors = factors
        self._accounts = accounts
        self._audit = audit
        self._issuer = issuer

    def routes(self) -> dict[str, dict[str, Route]]:
        """By path and method."""
        return {
            "/auth/login/mfa": {"POST": Route(self.login, identify=False)},
            "/auth/mfa/enrol": {"POST": Route(self.enrol)},
            "/auth/mfa/confirm": {"POST": Route(self.confirm)},
            "/auth/mfa/disable": {"POST": Route(self.disable)},
            "/auth/mfa/recovery-codes": {"POST": Route(self.renew_codes)},
        }

    @described(
        Description(
            "The second step of signing in: a code of the app, or a recovery code.",
            {200: TokenAnswer},
            body=MfaLogin,
            refusals=(401, 429, 503),
        )
    )
    async def login(self, request: GatewayRequest, inbound: Inbound, _context: ClientContext) -> web.Response:
        """``POST /auth/login/mfa``"""
        return await self._door.answer_problem(request, inbound, self._login)

    async def _login(self, request: GatewayRequest, inbound: Inbound) -> web.Response:
        wanted = await json_body(request, MfaLogin)
        session = self._factors.session(wanted.mfa_session_token)
        if session is None:
            raise Refused(session_over(None))
        client = self._begun(session)
        self._door.require_same_client(inbound, client, session.certificate_thumbprint)
        self._door.limit(client.client_id, inbound)
        try:
            wrong = await self._factors.finish(session, client, wanted.code, inbound)
        except SealingError as error:
            raise Refused(_unavailable(error)) from None
        if wrong is not None:
            raise Refused(wrong)
        client = self._begun(session)  # again: the code took a while
        scope = self._issuing.scope(client, session.scope, inbound.peer)
        return await self._issuing.issue(
            inbound, client, Proof.PASSWORD, scope, session=session.with_refresh, second_factor=True
        )

    def _begun(self, session: MfaSession) -> ClientRecord:
        """The client, if its password is still the one that the first step proved. Raises Refused."""
        client = self._accounts.client(session.client_id)
        if refusal_of(client, client.client_id) is not None or not self._factors.is_of(session, client):
            raise Refused(session_over(client.client_id))
        return client

    @described(
        Description(
            "A secret for an authenticator app; it counts once it is confirmed.",
            {200: Enrolment},
            refusals=(409,),
        )
    )
    async def enrol(self, request: GatewayRequest, inbound: Inbound, context: ClientContext) -> web.Response:
        """``POST /auth/mfa/enrol``"""
        client = self._accounts.client(owner(context, scope=ENROLMENT_SCOPE))

        async def recorded() -> None:
            require_still_in(request)
            await self._audit.did("mfa_enrolment", inbound, context)

        try:
            secret = await self._factors.enrol(client, recorded)
        except SealingError as error:
            raise Refused(_unavailable(error)) from None
        if isinstance(secret, Deny):
            raise Refused(secret)
        uri = otpauth_uri(secret, issuer=self._issuer, account=client.username)
        return json_answer(Enrolment(secret=base32(secret), otpauth_uri=uri, qr_svg=qr_svg(uri)))

    @described(
        Description(
            "Turns the second factor on, by the first code of the app; every other session ends.",
            {200: RecoveryCodes},
            body=MfaCode,
            refusals=(409,),
        )
    )
    async def confirm(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``POST /auth/mfa/confirm``"""
        client = self._accounts.client(owner(context, scope=ENROLMENT_SCOPE))
        wanted = await json_body(request, MfaCode)
        token = None if context.token_id is None else self._issuing.tokens.get(context.token_id)

        async def recorded() -> None:
            require_still_in(request)  # hashing the recovery codes takes a while
            await self._audit.did("mfa_enabled", inbound, context)

        try:
            codes = await self._factors.confirm(client, wanted.code, inbound, recorded)
        except SealingError as error:
            raise Refused(_unavailable(error)) from None
        if isinstance(codes, Deny):
            raise Refused(codes)
        await self._issuing.sessions.end_but(client.client_id, token)  # they were begun without it
        return json_answer(RecoveryCodes(recovery_codes=codes))

    @described(
        Description(
            "Other recovery codes, in place of those that are left.",
            {200: RecoveryCodes},
            body=BothFactors,
            refusals=(409,),
        )
    )
    async def renew_codes(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``POST /auth/mfa/recovery-codes``"""
        client, code = await self._by_both(request, inbound, context)

        async def recorded() -> None:
            require_still_in(request)
            await self._audit.did("mfa_codes_renewed", inbound, context)

        try:
            codes = await self._factors.renew_codes(client, code, inbound, recorded)
        except SealingError as error:
            raise Refused(_unavailable(error)) from None
        if isinstance(codes, Deny):
            raise Refused(codes)
        return json_answer(RecoveryCodes(recovery_codes=codes))

    @described(Description("Turns the second factor off.", {204: None}, body=BothFactors, refusals=(409,)))
    async def disable(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.Response:
        """``POST /auth/mfa/disable``"""
        client, code = await self._by_both(request, inbound, context)
        try:
            wrong = await self._factors.verify(client, code, inbound)
        except SealingError as error:
            raise Refused(_unavailable(error)) from None
        if wrong is not None:
            raise Refused(wrong)
        require_still_in(request)
        await self._audit.did("mfa_disabled", inbound, context)
        await self._factors.remove(client.client_id)
        return web.Response(status=204, headers=NO_STORE)

    async def _by_both(
        self, request: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> tuple[ClientRecord, str]:
        """The owner, whose password is right, and the code, which is still to be looked at. Raises Refused."""
        client_id = owner(context)
        wanted = await json_body(request, BothFactors)
        if not self._factors.enabled(client_id):
            raise Refused(Deny(Reason.CONFLICT, "There is no second factor.", client_id=client_id))
        certified = context.certificate_thumbprint is not None
        client = await self._door.check_password(inbound, client_id, wanted.password, certified=certified)
        return client, wanted.code


def qr_svg(text: str) -> str:
    """The QR code as an SVG document."""
    out = io.BytesIO()
    segno.make(text, error="m", micro=False).save(out, kind="svg", scale=_QR_SCALE, xmldecl=False)
    return out.getvalue().decode().strip()


def _unavailable(error: SealingError) -> Deny:
    log.critical("second factors cannot be used: %s", error)
    return Deny(Reason.STORE_UNAVAILABLE, "Second factors cannot be used now: tell an administrator.")
