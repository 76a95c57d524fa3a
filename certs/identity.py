"""From a client certificate to a ``client_id``, in two pure hops: parse, then match.

The rules of the second hop:

- The rules are ordered, and the first that matches names the client.
- A rule whose field is not in the certificate, or that matches none of its values, leaves it to the next
  rule.
- A rule that matches two values, or whose field can be read in two ways or has a value that no one should be named
  by, ends the search: nobody is named. An ambiguous certificate never falls through to a weaker rule.
- What comes out is a ``client_id`` in printable ASCII, so that two that look the same are the same.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

CLIENT_ID_GROUP: Final = "client_id"
"""The group of a rule's pattern that holds the client_id; a pattern without it yields the whole value."""

MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What ``cryptography`` raises on a certificate, key or CRL that is not well-formed."""

_CLIENT_ID: Final = re.compile(r'(?:(?!["\\,*])[!-~]){1,128}')


class CertificateError(Exception):
    """A certificate, key or CRL that cannot be used; the message names the file (if any) and the remedy."""


class UnusableNameError(CertificateError):
    """No certificate can carry that name, whoever issues it."""


class CertificateField(StrEnum):
    """Where in a certificate a client is named: the values of ``from`` in ``[[tls.client_id]]``."""

    SAN_URI = "san_uri"
    SAN_DNS = "san_dns"
    SAN_EMAIL = "san_email"
    COMMON_NAME = "common_name"
    SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a client certificate says. Times are seconds since the epoch."""

    fingerprint: str
    """``x5t#S256`` of RFC 8705 section 3.1: SHA-256 of the DER, base64url, unpadded."""
    serial: int
    subject: str
    """RFC 4514, empty where the certificate has no subject."""
    issuer: str
    """RFC 4514."""
    common_names: tuple[str, ...]
    san_uri: tuple[str, ...]
    san_dns: tuple[str, ...]
    san_email: tuple[str, ...]
    not_before: float
    not_after: float
    der: bytes = field(default=b"", repr=False, compare=False)
    sent_with: tuple[bytes, ...] = field(default=(), repr=False, compare=False)
    """The certificates that the client sent along, in DER: on the way to a CA, perhaps."""
    handed_over: bool = False
    """Whether a TLS terminator in front says so: no handshake here has verified it."""

    evidence: str = field(init=False, repr=False, compare=False)
    """What a judgement of the certificate rests on, as a key: what came along with it may decide, too."""

    def __post_init__(self) -> None:
        evidence = self.fingerprint
        if self.sent_with or self.handed_over:
            evidence += f" {thumbprint(b''.join(self.sent_with))} {self.handed_over}"
        object.__setattr__(self, "evidence", evidence)


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """One ``[[tls.client_id]]``: a field, and what has to match the whole of a value (None: any value)."""

    field: CertificateField
    match: re.Pattern[str] | None = None
    ca: Path | None = None
    """A file with CAs: the rule is for certificates under one of them alone. None: for all."""
    tenant_id: str | None = None
    """The tenant that the client must belong to. None: any."""
    roles: tuple[str, ...] = ()
    """What the client has beside its own, for as long as it shows the certificate."""


DEFAULT_RULES: Final[tuple[IdentityRule, ...]] = (IdentityRule(CertificateField.COMMON_NAME),)
"""What holds where the configuration has no rules."""


def thumbprint(der: bytes) -> str:
    """``x5t#S256`` of RFC 8705 section 3.1."""
    return urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")


def parse_peer(der: bytes, sent_with: Sequence[bytes] = (), *, handed_over: bool = False) -> PeerIdentity:
    """Read a certificate. The chain and the dates are not checked here: the TLS handshake or ``Trust`` does that.

    ``sent_with``: the certificates that came along. ``handed_over``: as PeerIdentity says.

    Raises CertificateError for what is not exactly one well-formed certificate, an unreadable or a repeated
    extension included.
    """
    try:
        return _peer_identity(
            x509.load_der_x509_certificate(der), der, tuple(sent_with), handed_over=handed_over
        )
    except MALFORMED as error:
        raise CertificateError(f"the certificate is malformed ({error}); issue a new one") from error


def certificate_id(peer: PeerIdentity, rules: Sequence[IdentityRule]) -> str | None:
    """The ``client_id`` that ``rules`` give this certificate, or None: it names nobody."""
    named = named_by(peer, rules, lambda _ca: True)
    return None if named is None else named[0]


def named_by(
    peer: PeerIdentity, rules: Sequence[IdentityRule], is_under: Callable[[Path], bool]
) -> tuple[str, IdentityRule] | None:
    """The ``client_id`` that ``rules`` give this certificate, and the rule that does; None: it names nobody.

    ``is_under``: whether the certificate is under one of the CAs in a file. A rule for other CAs is passed over.
    """
    for rule in rules:
        if rule.ca is not None and not is_under(rule.ca):
            continue
        values = _values(peer, rule.field)
        if not all(value.isprintable() for value in values) or _is_ambiguous(peer, rule.field):
            return None
        matching = [value for value in values if rule.match is None or rule.match.fullmatch(value)]
        if matching:
            client_id = _named(matching[0], rule) if len(matching) == 1 else None
            return None if client_id is None else (client_id, rule)
    return None


def _peer_identity(
    certificate: x509.Certificate, der: bytes, sent_with: tuple[bytes, ...], *, handed_over: bool
) -> PeerIdentity:
    names = _alternative_names(certificate)
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return PeerIdentity(
        fingerprint=thumbprint(der),
        serial=certificate.serial_number,
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        common_names=tuple(str(attribute.value) for attribute in common_names),
        san_uri=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        san_dns=tuple(names.get_values_for_type(x509.DNSName)),
        san_email=tuple(names.get_values_for_type(x509.RFC822Name)),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        der=der,
        sent_with=sent_with,
        handed_over=handed_over,
    )


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    # Reading `extensions` parses all of them, so a malformed or repeated one is found whichever it is.
    extensions = certificate.extensions
    try:
        return extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _values(peer: PeerIdentity, field: CertificateField) -> tuple[str, ...]:
    match field:
        case CertificateField.SAN_URI:
            return peer.san_uri
        case CertificateField.SAN_DNS:
            return peer.san_dns
        case CertificateField.SAN_EMAIL:
            return peer.san_email
        case CertificateField.COMMON_NAME:
            return peer.common_names
        case CertificateField.SUBJECT:
            return (peer.subject,) if peer.subject else ()


def _is_ambiguous(peer: PeerIdentity, field: CertificateField) -> bool:
    """Whether the field can be read in two ways, whatever a rule looks for in it."""
    match field:
        case CertificateField.COMMON_NAME:
            return len(peer.common_names) > 1
        case CertificateField.SUBJECT:
            return len(peer.common_names) > 1 or not _is_plain_subject(peer.subject)
        case CertificateField.SAN_URI:  # a SPIFFE ID is the only URI (X509-SVID section 2)
            return len(peer.san_uri) > 1 and any(uri.lower().startswith("spiffe:") for uri in peer.san_uri)
        case _:
            return False


def _is_plain_subject(subject: str) -> bool:
    r"""Whether each comma of the RFC 4514 string ends an attribute, and each = begins a value.

    A pattern cannot tell an escaped comma from another: in ``O=x\,CN=alice``, where all is one value, it finds a
    common name. So no value may need escaping, be written in hexadecimal, or have a = in it; and no part of the
    subject may have several attributes (``+``), whose order means nothing.
    """
    if "\\" in subject or "+" in subject or "=#" in subject:
        return False
    return not subject or all(part.count("=") == 1 for part in subject.split(","))


def _named(value: str, rule: IdentityRule) -> str | None:
    if "*" in value:  # a wildcard stands for many
        return None
    client_id = _extracted(rule.match, value)
    return client_id if _CLIENT_ID.fullmatch(client_id) else None


def _extracted(pattern: re.Pattern[str] | None, value: str) -> str:
    if pattern is None or CLIENT_ID_GROUP not in pattern.groupindex:
        return value
    found = pattern.fullmatch(value)
    # A group inside a branch that was not taken holds nothing, and nothing names nobody.
    return (found[CLIENT_ID_GROUP] or "") if found else ""
