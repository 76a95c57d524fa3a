"""A development CA in a folder.

``ca.pem``, ``ca.key`` (mode 0600), ``issued/SERIAL.pem``, and ``crl.pem`` once something was revoked.
Everything here is synchronous; the folder is the only state; times are seconds since the epoch. A certificate
is in ``issued/`` before it is anywhere else, so that whatever is in use can be listed and revoked.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs import pem
from certs.description import (
    KEY_CERT_SIGN,
    CertificateDescription,
    describe,
    is_ca,
    is_issued_by,
    key_usages,
)
from certs.extensions import extension
from certs.identity import CertificateError, parse_peer
from certs.issued import FOLDER, IssuedCertificate, crls_in, issued_certificate, list_issued, revoked_at
from certs.issuer import CLIENT_USAGE, SERVER_USAGE, Issuer
from certs.names import (
    LONGEST_COMMON_NAME,
    checked_common_name,
    checked_file_name,
    client_name,
    server_name,
    subtree,
)
from certs.requests import read_request

__all__ = ["Authority", "CertificateDescription", "IssuedCertificate", "Revocation", "describe", "serial_of"]

SERVER_DAYS: Final = 90
"""How long the gateway's own certificate is good for, unless told otherwise."""
CLIENT_DAYS: Final = 30
"""How long a client's certificate is good for, unless told otherwise."""

_SERIAL: Final = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,40}")
_LONGEST_SERIAL: Final = 159
"""Bits: 20 octets with a sign (RFC 5280 section 4.1.2.2)."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """What ``revoke`` did. ``issued`` is None where the serial number is not in the CA's list."""

    serial: str
    """Hexadecimal, lower case."""
    revoked_at: float
    """When it was first revoked."""
    crl: Path
    issued: IssuedCertificate | None


def serial_of(certificate_or_serial: Path | str | int) -> int:
    """The serial number: a file's where there is one of that name, else the hexadecimal number itself.

    Raises CertificateError for what is neither.
    """
    if isinstance(certificate_or_serial, int):
        serial = certificate_or_serial
    elif isinstance(certificate_or_serial, Path) or _is_file(certificate_or_serial):
        serial = pem.read_certificates(Path(certificate_or_serial))[0].serial_number
    else:
        digits = certificate_or_serial.replace(":", "")
        serial = int(digits, 16) if _SERIAL.fullmatch(digits) else 0
    if not 0 < serial.bit_length() <= _LONGEST_SERIAL or serial < 0:
        remedy = "name a certificate's PEM file, or a serial number in hexadecimal as `certs list` shows it"
        raise CertificateError(f"{certificate_or_serial!r} is neither a file nor a serial number; {remedy}")
    return serial


class Authority:
    """A CA with its key at hand. Made by ``create`` or ``load``."""

    def __init__(self, folder: Path, issuer: Issuer, crl: Path) -> None:
        self.folder = folder
        self.crl = crl
        self._issuer = issuer

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        now: float,
        common_name: str = "Ostiary development CA",
        days: int = 3650,
        permitted: Sequence[str] = (),
    ) -> Self:
        """Make a CA in ``folder``, which is made (mode 0700) where there is none.

        ``permitted``: its name constraints, as ``names.subtree`` reads them: of a kind that is there, it names nothing else.
        Raises CertificateError where the folder holds a CA already, or cannot be written.
        """
        issuer = Issuer.self_signed(
            checked_common_name(common_name), days=days, now=now, permitted=tuple(map(subtree, permitted))
        )
        pem.create_folder(folder)
        pem.create(
            _key_file(folder / "ca.key", issuer.key), _certificate_file(folder / "ca.pem", issuer.certificate)
        )
        return cls(folder, issuer, folder / "crl.pem")

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        certificate: Path | None = None,
        private_key: Path | None = None,
        crl: Path | None = None,
        passphrase: Callable[[], bytes] | None = None,
    ) -> Self:
        """The CA of ``folder``; each file may be elsewhere. ``issued/`` is always in ``folder``.

        ``passphrase`` is asked where the key is protected by one.

        Raises CertificateError where a file is missing, unreadable or open to others, the key is another's,
        or the certificate is no CA's.
        """
        certificate_path = certificate or folder / "ca.pem"
        key_path = private_key or folder / "ca.key"
        loaded = pem.read_certificates(certificate_path)[0]
        if not pem.is_there(key_path):
            remedy = "issue and revoke certificates where the CA's key is kept, or put it there in mode 0600"
            raise CertificateError(f"{key_path}: the key of {certificate_path} is not there; {remedy}")
        key = pem.read_private_key(key_path, passphrase)
        if (problem := pem.mode_problem(key_path)) is not None:
            raise CertificateError(problem)
        if key.public_key() != loaded.public_key():
            remedy = "name the key that belongs to the certificate"
            raise CertificateError(f"{key_path}: is not the key of {certificate_path}; {remedy}")
        if not is_ca(loaded) or KEY_CERT_SIGN not in key_usages(loaded):
            remedy = "name a certificate with basicConstraints CA:true and keyUsage keyCertSign"
            raise CertificateError(f"{certificate_path}: is not a CA's certificate; {remedy}")
        return cls(folder, Issuer(loaded, key), crl or folder / "crl.pem")

    def issue_client(
        self, name: str, *, sans: Sequence[str] = (), days: int = CLIENT_DAYS, out: Path, now: float
    ) -> IssuedCertificate:
        """A client certificate with common name ``name``: ``name.pem``, ``name.key`` and ``ca.pem`` in
        ``out``.

        ``sans``: URIs (``scheme:…``), e-mail addresses, IP addresses, DNS names. ``out`` is made (mode 0700)
        where there is none. Raises CertificateError where a name is not usable or a file is there already
        (the same ``ca.pem`` may).
        """
        alternatives = [client_name(san) for san in sans]
        signed = self._issuer.sign_client(checked_file_name(name), alternatives, days=days, now=now)
        pem.create_folder(out)
        pem.create(
            self._record(signed.certificate),
            *self._own_certificate_unless_in(out),
            _key_file(out / f"{name}.key", signed.key),
            _certificate_file(out / f"{name}.pem", signed.certificate),
        )
        return issued_certificate(signed.certificate, out / f"{name}.pem")

    def issue_server(
        self,
        *,
        names: Sequence[str],
        days: int = SERVER_DAYS,
        certificate: Path,
        private_key: Path,
        now: float,
        overwrite: bool = False,
    ) -> IssuedCertificate:
        """A server certificate for DNS names and IP addresses. ``overwrite`` swaps both files for the new
        ones.

        Raises CertificateError where a name is not usable, or a file is there already and ``overwrite`` is
        not given.
        """
        if not names:
            raise CertificateError(
                "a server certificate needs a name; give at least one DNS name or IP address"
            )
        alternatives = [server_name(name) for name in names]
        common_name = names[0] if len(names[0]) <= LONGEST_COMMON_NAME else "Ostiary gateway"
        signed = self._issuer.sign_server(common_name, alternatives, days=days, now=now)
        files = _key_file(private_key, signed.key), _certificate_file(certificate, signed.certificate)
        if overwrite:
            pem.create(self._record(signed.certificate))
            pem.replace_pair(*files)
        else:
            pem.create(self._record(signed.certificate), *files)
        return issued_certificate(signed.certificate, certificate)

    def sign(
        self, request: Path, *, server: bool, days: int | None = None, out: Path, now: float
    ) -> IssuedCertificate:
        """The certificate that a signing request asks for, written to ``out``; for clients, unless ``server``.

        Raises CertificateError, as ``requests.read_request`` does, and where ``out`` is there already.
        """
        asked = read_request(request, server_name if server else client_name)
        usage, usual = (SERVER_USAGE, SERVER_DAYS) if server else (CLIENT_USAGE, CLIENT_DAYS)
        if server and not asked.names:
            raise CertificateError(
                f"{request}: asks for no alternative name, and a server needs one; add one"
            )
        certificate = self._issuer.sign_key(
            asked.public_key, [usage], asked.common_name, asked.names, days=days or usual, now=now
        )
        pem.create(self._record(certificate), _certificate_file(out, certificate))
        return issued_certificate(certificate, out)

    def renew(
        self, certificate: Path, private_key: Path, *, days: int | None = None, now: float
    ) -> IssuedCertificate:
        """A certificate of the same names and uses with a new key, in the place of the old one and its key.

        ``days``: as long as the old one was good for, unless told otherwise. The old one stays good until it expires.
        Raises CertificateError where it is another CA's, a CA's own, or revoked, and where the key is not its own.
        """
        old = pem.read_certificates(certificate)[0]
        if is_ca(old):
            raise CertificateError(f"{certificate}: is a CA's certificate; make a new CA instead")
        serial = self._own_serial(certificate)
        if revoked_at(crls_in(self.crl, self._issuer.certificate)[0], serial) is not None:
            raise CertificateError(f"{certificate}: was revoked; issue a new one instead")
        common_names = parse_peer(old.public_bytes(Encoding.DER)).common_names
        if len(common_names) != 1:
            raise CertificateError(
                f"{certificate}: has {len(common_names)} common names; issue a new one instead"
            )
        if pem.is_there(private_key) and pem.read_private_key(private_key).public_key() != old.public_key():
            raise CertificateError(
                f"{private_key}: is not the key of {certificate}, and would be lost; name that certificate's own key"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        lifetime = old.not_valid_after_utc - old.not_valid_before_utc
        signed = self._issuer.sign_key(
            key.public_key(),
            list(extension(old, x509.ExtendedKeyUsage) or [CLIENT_USAGE]),
            common_names[0],
            list(extension(old, x509.SubjectAlternativeName) or ()),
            days=days or max(1, lifetime.days),
            now=now,
        )
        pem.create(self._record(signed))
        pem.replace_pair(_key_file(private_key, key), _certificate_file(certificate, signed))
        return issued_certificate(signed, certificate)

    def renew_crl(self, *, now: float) -> float:
        """Write the CRL anew, with what is on it, and an empty one where there is none; when it ends."""
        with self._locked():
            crl = self._write_crl(None, now=now)
        end = crl.next_update_utc
        return now if end is None else end.timestamp()

    def list(self) -> list[IssuedCertificate]:
        """What the CA has issued, oldest first. Raises CertificateError where a file cannot be read."""
        return list_issued(self.folder, self._issuer.certificate, self.crl)

    def revoke(self, certificate_or_serial: Path | str | int, *, now: float) -> Revocation:
        """Put a certificate on the CRL and write the CRL anew, valid for ``issuer.CRL_DAYS``.

        The certificate is a PEM file or a serial number (hexadecimal, where it is text). One that is on the
        CRL already keeps its date, so that revoking it again renews the CRL; other CAs' CRLs in the file stay.
        Raises CertificateError where the certificate is another CA's, or the file holds no CRL of this one.
        """
        serial = self._own_serial(certificate_or_serial)
        with self._locked():
            crl = self._write_crl(serial, now=now)
        since = revoked_at(crl, serial)
        record = self._record_path(serial)
        issued = (
            issued_certificate(pem.read_certificates(record)[0], record, since)
            if pem.is_there(record)
            else None
        )
        return Revocation(f"{serial:x}", now if since is None else since, self.crl, issued)

    def _write_crl(self, serial: int | None, *, now: float) -> x509.CertificateRevocationList:
        current, others = crls_in(self.crl, self._issuer.certificate)
        crl = self._issuer.sign_crl(current, serial, now=now)
        content = b"".join(each.public_bytes(Encoding.PEM) for each in (crl, *others))
        pem.replace(pem.NewFile(self.crl, content, pem.PUBLIC))
        return crl

    @property
    def _issued_folder(self) -> Path:
        return self.folder / FOLDER

    def _record_path(self, serial: int) -> Path:
        return self._issued_folder / f"{serial:x}.pem"

    def _record(self, certificate: x509.Certificate) -> pem.NewFile:
        pem.create_folder(self._issued_folder)
        return _certificate_file(self._record_path(certificate.serial_number), certificate)

    def _own_certificate_unless_in(self, out: Path) -> tuple[pem.NewFile, ...]:
        path = out / "ca.pem"
        if not pem.is_there(path):
            return (_certificate_file(path, self._issuer.certificate),)
        if pem.read_certificates(path)[0] != self._issuer.certificate:
            raise CertificateError(f"{path}: is another CA's certificate; choose another folder")
        return ()

    def _own_serial(self, certificate_or_serial: Path | str | int) -> int:
        serial = serial_of(certificate_or_serial)
        if serial == self._issuer.certificate.serial_number:
            raise CertificateError("a CA cannot revoke itself; take it out of tls.client_ca instead")
        if isinstance(certificate_or_serial, int) or not _is_file(certificate_or_serial):
            return serial
        certificate = pem.read_certificates(Path(certificate_or_serial))[0]
        if not is_issued_by(certificate, self._issuer.certificate):
            remedy = "revoke it with the CA that issued it"
            raise CertificateError(f"{certificate_or_serial}: was not issued by this CA; {remedy}")
        return certificate.serial_number

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two revocations at once must not lose one of them."""
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CertificateError(
                f"{self.folder}: cannot be opened ({error.strerror}); name the CA's folder"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_file(text: Path | str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than any file's name
        return False


def _key_file(path: Path, key: pem.PrivateKey) -> pem.NewFile:
    return pem.NewFile(path, pem.encode_private_key(key), pem.PRIVATE)


def _certificate_file(path: Path, certificate: x509.Certificate) -> pem.NewFile:
    return pem.NewFile(path, pem.encode_certificate(certificate), pem.PUBLIC)
