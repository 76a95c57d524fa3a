"""Spellings that two hops may read differently: what is decided by its spelling must have only one.

A service is chosen by the beginning of a path, and a resource's rule by its URI, as they are written. Whoever gets
them next may decode escapes, resolve dots, merge slashes or drop parameters first, and so reach what another rule
guards. Such spellings are refused, not normalized: what is forwarded is what was decided on.

What is left are escapes that may be needed, in digits of either case, and the characters that they stand for. No
service's prefix has any; a rule for resources is asked for both readings of a URI, as it is written and ``as_read``.
"""

from __future__ import annotations

import glob
import ipaddress
import re
from typing import Final
from urllib.parse import unquote_to_bytes

_OCTETS: Final = (
    r"[^!-~]|\\"  # raw controls, spaces, non-ASCII and backslashes
    r"|%(?![0-9A-Fa-f]{2})"  # not an escape
    r"|%(?:2[DEde]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])"  # unreserved (RFC 3986 section 2.3)
    r"|%(?:[01][0-9A-Fa-f]|7[Ff]|2[Ff]|5[Cc])"  # controls, slash and backslash
)
_PATH: Final = re.compile(rf"{_OCTETS}|//|/\.{{1,2}}(?:/|$)|;")
_AFTER_AUTHORITY: Final = re.compile(
    rf"{_OCTETS}"
    r"|//|[^/]/(?:[?#]|$)"  # empty segments, the last included
    r"|(?:^|[/?#])\.{1,2}(?:[/?#;]|$)"  # dot segments, wherever a reader may take the path to end
)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://)?")
_WEB: Final = re.compile(r"(https?|wss?|ftp):(.*)", re.IGNORECASE)
_WEB_AUTHORITY: Final = re.compile(
    r"//(?:(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)|\[(?P<ipv6>[0-9a-f:]+)\])(?::(?P<port>[1-9][0-9]*))?(?![^/?#])"
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_THIS_MACHINE: Final = re.compile(r"^file:(?://localhost)?(?=/(?!/)|[?#]|$)", re.IGNORECASE)
_EMPTY_PATH: Final = re.compile(r"^((?:https?|wss?|ftp)://[^/?#*]+|file://[^/?#*]*)(?=[?#]|$)", re.IGNORECASE)
_ANY_CASE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://[^/?#]*)?")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")


def is_plain_path(path: str) -> bool:
    """Whether every hop reads this path (without query) alike: RFC 3986 sections 2.3, 3.3 and 5.2.4.

    A raw ``;`` is refused, too: some servers drop it and what follows it in a segment. Encoded, it may come along.
    """
    return path.startswith("/") and _PATH.search(path) is None


def is_plain_uri(uri: str) -> bool:
    """Whether every reader of this URI means the same by it, the ``//`` before its authority aside.

    Query and fragment are held to the same rules: some readers take all that follows the scheme for a path. What a
    browser's parser would make of a host (WHATWG URL, section 3.5), and many servers with it, is a spelling, too.
    """
    web = _WEB.fullmatch(uri)
    if web is not None and not _is_plain_host(web[1], web[2]):
        return False
    scheme = _SCHEME.match(uri)
    return _AFTER_AUTHORITY.search(uri[scheme.end() :] if scheme else uri) is None


def _is_plain_host(scheme: str, rest: str) -> bool:
    authority = _WEB_AUTHORITY.match(rest)
    if authority is None or not scheme.islower() or authority["port"] == _DEFAULT_PORTS[scheme]:
        return False
    address = authority["ipv6"] or authority["name"]
    if authority["ipv6"] is None and not _NUMBER.fullmatch(address.rpartition(".")[2]):
        return True
    try:
        return str(ipaddress.ip_address(address)) == address
    except ValueError:
        return False


def as_read(uri: str) -> str:
    """A URI as its readers understand it, an octet a character; spellings that some take for one URI read alike.

    Without escapes, its scheme and authority in lower case, its path not empty, and without the name of this machine.
    RFC 3986 sections 2.1, 6.2.2.1 and 6.2.3; RFC 8089 section 2.
    """
    return _octets(unquote_to_bytes(_with_plain_start(uri).encode("utf-8", "surrogatepass")))


def pattern_as_read(pattern: str) -> str:
    """A shell pattern for URIs, as one for what ``as_read`` makes of them."""
    octets = _octets(_with_plain_start(pattern).encode("utf-8", "surrogatepass"))
    return _ESCAPE.sub(lambda escape: glob.escape(chr(int(escape[1], 16))), octets)


def _with_plain_start(uri: str) -> str:
    uri = _EMPTY_PATH.sub(r"\1/", _THIS_MACHINE.sub("file://", uri))
    start = _ANY_CASE.match(uri)
    return uri if start is None else start[0].lower() + uri[start.end() :]


def _octets(data: bytes) -> str:
    return data.decode("latin-1")
