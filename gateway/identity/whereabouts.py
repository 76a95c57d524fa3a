"""From where each token has been used. A token that turns up somewhere else may have been stolen.

The tokens of one family (a refresh token and all that came from it) are one. What is known is kept in memory alone, and
bounded: after a restart the first use is what is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.identity.tokens import VerifiedToken
from gateway.model import Inbound
from gateway.remembered import Remembered
from persistence.records import TokenRecord

MAX_TOKENS: Final = 16_384
MAX_PLACES: Final = 16
"""Addresses that are known of one token, and certificates; the oldest is forgotten first."""


class Suspicion(StrEnum):
    """What is new about the use of a token: the stable word in the audit."""

    NEW_ADDRESS = "new_address"
    NEW_CERTIFICATE = "new_certificate"


Suspect = Callable[[Inbound, VerifiedToken, Suspicion, bool], None]
"""Told of a suspicious use, and whether it was allowed."""


@dataclass(frozen=True, slots=True)
class _Known:
    addresses: tuple[str, ...]
    certificates: tuple[str | None, ...]
    """Thumbprints; None: there was no certificate."""


class Whereabouts:
    """Of all tokens that were used lately."""

    def __init__(self) -> None:
        self._known: Remembered[str, _Known] = Remembered(MAX_TOKENS)

    def issued(self, token: TokenRecord, inbound: Inbound) -> None:
        """A token was handed out there: its first known use."""
        key = token.family_id or token.token_id
        if self._known.get(key) is None:
            self._known.put(key, _Known((inbound.address,), (_certificate(inbound),)))

    def used(self, token: VerifiedToken, inbound: Inbound) -> Suspicion | None:
        """What is new about this use, which is known from now on."""
        key = token.family_id or token.token_id
        address, certificate = inbound.address, _certificate(inbound)
        known = self._known.get(key)
        if known is None:  # a bound token tells by itself where it is at home
            known = _Known((address,), (token.thumbprint or certificate,))
            self._known.put(key, known)
        new_address, new_certificate = (
            address not in known.addresses,
            certificate not in known.certificates,
        )
        if not new_address and not new_certificate:
            return None
        addresses = (*known.addresses, address) if new_address else known.addresses
        certificates = (*known.certificates, certificate) if new_certificate else known.certificates
        self._known.put(key, _Known(addresses[-MAX_PLACES:], certificates[-MAX_PLACES:]))
        return Suspicion.NEW_ADDRESS if new_address else Suspicion.NEW_CERTIFICATE


def _certificate(inbound: Inbound) -> str | None:
    return None if inbound.peer is None else inbound.peer.fingerprint
