"""What each OAuth endpoint does around its own work: throttle → authenticate → limit, the audit, the form of refusals.

These endpoints read the credentials themselves, for here passwords are accepted, so the edge admits nobody to them.
A client is its account: its password proves it wherever that stands. Where a certificate is there it must be the
client's. Every token that is handed out, and every refusal, is in the audit before the reply leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from certs.identity import PeerIdentity
from gateway.admission import Admission
from gateway.api.oauth import CredentialsRefused, Parameters, Secret, oauth_error, sent_secret
from gateway.api.wellknown import resource_metadata_url
from gateway.audit import Audit
from gateway.authn import UNMAPPED
from gateway.edge.handler import GatewayRequest
from gateway.identity.clients import Passwords, claimed
from gateway.model import ClientContext, Deny, Inbound, Proof, Reason, Refused
from gateway.problems import ANSWERS, Problems
from persistence.protocols import ClientStore
from persistence.records import AuditStatus, ClientRecord, StoreError, TokenRecord

log = logging.getLogger("ostiary.errors")

Work = Callable[[GatewayRequest, Inbound], Awaitable[web.Response]]
"""What an endpoint does for a caller. Raises Refused and StoreError."""

_COUNTED: Final = frozenset(reason for reason, answer in ANSWERS.items() if answer.status == 401) | {
    Reason.AMBIGUOUS_CREDENTIALS,
    Reason.INVALID_GRANT,
}
"""The refusals that count against the caller's address."""


class OAuthDoor:
    """Stands before the token, revocation and introspection endpoints."""

    def __init__(
        self,
        *,
        public_url: str,
        admission: Admission,
        passwords: Passwords,
        clients: ClientStore,
        audit: Audit,
        problems: Problems,
        second_factor: Callable[[ClientRecord], bool],
    ) -> None:
        """``second_factor``: whether a client's password alone is half of what proves it."""
        self.authenticator = admission.authenticator
        self._metadata = resource_metadata_url(public_url)
        self._admission = admission
        self._passwords = passwords
        self._clients = clients
        self._audit = audit
        self._problems = problems
        self._second_factor = second_factor

    async def answer(
        self, request: GatewayRequest, inbound: Inbound, work: Work, *, bearer: bool = False
    ) -> web.Response:
        """What ``work`` answers, or the refusal in OAuth's form. ``bearer``: bearer tokens are accepted, too."""
        outcome = await self._outcome(request, inbound, work)
        if not isinstance(outcome, Refused):
            return outcome
        shown, invalid_grant = outcome.deny, False
        if isinstance(outcome, CredentialsRefused):
            shown, invalid_grant = outcome.shown, outcome.invalid_grant
        response = oauth_error(
            shown, inbound.request_id, self._metadata, invalid_grant=invalid_grant, bearer=bearer
        )
        return _closed_if_unread(request, response)

    async def answer_problem(self, request: GatewayRequest, inbound: Inbound, work: Work) -> web.Response:
        """As ``answer``, at an endpoint that is not one of OAuth's: the refusal is a problem document."""
        outcome = await self._outcome(request, inbound, work)
        if not isinstance(outcome, Refused):
            return outcome
        shown = outcome.shown if isinstance(outcome, CredentialsRefused) else outcome.deny
        return _closed_if_unread(request, self._problems.response(shown, inbound.request_id))

    async def _outcome(self, request: GatewayRequest, inbound: Inbound, work: Work) -> web.Response | Refused:
        try:
            self._throttle(inbound)
            return await work(request, inbound)
        except Refused as refused:
            self._enter(inbound, refused.deny)
            return refused
        except StoreError as error:
            log.critical("the store cannot be used: %s", error)
            detail = "The gateway cannot keep its records now: try again later."
            unavailable = Refused(Deny(Reason.STORE_UNAVAILABLE, detail))
            self._enter(inbound, unavailable.deny)
            return unavailable

    def _throttle(self, inbound: Inbound) -> None:
        throttled = self._admission.throttle(inbound)
        if throttled is not None:
            raise Refused(throttled)

    # Who is calling

    async def known_caller(self, inbound: Inbound, parameters: Parameters) -> ClientContext:
        """Who asks, within that client's limit. Raises Refused, for anonymous callers, too."""
        caller = await self.caller(inbound, parameters)
        if caller.client_id is None:
            detail = "Authenticate with a certificate, a password or a token."
            raise Refused(Deny(Reason.AUTHENTICATION_REQUIRED, detail))
        client = self.client(caller)
        by_password = inbound.peer is None and caller.proofs.get("user_id") is Proof.PASSWORD
        if by_password and client is not None and self._second_factor(client):
            detail = "This client signs in with a second factor: POST /auth/login, then use the token."
            raise Refused(Deny(Reason.MFA_REQUIRED, detail, client_id=caller.client_id))
        self.limit(caller.client_id, inbound)
        return caller

    async def caller(self, inbound: Inbound, parameters: Parameters) -> ClientContext:
        """Who asks: by password, or as everywhere else. Raises Refused."""
        secret = sent_secret(inbound, parameters)
        if secret is not None:
            client = await self.prove(inbound, secret, parameters)
            return self.authenticator.context(client, Proof.PASSWORD, inbound.peer)
        self._certified(inbound.peer)  # here a certificate that names nobody is no anonymous caller
        context = self.authenticator.authenticate(inbound)
        if isinstance(context, Deny):
            raise Refused(context)
        return context

    async def prove(self, inbound: Inbound, secret: Secret | None, parameters: Parameters) -> ClientRecord:
        """The client that the password or the certificate proves; where both are there they agree. Raises Refused."""
        certified = self._certified(inbound.peer)
        if secret is None:
            return _by_certificate(certified, parameters)
        if certified is not None and certified.client_id != secret.name:
            raise Refused(_mismatch(claimed(self._clients, secret.name)))
        client = await self._passwords.verify(
            self._clients, secret.name, secret.readings, inbound, certified=certified is not None
        )
        if isinstance(client, ClientRecord):
            return client
        # That only the certificate is missing would tell that the password is right.
        only_certificate = client.reason is Reason.CERTIFICATE_REQUIRED
        shown = replace(client, reason=Reason.INVALID_CREDENTIALS) if only_certificate else client
        raise CredentialsRefused(client, invalid_grant=secret.is_grant, shown=shown)

    def client(self, context: ClientContext) -> ClientRecord | None:
        """The record of whoever is calling."""
        return None if context.client_id is None else self._clients.get(context.client_id)

    def require_same_client(self, inbound: Inbound, client: ClientRecord, thumbprint: str | None) -> None:
        """What was begun over the certificate ``thumbprint`` goes on over it, and over nobody else's. Raises Refused."""
        certified = self._certified(inbound.peer)
        if certified is not None and certified.client_id != client.client_id:
            raise Refused(_mismatch(client.client_id))
        if thumbprint is not None and (inbound.peer is None or inbound.peer.fingerprint != thumbprint):
            detail = "The sign-in was begun over another connection's certificate: go on over that one."
            raise Refused(Deny(Reason.CERTIFICATE_MISMATCH, detail, client_id=client.client_id))
        if client.require_certificate and certified is None:
            detail = "This needs the client's certificate: connect with it."
            raise Refused(Deny(Reason.CERTIFICATE_REQUIRED, detail, client_id=client.client_id))

    async def check_password(
        self, inbound: Inbound, client_id: str, password: str, *, certified: bool
    ) -> ClientRecord:
        """The caller's own client, if that is its password, counted as any attempt. Raises Refused."""
        client = await self._passwords.verify(
            self._clients, client_id, (password,), inbound, certified=certified
        )
        if isinstance(client, Deny):
            raise Refused(client)
        return client

    def limit(self, client_id: str, inbound: Inbound) -> None:
        """Count one request of the client. Raises Refused where it is one too many, or for another tenant."""
        client = self._clients.get(client_id)
        if inbound.tenant_id is not None and (client is None or client.tenant_id != inbound.tenant_id):
            detail = "X-Tenant-ID names another tenant than the client's: leave it out."
            raise Refused(Deny(Reason.TENANT_MISMATCH, detail, client_id=client_id))
        limited = self._admission.limit(client_id, inbound)
        if limited is not None:
            raise Refused(limited)

    def check_certificate(self, peer: PeerIdentity | None) -> None:
        """Raises Refused for a certificate that is there and not good; one of nobody is as good as none."""
        certified = None if peer is None else self.authenticator.certified(peer)
        if isinstance(certified, Deny):
            raise Refused(certified)

    def _certified(self, peer: PeerIdentity | None) -> ClientRecord | None:
        """The client of the connection's certificate; None: there is no certificate. Raises Refused for others."""
        if peer is None:
            return None
        certified = self.authenticator.certified(peer)
        if isinstance(certified, Deny):
            raise Refused(certified)
        if certified is None:
            raise Refused(UNMAPPED)
        return certified

    # The audit

    async def record(
        self, event: str, inbound: Inbound, context: ClientContext, token_id: str, target: str | None = None
    ) -> None:
        """What was done with a token; durable on return. ``target``: if not the token itself. Raises Refused."""
        entry = self._audit.entry(
            event,
            AuditStatus.OK,
            inbound,
            context,
            token_id=token_id,
            target=target or token_id,
            duration_ms=self._duration_ms(inbound),
        )
        await self._audit.record(entry)
        if event == "token_issued":
            self.authenticator.notice_issue(token_id, inbound)

    async def record_failure(
        self, event: str, inbound: Inbound, context: ClientContext, token: TokenRecord
    ) -> None:
        """What somebody tried with a token; durable on return. Raises Refused."""
        entry = self._audit.entry(
            event,
            AuditStatus.FAILED,
            inbound,
            context,
            reason=event,
            token_id=token.token_id,
            target=token.family_id,
            duration_ms=self._duration_ms(inbound),
        )
        await self._audit.record(entry)

    def withheld(self, inbound: Inbound, caller: ClientContext, token_id: str, target: str) -> None:
        """Enter that the caller was told nothing of a token that there is. ``target``: the token's client, in the same tenant."""
        self._audit.denied(
            self._audit.entry(
                "access_denied",
                AuditStatus.DENIED,
                inbound,
                caller,
                reason=Reason.PERMISSION_DENIED,
                token_id=token_id,
                target=target,
                duration_ms=self._duration_ms(inbound),
            )
        )

    def _enter(self, inbound: Inbound, deny: Deny) -> None:
        """A refusal, which may count against the address."""
        if deny.reason in _COUNTED:
            self._admission.failed(inbound)
        answer = ANSWERS[deny.reason]
        if answer.event is not None or answer.status >= 500:
            self._audit.refused(inbound, deny)
            return
        # Elsewhere nobody is refused by it; here it is a token that somebody asked for and did not get.
        self._audit.denied(
            self._audit.entry(
                "request_refused",
                AuditStatus.DENIED,
                inbound,
                reason=deny.reason,
                target=inbound.path,
                client_id=deny.client_id,
                duration_ms=self._duration_ms(inbound),
            )
        )

    def _duration_ms(self, inbound: Inbound) -> float:
        return round(1000 * (self._admission.monotonic() - inbound.started), 3)


def _closed_if_unread(request: GatewayRequest, response: web.Response) -> web.Response:
    if not request.content.is_eof():
        response.force_close()
    return response


def _by_certificate(certified: ClientRecord | None, parameters: Parameters) -> ClientRecord:
    if certified is None:
        detail = "Send a name and password, or connect with a certificate."
        raise Refused(Deny(Reason.AUTHENTICATION_REQUIRED, detail))
    if parameters.client_id not in {None, certified.client_id}:
        raise Refused(_mismatch(parameters.client_id))
    return certified


def _mismatch(client_id: str | None) -> Deny:
    detail = "The certificate is another client's than the one that is named."
    return Deny(Reason.CERTIFICATE_MISMATCH, detail, client_id=client_id)
