"""What a CA has issued: ``issued/SERIAL.pem`` in its folder, and its CRL. The CA's key is not needed to read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs import pem
from certs.description import alternative_names, is_crl_of
from certs.identity import CertificateError, parse_peer

FOLDER: Final = "issued"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate that the CA has issued. Times are seconds since the epoch."""

    path: Path
    """Where it was written to; in a list: its copy in ``issued/``."""
    common_name: str
    subject: str
    """RFC 4514, as ``issuer``."""
    issuer: str
    serial: str
    """Hexadecimal, lower case."""
    fingerprint: str
    """``x5t#S256``."""
    sans: tuple[str, ...]
    not_before: float
    not_after: float
    revoked_at: float | None = None
    """When the CRL says that it was revoked."""


def list_issued(folder: Path, authority: x509.Certificate, crl: Path) -> list[IssuedCertificate]:
    """What the CA has issued, oldest first. Raises CertificateError where a file cannot be read."""
    own, _ = crls_in(crl, authority)
    issued = []
    for path in (folder / FOLDER).glob("*.pem"):
        certificate = pem.read_certificates(path)[0]
        issued.append(issued_certificate(certificate, path, revoked_at(own, certificate.serial_number)))
    return sorted(issued, key=lambda each: (each.not_before, each.common_name, each.serial))


def issued_certificate(
    certificate: x509.Certificate, path: Path, revoked: float | None = None
) -> IssuedCertificate:
    """The certificate as it is listed."""
    peer = parse_peer(certificate.public_bytes(Encoding.DER))
    return IssuedCertificate(
        path=path,
        common_name=", ".join(peer.common_names),
        subject=peer.subject,
        issuer=peer.issuer,
        serial=f"{peer.serial:x}",
        fingerprint=peer.fingerprint,
        sans=alternative_names(certificate),
        not_before=peer.not_before,
        not_after=peer.not_after,
        revoked_at=revoked,
    )


def crls_in(
    path: Path, authority: x509.Certificate
) -> tuple[x509.CertificateRevocationList | None, list[x509.CertificateRevocationList]]:
    """The CA's CRL, None where there is no file yet, and the others that share the file. Raises CertificateError."""
    if not pem.is_there(path):
        return None, []
    found = pem.read_revocation_lists(path)
    own = [each for each in found if is_crl_of(each, authority)]
    if len(own) != 1:
        remedy = "move it away, or name the file that holds this CA's"
        raise CertificateError(f"{path}: holds {len(own)} CRLs that are signed by this CA; {remedy}")
    return own[0], [each for each in found if each != own[0]]


def revoked_at(crl: x509.CertificateRevocationList | None, serial: int) -> float | None:
    """When the CRL says that the certificate was revoked; None: it does not."""
    entry = None if crl is None else crl.get_revoked_certificate_by_serial_number(serial)
    return None if entry is None else entry.revocation_date_utc.timestamp()
