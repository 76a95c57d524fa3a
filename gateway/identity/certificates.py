"""Client certificates on every request: still trusted, not revoked, and whose they are.

The judgement of a certificate is remembered until the files change or something in it ends; what the store says of revoked
ones is asked each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from certs.identity import IdentityRule, PeerIdentity, named_by
from certs.trust import Distrust, Judgement, Trust
from gateway.model import Deny, Reason
from gateway.remembered import Remembered
from persistence.protocols import Collection
from persistence.records import RevokedCertificate

_REMEMBERED: Final = 16_384
_REVOKED: Final = Deny(
    Reason.CERTIFICATE_REVOKED, "The client certificate was revoked: ask an administrator for a new one."
)
_DISTRUSTED: Final = {
    Distrust.REVOKED: _REVOKED,
    Distrust.EXPIRED: Deny(Reason.CERTIFICATE_EXPIRED, "The client certificate has expired: get a new one."),
    Distrust.UNTRUSTED: Deny(
        Reason.CERTIFICATE_UNTRUSTED,
        "The CA of the client certificate is not trusted any more: get a new one.",
    ),
    Distrust.CRL_EXPIRED: Deny(
        Reason.CRL_EXPIRED,
        "The gateway's list of revoked certificates is out of date: tell its administrator.",
    ),
}


@dataclass(frozen=True, slots=True)
class Named:
    """Whom the rules name."""

    certificate_id: str
    tenant_id: str | None
    """The tenant that the rule is for; None: any."""
    roles: tuple[str, ...] = ()
    """What the rule gives beside the client's own."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found out of a certificate, until something in it ends."""

    until: float
    named: Named | Deny | None


_FOR_EVER: Final = float("inf")


class Certificates:
    """What the gateway makes of client certificates. ``use`` swaps in a new state of the files and rules."""

    def __init__(
        self,
        rules: Sequence[IdentityRule],
        trust: Trust | None = None,
        revoked: Collection[RevokedCertificate] | None = None,
        *,
        now: Callable[[], float],
    ) -> None:
        """``trust`` None: what the handshake verified is not looked at again."""
        self._rules = tuple(rules)
        self._trust = trust
        self._revoked = revoked
        self._now = now
        self._known: Remembered[str, _Known] = Remembered(_REMEMBERED)

    def use(self, trust: Trust, rules: Sequence[IdentityRule]) -> None:
        """From now on."""
        self._trust = trust
        self._rules = tuple(rules)
        self._known = Remembered(_REMEMBERED)

    def named(self, peer: PeerIdentity) -> Named | Deny | None:
        """The certificate id that the rules yield; None: the certificate names nobody; Deny: it is not accepted now."""
        now = self._now()
        if peer.not_after <= now:
            return _DISTRUSTED[Distrust.EXPIRED]
        key = peer.evidence
        known = self._known.get(key)
        if known is None or known.until <= now:
            known = self._judge(peer, now)
            self._known.put(key, known)
        revoked = self._revoked
        if revoked is not None and len(revoked) and _is_revoked(revoked, peer):
            return _REVOKED
        return known.named

    def _judge(self, peer: PeerIdentity, now: float) -> _Known:
        trust = self._trust
        if trust is not None:
            judgement = trust.judge(peer, now)
        else:
            judgement = Judgement(Distrust.UNTRUSTED if peer.handed_over else None, _FOR_EVER)
        if judgement.distrust is not None:
            return _Known(judgement.until, _DISTRUSTED[judgement.distrust])
        found = named_by(
            peer, self._rules, lambda file: trust is not None and trust.is_under(judgement, file)
        )
        if found is None:
            return _Known(judgement.until, None)
        client_id, rule = found
        return _Known(judgement.until, Named(client_id, rule.tenant_id, rule.roles))


def revocation_of(
    revoked: Collection[RevokedCertificate],
    *,
    fingerprint: str | None,
    serial_number: str,
    issuer: str | None,
) -> RevokedCertificate | None:
    """The record by which a certificate is refused; None: there is none.

    The fingerprint alone would not do: whoever holds a certificate that was signed by ECDSA can write its signature in
    another way, as (r, n - s), and it still verifies. Issuer and serial number are part of what is signed.
    """
    for record in revoked.where("serial_number", serial_number):
        if record.issuer is None or record.issuer == issuer:
            return record
    return next(iter(revoked.where("fingerprint", fingerprint)), None) if fingerprint else None


def _is_revoked(revoked: Collection[RevokedCertificate], peer: PeerIdentity) -> bool:
    found = revocation_of(
        revoked, fingerprint=peer.fingerprint, serial_number=serial_text(peer.serial), issuer=peer.issuer
    )
    return found is not None


def serial_text(serial: int) -> str:
    """A serial number as it is shown and stored: hexadecimal, lower case."""
    return f"{serial:x}"
