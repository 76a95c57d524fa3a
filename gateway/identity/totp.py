"""Time-based one-time passwords (RFC 6238) over HMAC-SHA-1, which is what authenticator apps understand. Pure."""

from __future__ import annotations

import base64
import hmac
from typing import Final
from urllib.parse import quote

STEP: Final = 30
"""Seconds."""
DIGITS: Final = 6
SECRET_BYTES: Final = 20
"""RFC 4226 section 4: 160 bits."""
DRIFT: Final = 1
"""Steps before and after the present one whose codes are accepted, for clocks that differ (RFC 6238 section 6)."""


def code_at(secret: bytes, step: int, *, digits: int = DIGITS, digest: str = "sha1") -> str:
    """The code of a time step (RFC 4226 section 5.3)."""
    mac = hmac.digest(secret, step.to_bytes(8, "big"), digest)
    offset = mac[-1] & 0xF
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFF_FFFF
    return str(number % 10**digits).zfill(digits)


def matching_step(secret: bytes, code: str, now: float) -> int | None:
    """The time step near ``now`` (seconds since the epoch) whose code it is; None: it is none's. In constant time."""
    present = int(now) // STEP
    found = None
    for step in range(present - DRIFT, present + DRIFT + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode()):
            found = step
    return found


def base32(secret: bytes) -> str:
    """As people type it, and as the URI has it: without padding."""
    return base64.b32encode(secret).rstrip(b"=").decode("ascii")


def otpauth_uri(secret: bytes, *, issuer: str, account: str) -> str:
    """What the QR code holds."""
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    return (
        f"otpauth://totp/{label}?secret={base32(secret)}&issuer={quote(issuer, safe='')}"
        f"&algorithm=SHA1&digits={DIGITS}&period={STEP}"
    )
