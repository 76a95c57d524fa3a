"""A CA's signature on certificates and CRLs: no files, and the time is an argument.

Profile (RFC 5280): P-256 keys for what is issued, random serial numbers of 159 bits, SHA-256, critical
basicConstraints and keyUsage, one extended key usage, subject and authority key identifiers. The CA's own key
may also be RSA or Ed25519.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.description import CRL_SIGN, key_usages
from certs.extensions import extension
from certs.identity import CertificateError, UnusableNameError
from certs.name_constraints import constraints_of, names_of, outside, shown_constraints
from certs.names import as_text
from certs.pem import PrivateKey
from certs.requests import PublicKey

CRL_DAYS: Final = 30
"""From a CRL's writing to its nextUpdate."""
CLIENT_USAGE: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_USAGE: Final = ExtendedKeyUsageOID.SERVER_AUTH
LONGEST_DAYS: Final = 36500

_BACKDATED: Final = timedelta(minutes=1)
"""Certificates and CRLs are valid from a minute before they are made, for clocks that are behind."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A new certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA's certificate, and the key that goes with it."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @classmethod
    def self_signed(
        cls, common_name: str, *, days: int, now: float, permitted: Sequence[x509.GeneralName] = ()
    ) -> Self:
        """A new CA, which issues end-entity certificates only; ``permitted``: its name constraints. Raises CertificateError."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(common_name)
        builder = (
            _unsigned(subject, subject, key.public_key(), _validity(now, days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
        )
        if permitted:
            builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def sign_client(
        self, common_name: str, names: Sequence[x509.GeneralName], *, days: int, now: float
    ) -> Signed:
        """A certificate for TLS clients. Raises CertificateError."""
        return self._sign(CLIENT_USAGE, common_name, names, days=days, now=now)

    def sign_server(
        self, common_name: str, names: Sequence[x509.GeneralName], *, days: int, now: float
    ) -> Signed:
        """A certificate for TLS servers. Raises CertificateError."""
        return self._sign(SERVER_USAGE, common_name, names, days=days, now=now)

    def sign_key(
        self,
        public_key: PublicKey,
        usages: Sequence[x509.ObjectIdentifier],
        common_name: str,
        names: Sequence[x509.GeneralName],
        *,
        days: int,
        now: float,
    ) -> x509.Certificate:
        """A certificate for a key that is somebody's own. Raises CertificateError."""
        not_before, not_after = _validity(now, days)
        ca_end = self.certificate.not_valid_after_utc
        if ca_end <= _moment(now):
            raise CertificateError(f"the CA's certificate expired on {ca_end:%Y-%m-%d}; make a new CA")
        validity = not_before, min(not_after, ca_end)  # a certificate never outlives its CA
        builder = (
            _unsigned(_name(common_name), self.certificate.subject, public_key, validity)
            .add_extension(self._authority_key_identifier(), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, self._digest)
        self._check_names(certificate)
        return certificate

    def _check_names(self, certificate: x509.Certificate) -> None:
        """Raises UnusableNameError where nobody would accept it: it has a name that this CA may not give."""
        constraints = constraints_of(self.certificate)
        name = None if constraints is None else outside(constraints, names_of(certificate))
        if name is not None:
            permitted = " ".join(shown_constraints(self.certificate))
            raise UnusableNameError(
                f"{as_text([name])[0]} is outside of what the CA may name ({permitted}); choose another name"
            )

    def sign_crl(
        self, current: x509.CertificateRevocationList | None, serial: int | None, *, now: float
    ) -> x509.CertificateRevocationList:
        """The CRL that follows ``current``: its entries, and ``serial`` (None: nothing) if it is not among them.

        Raises CertificateError where this CA may sign none.
        """
        if CRL_SIGN not in key_usages(self.certificate):
            raise CertificateError(
                "this CA may not sign a CRL (keyUsage cRLSign); have one written by a CA that may"
            )
        builder = (
            x509.CertificateRevocationListBuilder(revoked_certificates=list(current or ()))
            .issuer_name(self.certificate.subject)
            .last_update(_moment(now) - _BACKDATED)
            .next_update(_moment(now) + timedelta(days=CRL_DAYS))
            .add_extension(x509.CRLNumber(_crl_number(current) + 1), critical=False)
            .add_extension(self._authority_key_identifier(), critical=False)
        )
        if serial is not None and (
            current is None or current.get_revoked_certificate_by_serial_number(serial) is None
        ):
            entry = (
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_moment(now)).build()
            )
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, self._digest)

    def _sign(
        self,
        usage: x509.ObjectIdentifier,
        common_name: str,
        names: Sequence[x509.GeneralName],
        *,
        days: int,
        now: float,
    ) -> Signed:
        key = ec.generate_private_key(ec.SECP256R1())
        return Signed(self.sign_key(key.public_key(), [usage], common_name, names, days=days, now=now), key)

    @property
    def _digest(self) -> hashes.SHA256 | None:
        # Edwards-curve signatures bring their own (RFC 8410).
        return (
            None
            if isinstance(self.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
            else hashes.SHA256()
        )

    def _authority_key_identifier(self) -> x509.AuthorityKeyIdentifier:
        own = extension(self.certificate, x509.SubjectKeyIdentifier)
        if own is None:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)


def _validity(now: float, days: int) -> tuple[datetime, datetime]:
    if not 1 <= days <= LONGEST_DAYS:
        raise CertificateError(f"a certificate cannot be valid for {days} days; write 1 to {LONGEST_DAYS}")
    return _moment(now) - _BACKDATED, _moment(now) + timedelta(days=days)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    validity: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    not_before, not_after = validity
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _crl_number(crl: x509.CertificateRevocationList | None) -> int:
    if crl is None:
        return 0
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
