"""Values that a client carries for the gateway, sealed: nobody else can read them, change them, or use them in its place.

Sealing the same twice gives the same (AES-SIV, RFC 5297), so what is sealed can be compared.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

MAX_SEALED: Final = 8 * 1024
"""Characters of what is looked at."""

StructT = TypeVar("StructT", bound=msgspec.Struct)


class Seal:
    """Seals for one purpose."""

    def __init__(self, secret: str, purpose: str) -> None:
        """``secret``: the gateway's, the same on every node; where it is empty, what is sealed is good in this process."""
        label = f"ostiary {purpose} v1".encode()
        self._cipher = AESSIV(hmac.digest(secret.encode() or os.urandom(64), label, "sha512"))

    def close(self, value: msgspec.Struct, *bound_to: object) -> str:
        """The value, sealed; it opens under the same ``bound_to`` (what JSON can say) alone."""
        sealed = self._cipher.encrypt(msgspec.msgpack.encode(value), [msgspec.json.encode(bound_to)])
        return base64.urlsafe_b64encode(sealed).decode()

    def open(self, sealed: object, kind: type[StructT], *bound_to: object) -> StructT | None:
        """What was sealed; None: it was not sealed here, or not for that."""
        if not isinstance(sealed, str) or len(sealed) > MAX_SEALED:
            return None
        try:
            data = base64.b64decode(sealed.encode(), b"-_", validate=True)
            return msgspec.msgpack.decode(
                self._cipher.decrypt(data, [msgspec.json.encode(bound_to)]), type=kind
            )
        except (binascii.Error, ValueError, InvalidTag, msgspec.MsgspecError):
            return None
