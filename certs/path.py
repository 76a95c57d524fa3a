"""Certification paths (RFC 5280 section 6) for certificates that no handshake of ours has verified.

The same that OpenSSL asks in a handshake: signatures up to a CA that is trusted, the time of each certificate, CA and path
length constraints, name constraints, key usages, extended key usage clientAuth, no critical extension that is not
understood. It is stricter in algorithms: RSA and ECDSA on the NIST curves, as in the web's PKI.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.x509 import verification

_NEVER: Final = float("inf")


class Paths:
    """From clients' certificates to the CAs that are trusted, each by itself."""

    def __init__(self, authorities: Sequence[x509.Certificate]) -> None:
        self._authorities = tuple(authorities)
        self._store = verification.Store(list(authorities)) if authorities else None

    def lead_to(
        self, certificate: x509.Certificate, sent_with: Sequence[x509.Certificate], now: float
    ) -> bool:
        """Whether a path leads from the certificate to one of the CAs, ``now`` (seconds since the epoch)."""
        if self._store is None:
            return False
        verifier = (
            verification.PolicyBuilder()
            .store(self._store)
            .time(datetime.fromtimestamp(now, UTC))
            .extension_policies(ca_policy=_OF_CA, ee_policy=_OF_CLIENT)
            .build_client_verifier()
        )
        try:
            verifier.verify(certificate, list(sent_with))
        except verification.VerificationError:
            return False
        return True

    def next_start(
        self, certificate: x509.Certificate, sent_with: Sequence[x509.Certificate], now: float
    ) -> float:
        """When the first of them, or of the CAs, begins to be valid that is not yet; infinity: none will."""
        starts = (
            each.not_valid_before_utc.timestamp() for each in (certificate, *sent_with, *self._authorities)
        )
        return min((start for start in starts if start > now), default=_NEVER)


def _signs(_policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    """Raises ValueError where the key is not for what a TLS client does with it, or is a CA's."""
    if usage is not None and (usage.key_cert_sign or not (usage.digital_signature or usage.key_agreement)):
        raise ValueError("the key is not for TLS clients")


_OF_CA: Final = verification.ExtensionPolicy.webpki_defaults_ca()
_OF_CLIENT: Final = (
    verification.ExtensionPolicy.webpki_defaults_ee()
    # The common name may be all that it has.
    .may_be_present(x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _signs)
)
