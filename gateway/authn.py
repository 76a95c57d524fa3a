"""Who is calling: a certificate and a token, two layers that must agree.

- A certificate that maps to a known, enabled client is an identity by itself. One that maps to nobody identifies
  nobody: with nothing else the caller is anonymous, with a token it is refused.
- A token names its client. With a certificate beside it, both name the same client. A token with ``cnf`` is good only
  with that very certificate (RFC 8705 section 3); one without is good with its client's certificate or none, but not
  without one where the client requires it.
- A credential that is there and wrong never falls back to anonymous.

Certificates are looked up and contexts are made once; on every use they are checked anew against the clock, the client
and the token's record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from certs.identity import IdentityRule, PeerIdentity
from certs.trust import Trust
from gateway.identity.api_keys import ApiKeys
from gateway.identity.certificates import Certificates, Named
from gateway.identity.clients import is_enabled, refusal_of
from gateway.identity.roles import Roles, all_roles
from gateway.identity.tokens import Tokens, VerifiedToken
from gateway.identity.whereabouts import Suspect, Whereabouts
from gateway.model import ANONYMOUS, HAND_OVER, ClientContext, Deny, Inbound, Permissions, Proof, Reason
from gateway.remembered import Remembered
from persistence.protocols import ClientStore
from persistence.records import ClientRecord, TokenKind

UNMAPPED: Final = Deny(
    Reason.CERTIFICATE_UNMAPPED,
    "The certificate names no client of this gateway: ask an administrator, or connect without it.",
)
"""Also what the edge notes in the audit where an anonymous caller has a certificate."""

_REMEMBERED: Final = 16_384
_FACTS: Final = ("client_id", "tenant_id", "user_id", "username", "roles", "scope", "auth_time")


def _proofs(proof: Proof, client_id: Proof) -> Mapping[str, Proof]:
    return MappingProxyType(dict.fromkeys(_FACTS, proof) | {"client_id": client_id})


_PROOFS: Final = {
    (proof, client_id): _proofs(proof, client_id)
    for proof in Proof
    for client_id in (proof, Proof.CERTIFICATE)
}
"""By how the caller was proven, and how its ``client_id`` was: a certificate is the stronger proof."""


class Authenticator:
    """Turns a request's credentials into a ClientContext; nothing else makes one."""

    def __init__(
        self,
        tokens: Tokens,
        clients: ClientStore,
        roles: Mapping[str, tuple[str, ...]] | Roles,
        rules: Sequence[IdentityRule],
        *,
        api_keys: ApiKeys,
        now: Callable[[], float],
        certificates: Certificates | None = None,
        certificate_required: bool = False,
        suspect: Suspect = lambda _inbound, _token, _suspicion, _allowed: None,
        used: Callable[[VerifiedToken], None] = lambda _token: None,
    ) -> None:
        """``used``: told of each use of a token that is good. ``suspect``: told of tokens that turn up where they have not been before."""
        self._tokens = tokens
        self._api_keys = api_keys
        self._clients = clients
        self._roles = roles if isinstance(roles, Roles) else Roles(roles)
        self._certificates = certificates or Certificates(rules, now=now)
        self._now = now
        self.certificate_required = certificate_required
        """Whether nobody is let in without a certificate, also on connections that are open already."""
        self._suspect = suspect
        self._used = used
        self._whereabouts = Whereabouts()
        self._by_token: Remembered[tuple[str, str, str | None], tuple[ClientRecord, ClientContext]] = (
            Remembered(_REMEMBERED)
        )
        self._by_key: Remembered[tuple[str, str | None], tuple[ClientRecord, ClientContext]] = Remembered(
            _REMEMBERED
        )
        self._by_certificate: Remembered[str, tuple[ClientRecord, ClientContext]] = Remembered(_REMEMBERED)
        self._forgotten = 0
        """How often all contexts were."""

    def authenticate(self, inbound: Inbound) -> ClientContext | Deny:
        """Who sent the request. ANONYMOUS: it has no credentials, or a certificate that names nobody."""
        peer = inbound.peer
        certified = None if peer is None else self.certified(peer)
        if isinstance(certified, Deny):
            return certified
        if inbound.authorization or inbound.api_keys:
            result = self._by_header(inbound, certified)
            if isinstance(result, Deny) and result.client_id is None and certified is not None:
                return replace(result, client_id=certified.client_id)  # the certificate says who it was
            return result
        return ANONYMOUS if peer is None or certified is None else self._by_peer(peer, certified)

    def may_hand_over(self, peer: PeerIdentity) -> bool:
        """Whether the certificate is a TLS terminator's that may speak for others."""
        certified = self.certified(peer)
        return (
            isinstance(certified, ClientRecord)
            and HAND_OVER in self._by_peer(peer, certified).permissions.grants
        )

    def _by_peer(self, peer: PeerIdentity, certified: ClientRecord) -> ClientContext:
        """The context of a caller that shows nothing but its certificate."""
        known = self._by_certificate.get(peer.evidence)
        if known is not None and known[0] is certified:
            return known[1]
        context = self.context(certified, Proof.CERTIFICATE, peer)
        self._by_certificate.put(peer.evidence, (certified, context))
        return context

    def certified(self, peer: PeerIdentity) -> ClientRecord | Deny | None:
        """The client that the certificate names, if it may be used now; None: it names nobody."""
        named = self._certificates.named(peer)
        if named is None or isinstance(named, Deny):
            return named
        client = self._clients.by_certificate(named.certificate_id)
        if client is None or named.tenant_id not in {None, client.tenant_id}:
            return None
        if is_enabled(client):
            return client
        return refusal_of(client, client.client_id)

    def context(
        self,
        client: ClientRecord,
        proof: Proof,
        peer: PeerIdentity | None,
        token: VerifiedToken | None = None,
    ) -> ClientContext:
        """The context of a caller that was proven to be ``client``; ``peer``: that client's certificate, if any."""
        scope = "" if token is None else token.scope
        by_certificate = self.roles_by_certificate(peer)
        return ClientContext(
            client_id=client.client_id,
            tenant_id=client.tenant_id,
            user_id=client.user_id,
            username=client.username,
            roles=all_roles(client, by_certificate),
            roles_by_certificate=by_certificate,
            permissions=self._roles.permissions(client, scope, by_certificate),
            scope=scope,
            auth_time=self._now() if token is None else float(token.auth_time),
            token_id=None if token is None else token.token_id,
            api_key_id=None if token is None else token.api_key_id,
            certificate_thumbprint=None if peer is None else peer.fingerprint,
            proofs=_PROOFS[proof, proof if peer is None else Proof.CERTIFICATE],
        )

    def permissions(
        self, client: ClientRecord, scope: str = "", peer: PeerIdentity | None = None
    ) -> Permissions:
        """All that the client may do now, narrowed to ``scope`` if there is one. ``peer``: its certificate, if it shows one."""
        return self._roles.permissions(client, scope, self.roles_by_certificate(peer))

    def roles_by_certificate(self, peer: PeerIdentity | None) -> tuple[str, ...]:
        """The roles that the certificate's rule gives to its client."""
        named = None if peer is None else self._certificates.named(peer)
        return named.roles if isinstance(named, Named) else ()

    def use(self, trust: Trust, rules: Sequence[IdentityRule], *, required: bool) -> None:
        """From now on certificates are judged by these; ``required``: nobody is let in without one."""
        self.certificate_required = required
        self._certificates.use(trust, rules)
        self.forget_contexts()

    def forget_contexts(self) -> None:
        """What roles or identity rules grant has changed: every context is made anew."""
        self._forgotten += 1
        self._by_token.clear()
        self._by_key.clear()
        self._by_certificate.clear()

    def current(self, context: ClientContext) -> ClientContext | None:
        """The caller with what it may do now; None: it may no longer come in."""
        if context.client_id is None:
            return context
        client = self._clients.get(context.client_id)
        if client is None or not is_enabled(client):
            return None
        by_certificate = context.roles_by_certificate
        return replace(
            context,
            roles=all_roles(client, by_certificate),
            permissions=self._roles.permissions(client, context.scope, by_certificate),
        )

    def standing(self, context: ClientContext) -> object:
        """What the caller's permissions come from. Where it equals an earlier one, ``current`` has the same permissions.

        It costs a fraction of what they do.
        """
        client = None if context.client_id is None else self._clients.get(context.client_id)
        return (client, self._forgotten, context.scope, context.roles_by_certificate)

    def still_valid(self, context: ClientContext, peer: PeerIdentity | None) -> bool:
        """Whether the caller of an open stream would still be let in. ``peer``: its connection's certificate."""
        if peer is None and self.certificate_required:
            return False
        certified = None if peer is None else self.certified(peer)
        if isinstance(certified, Deny):
            return False
        if context.client_id is None:
            return True
        client = self._clients.get(context.client_id)
        if client is None or not is_enabled(client) or client.user_id != context.user_id:
            return False
        if peer is not None and (certified is None or certified.client_id != context.client_id):
            return False
        if self.roles_by_certificate(peer) != context.roles_by_certificate:
            return False  # the rules have changed: the client may come again with what it has now
        if peer is None and client.require_certificate:
            return False
        if context.api_key_id is not None and not self._api_keys.is_current(context.api_key_id):
            return False
        return context.token_id is None or self._tokens.is_current(context.token_id)

    def notice_issue(self, token_id: str, inbound: Inbound) -> None:
        """Remember from where a token was asked for."""
        record = self._tokens.get(token_id)
        if record is not None:
            self._whereabouts.issued(record, inbound)

    def notice_use(self, token: VerifiedToken, inbound: Inbound, *, allowed: bool) -> None:
        """Raise the alarm where the token is used from somewhere new."""
        suspicion = self._whereabouts.used(token, inbound)
        if suspicion is not None:
            self._suspect(inbound, token, suspicion, allowed)

    def _by_header(self, inbound: Inbound, certified: ClientRecord | None) -> ClientContext | Deny:
        """The one credential that is in a header."""
        if len(inbound.authorization) + len(inbound.api_keys) > 1:
            detail = "Send one Authorization field, and no X-API-Key beside it."
            return Deny(Reason.AMBIGUOUS_CREDENTIALS, detail)
        if inbound.api_keys:
            return self._by_api_key(inbound.api_keys[0], inbound, certified)
        token = _bearer_token(inbound.authorization[0])
        return token if isinstance(token, Deny) else self._by_bearer(token, inbound, certified)

    def _by_api_key(
        self, text: str, inbound: Inbound, certified: ClientRecord | None
    ) -> ClientContext | Deny:
        verified = self._api_keys.verify(text)
        if isinstance(verified, Deny):
            return verified
        key, client = verified
        peer = inbound.peer
        disagreement = _disagreement(None, client, peer, certified)
        if disagreement is not None:
            return disagreement
        known_as = (key.key_id, None if peer is None else peer.evidence)
        known = self._by_key.get(known_as)
        if known is not None and known[0] is client:
            return known[1]
        scope = " ".join(key.scopes)
        context = replace(
            self.context(client, Proof.API_KEY, peer),
            scope=scope,
            permissions=self.permissions(client, scope, peer),
            api_key_id=key.key_id,
        )
        self._by_key.put(known_as, (client, context))
        return context

    def _by_bearer(self, text: str, inbound: Inbound, certified: ClientRecord | None) -> ClientContext | Deny:
        verified = self._tokens.verify(text, TokenKind.ACCESS)
        if isinstance(verified, Deny):
            return verified
        token, client = verified
        if token.api_key_id is not None and not self._api_keys.is_current(token.api_key_id):
            detail = "The API key that the token was had with is over: use a new one."
            return Deny(Reason.TOKEN_REVOKED, detail, client_id=client.client_id)
        peer = inbound.peer
        disagreement = _disagreement(token.thumbprint, client, peer, certified)
        if disagreement is not None:
            self.notice_use(token, inbound, allowed=False)
            return disagreement
        self._used(token)
        key = (token.token_id, inbound.address, None if peer is None else peer.evidence)
        known = self._by_token.get(key)
        if known is not None and known[0] is client:
            return known[1]
        self.notice_use(token, inbound, allowed=True)
        context = self.context(client, Proof.TOKEN, peer, token)
        self._by_token.put(key, (client, context))
        return context


def _bearer_token(field: str) -> str | Deny:
    """The bearer token of an Authorization field."""
    scheme, _, token = field.partition(" ")
    scheme = scheme.lower()  # RFC 9110 section 11.1
    if scheme == "bearer":
        return token.lstrip(" ")
    if scheme == "basic":
        return Deny(
            Reason.UNSUPPORTED_CREDENTIALS, "A password is accepted at /auth/token alone: get a token there."
        )
    return Deny(Reason.UNSUPPORTED_CREDENTIALS, "Use Authorization: Bearer with a token from /auth/token.")


def _disagreement(
    thumbprint: str | None, client: ClientRecord, peer: PeerIdentity | None, certified: ClientRecord | None
) -> Deny | None:
    """Why a token bound to ``thumbprint``, or an API key, is not good over this connection; None: it is."""
    if peer is None:
        if thumbprint is None and not client.require_certificate:
            return None
        return Deny(
            Reason.CERTIFICATE_REQUIRED,
            "This is good only together with its client's certificate: connect with it.",
            client_id=client.client_id,
        )
    if certified is None:
        return Deny(UNMAPPED.reason, UNMAPPED.detail, client_id=client.client_id)
    if certified.client_id != client.client_id:
        return Deny(
            Reason.CERTIFICATE_MISMATCH,
            "The certificate and the other credential name different clients.",
            client_id=client.client_id,
        )
    if thumbprint is not None and thumbprint != peer.fingerprint:
        return Deny(
            Reason.CERTIFICATE_MISMATCH,
            "The token is bound to another certificate: get a new one over this connection.",
            client_id=client.client_id,
        )
    return None
