"""What a certificate says of itself and may be used for, in the standards' words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.extensions import extension
from certs.identity import PeerIdentity, parse_peer
from certs.name_constraints import shown_constraints
from certs.names import as_text
from certs.pem import read_certificates

KEY_CERT_SIGN: Final = "keyCertSign"
CRL_SIGN: Final = "cRLSign"
CLIENT_AUTH: Final = "clientAuth"
SERVER_AUTH: Final = "serverAuth"
ANY_EXTENDED_KEY_USAGE: Final = "anyExtendedKeyUsage"

_USAGES: Final = {
    "digital_signature": "digitalSignature",
    "content_commitment": "nonRepudiation",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": KEY_CERT_SIGN,
    "crl_sign": CRL_SIGN,
}
_EXTENDED_USAGES: Final = {
    ExtendedKeyUsageOID.CLIENT_AUTH: CLIENT_AUTH,
    ExtendedKeyUsageOID.SERVER_AUTH: SERVER_AUTH,
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.TIME_STAMPING: "timeStamping",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: ANY_EXTENDED_KEY_USAGE,
}


@dataclass(frozen=True, slots=True)
class CertificateDescription:
    """A certificate, as it is shown. Times are seconds since the epoch."""

    subject: str
    """RFC 4514, as ``issuer``."""
    issuer: str
    serial: str
    """Hexadecimal, lower case."""
    fingerprint: str
    """``x5t#S256`` (RFC 8705 section 3.1): SHA-256 of the DER, base64url, unpadded."""
    fingerprint_sha256: str
    """The same, hexadecimal."""
    sans: tuple[str, ...]
    """``DNS:…``, ``URI:…``, ``email:…``, ``IP:…``."""
    not_before: float
    not_after: float
    key_usages: tuple[str, ...]
    """As RFC 5280 spells them: ``digitalSignature``."""
    extended_usages: tuple[str, ...]
    """``clientAuth``; empty: it states none."""
    is_ca: bool
    name_constraints: tuple[str, ...]
    """What a CA may name, as ``sans``; what it may not, with ``not`` in front."""
    peer: PeerIdentity

    @property
    def usages(self) -> tuple[str, ...]:
        """Key usages, then extended ones."""
        return self.key_usages + self.extended_usages


def describe(pem_path: Path) -> CertificateDescription:
    """The first certificate of a PEM file. Raises CertificateError."""
    certificate = read_certificates(pem_path)[0]
    der = certificate.public_bytes(Encoding.DER)
    peer = parse_peer(der)
    return CertificateDescription(
        subject=peer.subject,
        issuer=peer.issuer,
        serial=f"{peer.serial:x}",
        fingerprint=peer.fingerprint,
        fingerprint_sha256=hashlib.sha256(der).hexdigest(),
        sans=alternative_names(certificate),
        not_before=peer.not_before,
        not_after=peer.not_after,
        key_usages=key_usages(certificate),
        extended_usages=extended_key_usages(certificate),
        is_ca=is_ca(certificate),
        name_constraints=shown_constraints(certificate),
        peer=peer,
    )


def alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The subject alternative names as text, with their kinds."""
    return as_text(extension(certificate, x509.SubjectAlternativeName) or ())


def key_usages(certificate: x509.Certificate) -> tuple[str, ...]:
    """The keyUsage bits that are set; empty where there is no such extension."""
    usage = extension(certificate, x509.KeyUsage)
    if usage is None:
        return ()
    return tuple(name for attribute, name in _USAGES.items() if getattr(usage, attribute))


def extended_key_usages(certificate: x509.Certificate) -> tuple[str, ...]:
    """The extended key usages, an unusual one as its number; empty where there is no such extension."""
    usages = extension(certificate, x509.ExtendedKeyUsage) or ()
    return tuple(_EXTENDED_USAGES.get(usage, usage.dotted_string) for usage in usages)


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether basicConstraints makes it a CA's certificate."""
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def lacking_for_ca(certificate: x509.Certificate) -> Iterator[str]:
    """What RFC 5280 section 4.2.1 demands, and OpenSSL's strict mode misses, in this CA's certificate."""
    if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).critical:
        yield "basicConstraints marked critical"
    if KEY_CERT_SIGN not in key_usages(certificate):
        yield f"keyUsage {KEY_CERT_SIGN}"
    if extension(certificate, x509.SubjectKeyIdentifier) is None:
        yield "subjectKeyIdentifier"


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer``'s name and key are the ones that signed ``certificate``."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_crl_of(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    """Whether ``authority`` may sign CRLs, and its name and key are the ones that signed ``crl``."""
    if crl.issuer != authority.subject or CRL_SIGN not in key_usages(authority):
        return False
    try:
        return crl.is_signature_valid(cast(CertificateIssuerPublicKeyTypes, authority.public_key()))
    except (TypeError, ValueError):
        return False
