"""Signing keys: how one is made, what it is called, and how it is read.

The key that signs is in a file of its own (or, for HS256, in an environment variable). Keys that have been replaced stand
in one file beside the configuration, each with the time until which it still verifies: no token that it signed lives
longer. That file is replaced as a whole or not at all.

No message ever repeats a key or a part of it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jwt.algorithms import get_default_algorithms

from gateway.config.values import Algorithm, SigningKey

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

RSA_BITS: Final = 3072
"""Of a key that is made here (NIST SP 800-57: 128 bits of security)."""
MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""
MAX_RETIRED_BYTES: Final = 1 << 20
_VERSION: Final = 1
_KID_LABEL: Final = b"ostiary kid v1"
_REQUIRED_MEMBERS: Final = {
    "RSA": ("e", "kty", "n"),
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
}
"""RFC 7638 section 3.2, RFC 8037 section 2."""


class _Retired(msgspec.Struct, frozen=True, kw_only=True):
    kid: str
    algorithm: Algorithm
    key: str
    verify_until: int


class _RetiredFile(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    keys: tuple[_Retired, ...]


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A key ready for use. Its repr shows nothing of it."""

    kid: str
    algorithm: str
    signing: Any
    """As PyJWT takes it."""
    verifying: Any
    verify_until: int | None
    """Seconds since the epoch: it is good for tokens that expire by then. None: it signs."""
    jwk: dict[str, Any] | None
    """The public key (RFC 7517); None: a secret has none."""

    def __repr__(self) -> str:
        return f"LoadedKey({self.kid!r}, {self.algorithm!r})"


def make(algorithm: Algorithm) -> str:
    """A new key: a secret, or a private key as PEM (PKCS #8)."""
    if algorithm is Algorithm.HS256:
        return f"{secrets.token_urlsafe(48)}\n"
    key: PrivateKey
    if algorithm is Algorithm.ES256:
        key = generate_ec(SECP256R1())
    elif algorithm is Algorithm.EDDSA:
        key = Ed25519PrivateKey.generate()
    else:
        key = generate_rsa(public_exponent=65537, key_size=RSA_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def private_key(algorithm: Algorithm, pem: str) -> PrivateKey:
    """Read a private key. Raises ValueError, which says what is wrong with it, where it is not one for that algorithm."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except TypeError:
        raise ValueError("is encrypted; store it without a passphrase, in a 0600 file") from None
    except Exception:  # noqa: BLE001 - whatever the library says of it may hold a part of it
        raise ValueError("is no private key in PEM") from None
    if algorithm is Algorithm.ES256 and isinstance(key, EllipticCurvePrivateKey):
        if isinstance(key.curve, SECP256R1):
            return key
    elif algorithm is Algorithm.EDDSA and isinstance(key, Ed25519PrivateKey):
        return key
    elif algorithm in {Algorithm.RS256, Algorithm.PS256} and isinstance(key, RSAPrivateKey):
        if key.key_size >= MIN_RSA_BITS:
            return key
        raise ValueError(f"has {key.key_size} bits; it must have {MIN_RSA_BITS} or more")
    raise ValueError(f"is not of the kind that {algorithm} needs ({_NEEDS[algorithm]})")


_NEEDS: Final = {
    Algorithm.RS256: "RSA",
    Algorithm.PS256: "RSA",
    Algorithm.ES256: "EC on the curve P-256",
    Algorithm.EDDSA: "Ed25519",
}


def load(key: SigningKey) -> LoadedKey:
    """Make a key ready for use. Raises ValueError where it is not one for its algorithm."""
    name = key.algorithm.value
    if key.algorithm is Algorithm.HS256:
        secret = key.material.encode()
        kid = hmac.digest(secret, _KID_LABEL, hashlib.sha256)[:8].hex()
        return LoadedKey(kid, name, secret, secret, key.verify_until, None)
    private = private_key(key.algorithm, key.material)
    public = private.public_key()
    members: dict[str, Any] = get_default_algorithms()[name].to_jwk(public, as_dict=True)
    jwk = {member: members[member] for member in _REQUIRED_MEMBERS[members["kty"]]}
    kid = _thumbprint(jwk)
    return LoadedKey(
        kid, name, private, public, key.verify_until, {**jwk, "kid": kid, "alg": name, "use": "sig"}
    )


def _thumbprint(jwk: dict[str, Any]) -> str:
    """RFC 7638."""
    canonical = msgspec.json.encode(jwk, order="sorted")
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode("ascii")


def read_retired(data: bytes) -> tuple[SigningKey, ...]:
    """The keys in a file of retired ones. Raises ValueError, which says what is wrong with it."""
    try:
        found = msgspec.json.decode(data, type=_RetiredFile)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ValueError("is not a file of retired keys") from None
    if found.version != _VERSION:
        raise ValueError(f"has version {found.version}; this version of Ostiary reads version {_VERSION}")
    keys = tuple(SigningKey(each.algorithm, each.key, each.verify_until) for each in found.keys)
    for key in keys:
        try:
            load(key)
        except ValueError as error:
            raise ValueError(f"holds a key that {error}") from None
    return keys


def with_retired(keys: tuple[SigningKey, ...], key: SigningKey, *, now: float) -> bytes:
    """The file of retired keys with ``key`` among them, and without those whose last token has expired by ``now``."""
    by_kid = {load(each).kid: each for each in (*keys, key)}
    kept = tuple(
        _Retired(kid=kid, algorithm=each.algorithm, key=each.material, verify_until=each.verify_until)
        for kid, each in by_kid.items()
        if each.verify_until is not None and each.verify_until > now
    )
    return msgspec.json.encode(_RetiredFile(version=_VERSION, keys=kept)) + b"\n"
