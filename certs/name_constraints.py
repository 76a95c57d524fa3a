"""Name constraints of CAs (RFC 5280 section 4.2.1.10): which names a certificate under them may carry.

As OpenSSL has them in a handshake, and stricter in one thing: a common name that looks like a DNS name is held to the
constraints on DNS names also where the certificate has DNS names beside it, for an identity rule may look at it alone.
What cannot be compared is outside.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from certs.extensions import extension
from certs.names import as_text

_DNS_NAME: Final = re.compile(r"[A-Za-z0-9_*-]+(?:\.[A-Za-z0-9_-]+)+\.?")
_SPACES: Final = re.compile(r"[ \t\r\n]+")


def constraints_of(authority: x509.Certificate) -> x509.NameConstraints | None:
    """The CA's name constraints; None: it has none."""
    return extension(authority, x509.NameConstraints)


def shown_constraints(authority: x509.Certificate) -> tuple[str, ...]:
    """The CA's name constraints as text, what is excluded with ``not`` in front; empty: it has none."""
    constraints = constraints_of(authority)
    if constraints is None:
        return ()
    excluded = as_text(constraints.excluded_subtrees or ())
    return (*as_text(constraints.permitted_subtrees or ()), *(f"not {tree}" for tree in excluded))


def permits(authority: x509.Certificate, below: Sequence[x509.Certificate]) -> bool:
    """Whether the CA may have issued all of these: the client's certificate, then the CAs up to ``authority``."""
    constraints = constraints_of(authority)
    if constraints is None:
        return True
    named = (each for number, each in enumerate(below) if number == 0 or each.issuer != each.subject)
    return all(outside(constraints, names_of(each)) is None for each in named)


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Everything that the constraints are about."""
    names = list(extension(certificate, x509.SubjectAlternativeName) or ())
    subject = certificate.subject
    if subject.rdns:
        names.append(x509.DirectoryName(subject))
    names += [x509.RFC822Name(text) for text in _texts(subject, NameOID.EMAIL_ADDRESS) if text.isascii()]
    common = _texts(subject, NameOID.COMMON_NAME)
    return names + [x509.DNSName(text) for text in common if _DNS_NAME.fullmatch(text)]


def outside(constraints: x509.NameConstraints, names: Iterable[x509.GeneralName]) -> x509.GeneralName | None:
    """The first name that the constraints do not allow; None: they allow all."""
    permitted, excluded = constraints.permitted_subtrees or (), constraints.excluded_subtrees or ()
    for name in names:
        of_kind = [tree for tree in permitted if type(tree) is type(name)]
        if of_kind and not any(_is_within(name, tree, unknown=False) for tree in of_kind):
            return name
        if any(type(tree) is type(name) and _is_within(name, tree, unknown=True) for tree in excluded):
            return name
    return None


def _texts(subject: x509.Name, kind: x509.ObjectIdentifier) -> Iterator[str]:
    return (str(attribute.value) for attribute in subject.get_attributes_for_oid(kind))


def _is_within(name: x509.GeneralName, tree: x509.GeneralName, *, unknown: bool) -> bool:
    """Whether the name is in the subtree; ``unknown``: the answer where the two cannot be compared."""
    match name, tree:
        case x509.DNSName(value=value), x509.DNSName(value=base):
            return unknown if value.endswith(".") else _is_dns_within(value.lower(), base.lower())
        case x509.RFC822Name(value=value), x509.RFC822Name(value=base):
            return _is_mailbox_within(value, base)
        case x509.UniformResourceIdentifier(value=value), x509.UniformResourceIdentifier(value=base):
            host = _host(value)
            return unknown if host is None else _is_host_within(host, base.lower())
        case x509.IPAddress(value=value), x509.IPAddress(value=base):
            return _is_address_within(value, base)
        case x509.DirectoryName(value=value), x509.DirectoryName(value=base):
            ours, wanted = _canonical(value), _canonical(base)
            return ours[: len(wanted)] == wanted
    return unknown


def _is_dns_within(name: str, base: str) -> bool:
    if not base or name == base:
        return True
    return name.endswith(base if base.startswith(".") else f".{base}")


def _is_mailbox_within(address: str, base: str) -> bool:
    local, at, host = address.rpartition("@")
    if not at:
        return False
    wanted, at, base_host = base.rpartition("@")
    if at:
        return wanted in {"", local} and host.lower() == base_host.lower()
    return _is_host_within(host.lower(), base.lower())


def _is_host_within(host: str, base: str) -> bool:
    """A host alone, or with a dot in front all hosts below it."""
    return host.endswith(base) and host != base if base.startswith(".") else host == base


def _host(uri: str) -> str | None:
    """The host of a URI; None: it has none, or one that can be read in two ways."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if not parts.netloc or any(character in parts.netloc for character in "@[]%\\"):
        return None
    return parts.hostname


def _is_address_within(value: object, base: object) -> bool:
    if not isinstance(base, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return False
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return value in base
    return False


def _canonical(name: x509.Name) -> list[frozenset[tuple[str, object]]]:
    """Relative distinguished names as they are compared: without regard to case and spaces (RFC 5280 section 7.1)."""
    return [
        frozenset((attribute.oid.dotted_string, _folded(attribute.value)) for attribute in rdn)
        for rdn in name.rdns
    ]


def _folded(value: str | bytes) -> object:
    return _SPACES.sub(" ", value).strip().lower() if isinstance(value, str) else value
