"""What seals TOTP secrets at rest: AES-256-GCM, with keys in a file of their own beside the configuration.

The first key seals; others only open, while the secrets are being sealed anew. The file is replaced as a whole or not at all.
No message ever repeats a key.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE: Final = "mfa.key"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_MAX_BYTES: Final = 1 << 16
_VERSION: Final = 1


class SealingError(Exception):
    """The keys cannot be used, or do not open what is there. The message says what to do."""


class _Key(msgspec.Struct, frozen=True):
    key_id: str
    key: str


class _File(msgspec.Struct, frozen=True):
    version: int
    keys: tuple[_Key, ...]


class Sealing:
    """Seals and opens. The file is read when it is first needed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._keys: dict[str, bytes] | None = None

    def check(self, *, needed: bool) -> None:
        """Raises SealingError where the file is no good, or is missing though ``needed``."""
        if self._file.exists():
            self._load()
        elif needed:
            raise SealingError(
                f"{self._file} is missing, and second factors are sealed with it: put it back, or reset each of "
                "these clients with `ostiary clients mfa-reset NAME`"
            )

    def seal(self, secret: bytes, owner: str) -> str:
        """``secret`` for the store, bound to ``owner``. A missing file is made. Raises SealingError."""
        if self._keys is None and not self._file.exists():
            self._keys = _write(self._file, {})
        key_id, key = next(iter(self._load().items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, secret, owner.encode())
        return f"{key_id}.{base64.urlsafe_b64encode(nonce + sealed).decode('ascii')}"

    def open(self, sealed: str, owner: str) -> bytes:
        """The secret. Raises SealingError."""
        key_id, _, text = sealed.partition(".")
        key = self._load().get(key_id)
        if key is None:
            raise SealingError(
                f"{self._file} does not hold the key that the second factor of {owner} was sealed with: put it back, "
                f"or reset it with `ostiary clients mfa-reset {owner}`"
            )
        try:
            raw = base64.urlsafe_b64decode(text)
            return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], owner.encode())
        except (InvalidTag, binascii.Error, ValueError):
            raise SealingError(
                f"the second factor of {owner} cannot be opened, it was changed or is another client's: restore the "
                f"store, or reset it with `ostiary clients mfa-reset {owner}`"
            ) from None

    def add_key(self) -> None:
        """From now on a new key seals; the others still open. Raises SealingError."""
        self._keys = _write(self._file, self._load() if self._file.exists() else {})

    def drop_old_keys(self) -> None:
        """Keep only the key that seals. Raises SealingError."""
        keys = self._load()
        first = next(iter(keys))
        self._keys = _write(self._file, {first: keys[first]}, add=False)

    def _load(self) -> dict[str, bytes]:
        if self._keys is None:
            self._keys = _read(self._file)
        return self._keys


def make_file(file: Path) -> None:
    """A file with a new key. Raises SealingError."""
    _write(file, {})


def file_problem(file: Path) -> str | None:
    """What is wrong with the file, with its remedy; None: nothing, or it is not there."""
    if not file.exists():
        return None
    try:
        _read(file)
    except SealingError as error:
        return str(error)
    return None


def _read(file: Path) -> dict[str, bytes]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, not a path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SealingError(f"{file} is not a file; name a file")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise SealingError(f"{file} has mode {mode:04o}, others can get at it; chmod 600 {file}")
            found = msgspec.json.decode(stream.read(_MAX_BYTES), type=_File)
        keys = {each.key_id: base64.b64decode(each.key, validate=True) for each in found.keys}
    except OSError as error:
        raise SealingError(
            f"{file} cannot be read ({error.strerror}); mend its owner, mode or path"
        ) from None
    except (msgspec.MsgspecError, binascii.Error, UnicodeDecodeError):
        raise SealingError(f"{file} is not a file of MFA keys; put the right one back") from None
    if not keys or found.version != _VERSION or any(len(key) != _KEY_BYTES for key in keys.values()):
        raise SealingError(f"{file} is not a file of MFA keys; put the right one back")
    return keys


def _write(file: Path, keys: dict[str, bytes], *, add: bool = True) -> dict[str, bytes]:
    """Replace the file; what it holds now. ``add``: a new key, before the others."""
    new = {secrets.token_hex(4): secrets.token_bytes(_KEY_BYTES), **keys} if add else keys
    shown = tuple(_Key(key_id, base64.b64encode(key).decode("ascii")) for key_id, key in new.items())
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:  # noqa: PTH123
            stream.write(msgspec.json.encode(_File(_VERSION, shown)) + b"\n")
            stream.flush()
            os.fsync(descriptor)
        temporary.replace(file)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SealingError(
            f"{file} cannot be written ({error.strerror}); let the gateway's user write there, or name "
            "another place in [accounts] mfa_key_file"
        ) from None
    return new
