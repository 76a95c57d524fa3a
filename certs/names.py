"""Names in certificates (RFC 5280 sections 4.1.2.6 and 4.2.1.6): from text to a name, and back to text. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from certs.identity import UnusableNameError

LONGEST_COMMON_NAME: Final = 64
"""RFC 5280's ub-common-name."""

_COMMON_NAME: Final = re.compile(rf"(?! )[ -~]{{1,{LONGEST_COMMON_NAME}}}(?<! )")
_RESERVED: Final = frozenset({"ca", "crl"})  # NAME.pem would be the CA's own
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d*\Z)[A-Za-z0-9._~:/?#\[\]@!$&'()+,;=%-]+")
"""RFC 3986's characters; what is nothing but a number after the colon is a host and a port."""
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_LOCAL_PART: Final = re.compile(
    r"(?=.{1,64}\Z)[A-Za-z0-9!#$%&'+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'+/=?^_`{|}~-]+)*"
)


def checked_common_name(text: str) -> str:
    """A common name, as it stands. Raises UnusableNameError."""
    if not _COMMON_NAME.fullmatch(text):
        remedy = "write 1 to 64 printable ASCII characters, without a space at either end"
        raise UnusableNameError(f"{text!r} cannot be a certificate's common name; {remedy}")
    return text


def checked_file_name(text: str) -> str:
    """A common name that can be a file's name, too. Raises UnusableNameError."""
    checked_common_name(text)
    if text[0] in ".-" or "/" in text or "\\" in text or text.casefold() in _RESERVED:
        remedy = "write one without / and \\ that does not start with a dot or a dash, and is not ca or crl"
        raise UnusableNameError(f"{text!r} cannot be a file's name; {remedy}")
    return text


def client_name(text: str) -> x509.GeneralName:
    """A name for a client: an IP address, a URI (``scheme:…``), an e-mail address (``@``), else a DNS name.

    Raises UnusableNameError for what is none of them; a wildcard is none.
    """
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    if _SCHEME.match(text):
        return _uri(text)
    return _email(text) if "@" in text else _dns(text)


def server_name(text: str) -> x509.GeneralName:
    """A name for a server: an IP address, or a DNS name whose first label may be ``*``.

    Raises UnusableNameError for what is neither.
    """
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    if text.startswith("*.") and "." in text.removeprefix("*."):
        return x509.DNSName(f"*.{_dns(text.removeprefix('*.')).value}")
    return _dns(text)


def subtree(text: str) -> x509.GeneralName:
    """What a CA's name constraint permits (RFC 5280 section 4.2.1.10): ``DNS:…``, ``URI:HOST``, ``email:…``, ``IP:NETWORK``.

    Raises UnusableNameError.
    """
    kind, _, name = text.partition(":")
    host = _DNS.fullmatch(name.removeprefix("."))
    match kind.lower():
        case "dns" if host:
            return x509.DNSName(name)
        case "uri" if host:
            return x509.UniformResourceIdentifier(name)
        case "email" if host:
            return x509.RFC822Name(name)
        case "email" if "@" in name:
            return _email(name)
        case "ip":
            with contextlib.suppress(ValueError):
                return x509.IPAddress(ip_network(name))
    remedy = "write DNS:example.org, URI:example.org (the host), email:example.org or IP:10.0.0.0/8"
    raise UnusableNameError(f"{text!r} is nothing that a CA can be held to; {remedy}")


def as_text(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    """Each name with its kind, as OpenSSL prints it: ``DNS:…``, ``URI:…``, ``email:…``, ``IP:…``."""
    return tuple(_as_text(name) for name in names)


def _as_text(name: x509.GeneralName) -> str:
    match name:
        case x509.DNSName():
            return f"DNS:{name.value}"
        case x509.UniformResourceIdentifier():
            return f"URI:{name.value}"
        case x509.RFC822Name():
            return f"email:{name.value}"
        case x509.IPAddress():
            return f"IP:{name.value}"
        case x509.DirectoryName():
            return f"dirName:{name.value.rfc4514_string()}"
        case x509.RegisteredID():
            return f"registeredID:{name.value.dotted_string}"
        case _:
            return "othername:<unsupported>"


def _uri(text: str) -> x509.UniformResourceIdentifier:
    refusal = UnusableNameError(
        f"{text!r} is not an absolute URI; write one such as spiffe://example.org/name"
    )
    if not _URI.fullmatch(text):
        raise refusal
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise refusal from error
    if "://" in text and not parts.hostname:
        raise refusal
    return x509.UniformResourceIdentifier(text)


def _email(text: str) -> x509.RFC822Name:
    local, _, domain = text.partition("@")
    if not _LOCAL_PART.fullmatch(local) or not _DNS.fullmatch(domain):
        raise UnusableNameError(
            f"{text!r} is not an e-mail address; write one such as name@example.org, in ASCII"
        )
    return x509.RFC822Name(text)


def _dns(text: str) -> x509.DNSName:
    if not _DNS.fullmatch(text):
        remedy = "write one such as api.example.org, without port or final dot, an international one as xn--…"
        raise UnusableNameError(f"{text!r} is not a DNS name; {remedy}")
    return x509.DNSName(text)
