"""Certificate signing requests (PKCS #10, RFC 2986): for a CA whose key is kept on another machine.

A request is taken at its word for three things alone, each checked: the one common name, the alternative names, and the
key. What else it asks for, such as being a CA, is not heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from certs import pem
from certs.identity import MALFORMED, CertificateError
from certs.names import checked_common_name

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_SHORTEST_RSA: Final = 2048
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What a request asks to have certified."""

    common_name: str
    names: tuple[x509.GeneralName, ...]
    public_key: PublicKey


def read_request(path: Path, name: Callable[[str], x509.GeneralName]) -> SigningRequest:
    """The request in a PEM file. ``name`` reads an alternative name anew from its text.

    Raises CertificateError for one that is malformed, whose signature is not its key's, that has no or several
    common names, or a name or a key that no certificate of this CA may have.
    """
    try:
        request = x509.load_pem_x509_csr(pem.read(path))
        if not request.is_signature_valid:
            raise CertificateError(
                f"{path}: is not signed with its own key; have the request made again by who holds the key"
            )
        asked, public_key = _alternative_names(request), request.public_key()
        common_names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except MALFORMED as error:
        raise CertificateError(
            f"{path}: holds no readable PEM certificate request; make one with openssl req -new"
        ) from error
    if len(common_names) != 1:
        raise CertificateError(f"{path}: has {len(common_names)} common names; make a request with one")
    return SigningRequest(
        common_name=checked_common_name(str(common_names[0].value)),
        names=tuple(name(_text(path, each)) for each in asked),
        public_key=_usable(path, public_key),
    )


def _alternative_names(request: x509.CertificateSigningRequest) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _text(path: Path, name: x509.GeneralName) -> str:
    if isinstance(name, x509.DNSName | x509.UniformResourceIdentifier | x509.RFC822Name | x509.IPAddress):
        return str(name.value)
    raise CertificateError(
        f"{path}: asks for a name that is no DNS name, URI, e-mail or IP address; leave it out"
    )


def _usable(path: Path, key: object) -> PublicKey:
    good = (
        (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES))
        or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _SHORTEST_RSA)
        or isinstance(key, ed25519.Ed25519PublicKey)
    )
    if good and isinstance(key, PublicKey):
        return key
    raise CertificateError(
        f"{path}: its key is too weak or of another type; make an EC (P-256), RSA 2048 or Ed25519 key"
    )
