"""Signing keys by ``kid``, and the only code that signs or opens a JWS (RFC 7515) of our own.

A token is opened by the key that its ``kid`` names and by that key's algorithm, never by what the token asks for
(RFC 8725 section 3.1). Whatever could be read in two ways is refused before any cryptography: padding and other
base64 than canonical base64url, duplicate keys, header parameters that we never write
(``crit``, ``jwk``, ``jku``, ``x5c`` … among them).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec

from gateway.config.values import SigningKey, TokenSettings
from gateway.identity.signing_keys import LoadedKey, load
from gateway.model import Deny, Reason
from gateway.strict_json import parse_object

MAX_TOKEN: Final = 8192
"""Characters of a token that is looked at."""

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*")
_HEADER: Final = frozenset({"alg", "kid", "typ"})


@dataclass(frozen=True, slots=True)
class Opened:
    """A token whose signature is right, and nothing more is known of it."""

    typ: str
    claims: dict[str, Any]


class Keyring:
    """The keys: one that signs, and all that verify. A retired one is good for tokens that expire in its time alone."""

    def __init__(self, settings: TokenSettings) -> None:
        """Raises ValueError where a key is not one for its algorithm."""
        self._signing: LoadedKey
        self._verifying: dict[str, LoadedKey]
        self._jws: jwt.PyJWS
        self.replace(settings)

    def replace(self, settings: TokenSettings) -> None:
        """Go over to these keys. Raises ValueError, and keeps the old ones, where one is not a key for its algorithm."""
        signing = load(SigningKey(settings.algorithm, settings.secret))
        verifying = {key.kid: key for key in (*map(load, settings.retired), signing)}
        algorithms = sorted({key.algorithm for key in verifying.values()})
        self._jws = jwt.PyJWS(algorithms=algorithms, options={"enforce_minimum_key_length": True})
        self._signing, self._verifying = signing, verifying

    @property
    def signing_kid(self) -> str:
        """The ``kid`` of the key that signs."""
        return self._signing.kid

    def sign(self, typ: str, claims: dict[str, Any]) -> str:
        """A JWS in compact form, with that ``typ``."""
        key = self._signing
        return self._jws.encode(
            msgspec.json.encode(claims), key.signing, key.algorithm, {"typ": typ, "kid": key.kid}
        )

    def open(self, token: str) -> Opened | Deny:
        """What is in a token that was signed by one of the keys."""
        if len(token) > MAX_TOKEN:
            return _malformed("The token is too long.")
        parts = _COMPACT.fullmatch(token)
        if parts is None:
            return _malformed("A token is three parts of base64url with dots between.")
        try:
            header = _parse(parts[1])
            claims = _parse(parts[2])
        except ValueError as error:
            return _malformed(f"The token cannot be read: {error}.")
        if not header.keys() <= _HEADER:
            return _malformed("The token's header asks for what is not understood.")
        key = self._verifying.get(str(header.get("kid")))
        if key is None or header.get("alg") != key.algorithm:
            return _NOT_OURS
        try:
            self._jws.decode(token, key.verifying, [key.algorithm])
        except jwt.InvalidTokenError:
            return _NOT_OURS
        if key.verify_until is not None and not _expires_by(claims, key.verify_until):
            return _NOT_OURS
        return Opened(str(header.get("typ")), claims)

    def jwks(self, now: float) -> dict[str, Any]:
        """The public keys that verify ``now`` (RFC 7517 section 5); secrets have none."""
        keys = self._verifying.values()
        live = (key for key in keys if key.verify_until is None or key.verify_until > now)
        return {"keys": [key.jwk for key in live if key.jwk is not None]}


_NOT_OURS: Final = Deny(
    Reason.TOKEN_SIGNATURE, "The token was not signed here: get a new one at /auth/token."
)


def _malformed(detail: str) -> Deny:
    return Deny(Reason.TOKEN_MALFORMED, detail)


def _expires_by(claims: dict[str, Any], until: int) -> bool:
    exp = claims.get("exp")
    return isinstance(exp, int) and exp <= until


def _parse(part: str) -> dict[str, Any]:
    """The JSON object in a part. Raises ValueError, whose message holds nothing of it."""
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise ValueError("it is not base64url") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii") != part:
        raise ValueError("its base64url is not canonical")
    return parse_object(raw)
