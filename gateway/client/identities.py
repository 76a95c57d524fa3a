"""Which gateways a user knows, what is presented there, and the tokens.

``~/.ostiary/gateways.json`` remembers for each gateway the CA and the certificate's files, and which one is the present
one. ``~/.ostiary/token`` holds the tokens, and is there only while somebody is signed in. With the keyring the tokens are
in there instead, one item a gateway.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from gateway.client.errors import ClientError
from gateway.client.private_folder import PrivateFolder

GATEWAYS_FILE: Final = "gateways.json"
TOKEN_FILE: Final = "token"  # noqa: S105 - a file's name
KEYRING_SERVICE: Final = "ostiary"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What is presented at a gateway, and whom to trust there. Paths are absolute."""

    ca: str | None = None
    """Its CA's file; None: the system's CAs."""
    certificate: str | None = None
    private_key: str | None = None
    """None: it is in the certificate's file."""
    keyring: bool = False
    """Whether the tokens are in the system's keyring."""

    def presenting(self, ca: str | None, certificate: str | None, private_key: str | None) -> Identity:
        """The same with what is given in the place of what was known; a certificate comes with its key."""
        changed = self if ca is None else msgspec.structs.replace(self, ca=ca)
        if certificate is None:
            return changed
        return msgspec.structs.replace(changed, certificate=certificate, private_key=private_key)


class StoredTokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a sign-in brought. Its repr shows no token."""

    access_token: str
    expires_at: float
    """Seconds since the epoch."""
    lifetime: float
    """Seconds from issue to expiry."""
    refresh_token: str | None = None

    def __repr__(self) -> str:
        return f"StoredTokens(expires_at={self.expires_at!r})"


class _Gateways(msgspec.Struct, frozen=True, kw_only=True):
    version: int = 1
    current: str | None = None
    gateways: dict[str, Identity] = {}


class _Tokens(msgspec.Struct, frozen=True, kw_only=True):
    version: int = 1
    gateways: dict[str, StoredTokens] = {}


def origin_of(url: str) -> str:
    """``https://HOST[:PORT]``, as the files name a gateway. Raises ValueError."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or port in {-1, 0}:
        raise ValueError("a gateway's URL is https://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}" if port in {None, 443} else f"https://{host}:{port}"


class Identities:
    """The user's files. Every change holds the folder's lock (``changing``), so that no two processes mix."""

    def __init__(self, folder: PrivateFolder) -> None:
        self.folder = folder

    def current(self) -> str | None:
        """The gateway that was signed in to last."""
        return self._gateways().current

    def identity(self, origin: str) -> Identity | None:
        """What is known of that gateway."""
        return self._gateways().gateways.get(origin)

    def remember(self, origin: str, identity: Identity) -> None:
        """Keep it, as the present gateway."""
        gateways = {**self._gateways().gateways, origin: identity}
        self._write(GATEWAYS_FILE, _Gateways(current=origin, gateways=gateways))

    def tokens(self, origin: str) -> StoredTokens | None:
        """The tokens for that gateway; None: nobody is signed in. Raises ClientError."""
        identity = self.identity(origin)
        if identity is not None and identity.keyring:
            text = _ask_keyring(lambda keyring: keyring.get_password(KEYRING_SERVICE, origin))
            return None if text is None else _decoded(text.encode(), StoredTokens, "the keyring")
        return self._tokens().gateways.get(origin)

    def keep(self, origin: str, tokens: StoredTokens) -> None:
        """Keep the tokens where the identity says. Raises ClientError."""
        identity = self.identity(origin)
        if identity is not None and identity.keyring:
            text = msgspec.json.encode(tokens).decode()
            _ask_keyring(lambda keyring: keyring.set_password(KEYRING_SERVICE, origin, text))
            self._drop(origin)
            return
        self._write(TOKEN_FILE, _Tokens(gateways={**self._tokens().gateways, origin: tokens}))

    def forget_tokens(self, origin: str) -> None:
        """Forget them; the file goes with the last of them."""
        identity = self.identity(origin)
        if identity is not None and identity.keyring:
            _ask_keyring(lambda keyring: _delete(keyring, origin))
        self._drop(origin)

    def _drop(self, origin: str) -> None:
        rest = {name: tokens for name, tokens in self._tokens().gateways.items() if name != origin}
        if rest:
            self._write(TOKEN_FILE, _Tokens(gateways=rest))
        else:
            self.folder.remove(TOKEN_FILE)

    def _gateways(self) -> _Gateways:
        raw = self.folder.read(GATEWAYS_FILE)
        where = f"{self.folder.path / GATEWAYS_FILE}"
        return _Gateways() if raw is None else _decoded(raw, _Gateways, where)

    def _tokens(self) -> _Tokens:
        raw = self.folder.read(TOKEN_FILE)
        where = f"{self.folder.path / TOKEN_FILE}"
        return _Tokens() if raw is None else _decoded(raw, _Tokens, where)

    def _write(self, name: str, content: msgspec.Struct) -> None:
        self.folder.write(name, msgspec.json.format(msgspec.json.encode(content)) + b"\n")


T = TypeVar("T", bound=msgspec.Struct)


def _decoded(raw: bytes, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ClientError(f"{where} holds something else; remove it, and sign in again") from None


def check_keyring() -> None:
    """Raises ClientError where there is no keyring to use."""
    _ask_keyring(lambda _keyring: None)


def _delete(keyring: Any, origin: str) -> None:
    if keyring.get_password(KEYRING_SERVICE, origin) is not None:
        keyring.delete_password(KEYRING_SERVICE, origin)


def _ask_keyring(ask: Callable[[Any], str | None]) -> str | None:
    """What the system's keyring answers. Raises ClientError where there is none, or it refuses."""
    try:
        keyring: Any = importlib.import_module("keyring")
        errors: Any = importlib.import_module("keyring.errors")
    except ImportError:
        raise ClientError("the keyring package is not installed: pip install 'ostiary[keyring]'") from None
    if keyring.get_keyring().priority <= 0:
        raise ClientError("this system has no keyring that can be used; sign in without --keyring")
    try:
        return ask(keyring)
    except errors.KeyringError as error:
        raise ClientError(f"the keyring refuses ({type(error).__name__}); unlock it, and try again") from None
