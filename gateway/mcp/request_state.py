"""What a modern client hands back when it asks again (``requestState``): sealed, and good for that client and request alone.

An upstream sees the gateway as its only client, and could not tell whose state it is given back; so the gateway can.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.mcp.messages import Params

MAX_STATE: Final = 256 * 1024
"""Characters of a state that is looked at."""
_NONCE: Final = 12


class State(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed."""

    expires: float
    held: str | None = None
    """The call that the gateway holds open at a legacy upstream."""
    upstream: str | None = None
    """What a modern upstream wants back."""


class RequestStates:
    """Seals and opens states."""

    def __init__(self, key: bytes, *, now: Callable[[], float]) -> None:
        """``key``: 32 bytes."""
        self._cipher = AESGCM(key)
        self._now = now

    def seal(
        self, binding: bytes, seconds: float, *, held: str | None = None, upstream: str | None = None
    ) -> str:
        """A state that opens under the same binding, for so long."""
        nonce = os.urandom(_NONCE)
        plain = msgspec.msgpack.encode(State(self._now() + seconds, held, upstream))
        return base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, plain, binding)).decode()

    def open(self, sealed: object, binding: bytes) -> State | None:
        """What was sealed; None: that is no state of ours, or is another's, or another request's, or too old."""
        if not isinstance(sealed, str) or len(sealed) > MAX_STATE:
            return None
        try:
            data = base64.b64decode(sealed.encode(), b"-_", validate=True)
            plain = self._cipher.decrypt(data[:_NONCE], data[_NONCE:], binding)
            state = msgspec.msgpack.decode(plain, type=State)
        except (binascii.Error, ValueError, InvalidTag, msgspec.MsgspecError):
            return None
        return state if self._now() < state.expires else None


def state_key(secret: str) -> bytes:
    """The key that belongs to the gateway's secret, the same on every node; without a secret, one of this process alone."""
    return hmac.digest(secret.encode(), b"ostiary request state v1", "sha256") if secret else os.urandom(32)


def binding_of(
    owner: tuple[str | None, str | None], upstream: str, method: str, name: str, params: Params
) -> bytes:
    """What makes a request that one, and its caller that caller."""
    arguments = params.get("arguments")
    return sha256(_sorted([*owner, upstream, method, name, arguments])).digest()


_sorted = msgspec.json.Encoder(order="sorted").encode
