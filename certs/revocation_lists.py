"""Which CRLs can be used: complete ones (RFC 5280 section 5), for they are read as that.

A certificate that is on no list counts as not revoked. So a list that leaves some out by design, or whose meaning depends
on what is not understood, is refused as a whole.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

_COMPLETE: Final = "have the CA write a complete CRL"
_KNOWN: Final = frozenset(
    {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_NUMBER,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.ISSUING_DISTRIBUTION_POINT,
    }
)
_KNOWN_OF_ENTRIES: Final = frozenset({CRLEntryExtensionOID.CRL_REASON, CRLEntryExtensionOID.INVALIDITY_DATE})
_CRITICAL: Final = b"\x01\x01\xff"
"""How DER marks a critical extension. Where it is nowhere, no entry needs to be looked at: there may be very many."""


def problem_of(crl: x509.CertificateRevocationList) -> str | None:
    """Why the CRL cannot be used, with the remedy; None: it can. Raises what ``cryptography`` does on what is malformed."""
    for extension in crl.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            return f"is a delta CRL, which lists changes alone (RFC 5280 section 5.2.4); {_COMPLETE}"
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            limits = ", ".join(_limits(extension.value))
            if limits:
                return (
                    f"is not about all certificates of its CA ({limits}; RFC 5280 section 5.2.5); {_COMPLETE}"
                )
        if extension.critical and extension.oid not in _KNOWN:
            name = extension.oid.dotted_string
            return f"has a critical extension that is not understood here ({name}; RFC 5280 section 5.2); {_COMPLETE}"
    return _problem_of_entries(crl)


def _limits(point: x509.IssuingDistributionPoint) -> list[str]:
    """What the CRL is limited to, in the standard's words."""
    found = {
        "onlyContainsUserCerts": point.only_contains_user_certs,
        "onlyContainsCACerts": point.only_contains_ca_certs,
        "onlyContainsAttributeCerts": point.only_contains_attribute_certs,
        "onlySomeReasons": point.only_some_reasons is not None,
        "indirectCRL": point.indirect_crl,
        "distributionPoint": point.full_name is not None or point.relative_name is not None,
    }
    return [name for name, there in found.items() if there]


def _problem_of_entries(crl: x509.CertificateRevocationList) -> str | None:
    if _CRITICAL not in crl.tbs_certlist_bytes:
        return None
    for entry in crl:
        for extension in entry.extensions:
            if extension.critical and extension.oid not in _KNOWN_OF_ENTRIES:
                name = extension.oid.dotted_string
                return (
                    f"has an entry with a critical extension that is not understood here ({name}; RFC 5280 section 5.3); "
                    f"{_COMPLETE}"
                )
    return None
