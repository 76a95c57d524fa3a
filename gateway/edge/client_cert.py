"""The ``Client-Cert`` and ``Client-Cert-Chain`` header fields of RFC 9440: how they are written, and who may send them here.

A TLS terminator in front hands over its callers' certificates. It is one where both hold: its connection comes from an
address of ``[server] trusted_terminators``, and its own certificate is that of a client with ``HAND_OVER``. Its
callers have the certificate that it hands over, or none: never its own. Whatever else sends these fields is not heard.
"""

from __future__ import annotations

import binascii
import ipaddress
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from multidict import CIMultiDictProxy

from certs.identity import CertificateError, PeerIdentity, parse_peer
from gateway.model import Deny, Inbound, Reason, Refused
from gateway.remembered import Remembered

CLIENT_CERT: Final = "Client-Cert"
CLIENT_CERT_CHAIN: Final = "Client-Cert-Chain"
MAX_CHAIN: Final = 8
"""Certificates in Client-Cert-Chain."""
_REMEMBERED: Final = 1024

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_cert(peer: PeerIdentity) -> str:
    """The value of ``Client-Cert`` (RFC 9440 section 2.2)."""
    return f":{b64encode(peer.der).decode()}:"


_REQUIRED: Final = "A client certificate is required: connect with one."
NO_CERTIFICATE: Final = Deny(Reason.CERTIFICATE_REQUIRED, _REQUIRED)
"""Of a connection without one: no request on it will be served."""
NOT_HANDED_OVER: Final = Deny(Reason.CERTIFICATE_REQUIRED, _REQUIRED)
"""Of a request that came by way of a terminator."""


class Terminators:
    """Knows the terminators, and reads what they hand over."""

    def __init__(
        self,
        networks: Sequence[Network],
        may_hand_over: Callable[[PeerIdentity], bool],
        *,
        required: Callable[[], bool],
    ) -> None:
        """``required``: whether every caller must have a certificate now."""
        self._networks = tuple(networks)
        self._may_hand_over = may_hand_over
        self._required = required
        self._read: Remembered[tuple[str, str], PeerIdentity] = Remembered(_REMEMBERED)

    def looked_through(self, inbound: Inbound, headers: CIMultiDictProxy[str]) -> Inbound:
        """The request as its real caller's, where it comes by way of a terminator. Raises Refused."""
        peer = inbound.peer
        if peer is None and self._required():
            raise Refused(NO_CERTIFICATE)  # the connection is older than the rule
        if peer is None or not self._are_at(inbound.address) or not self._may_hand_over(peer):
            return inbound
        handed_over = self._handed_over(headers)
        if handed_over is None and self._required():
            raise Refused(NOT_HANDED_OVER)
        return replace(inbound, peer=handed_over)

    def _are_at(self, address: str) -> bool:
        if not self._networks:
            return False
        host = ipaddress.ip_address(address.partition("%")[0])
        mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
        return any((mapped or host) in network for network in self._networks)

    def _handed_over(self, headers: CIMultiDictProxy[str]) -> PeerIdentity | None:
        fields = headers.getall(CLIENT_CERT, ())
        chain = ",".join(headers.getall(CLIENT_CERT_CHAIN, ()))
        if not fields and not chain:
            return None
        if len(fields) != 1:
            raise _unreadable(f"{CLIENT_CERT} must be there once.")
        key = fields[0], chain
        peer = self._read.get(key)
        if peer is None:
            peer = _peer(*key)
            self._read.put(key, peer)
        return peer


def _peer(field: str, chain: str) -> PeerIdentity:
    sent_with = [_byte_sequence(each.strip(" \t")) for each in chain.split(",")] if chain else []
    if len(sent_with) > MAX_CHAIN:
        raise _unreadable(f"{CLIENT_CERT_CHAIN} may have at most {MAX_CHAIN} certificates.")
    try:
        for der in sent_with:
            parse_peer(der)
        return parse_peer(_byte_sequence(field), sent_with, handed_over=True)
    except CertificateError:
        raise _unreadable(f"{CLIENT_CERT} or {CLIENT_CERT_CHAIN} holds what is no certificate.") from None


def _byte_sequence(text: str) -> bytes:
    """RFC 8941 section 3.3.5, and nothing else: no parameters, no other spelling of the same bytes."""
    if len(text) > 2 and text[0] == text[-1] == ":" and text.isascii():
        try:
            value = b64decode(text[1:-1], validate=True)
        except binascii.Error:
            value = b""
        if value and b64encode(value).decode() == text[1:-1]:
            return value
    raise _unreadable(f"{CLIENT_CERT} is one byte sequence (RFC 9440), {CLIENT_CERT_CHAIN} a list of them.")


def _unreadable(detail: str) -> Refused:
    return Refused(Deny(Reason.BAD_REQUEST, f"The TLS terminator must be mended: {detail}"))
