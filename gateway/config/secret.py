"""The keys of tokens: read from owner-only files or from the environment, and refused where they are weak.

No message ever repeats a secret or a part of it.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from gateway.config.shapes import VARIABLE, Table
from gateway.config.values import Algorithm, SigningKey
from gateway.identity.signing_keys import MAX_RETIRED_BYTES, private_key, read_retired

MIN_BYTES: Final = 32
"""RFC 7518 section 3.2: a key for HS256 is at least as long as the hash."""
MAX_BYTES: Final = 4096
MAX_KEY_BYTES: Final = 32 << 10
"""Of a private key as PEM."""
DEFAULT_FILE: Final = "secret.key"
DEFAULT_RETIRED: Final = "retired-keys.json"
DEFAULT_VARIABLE: Final = "OSTIARY_SECRET_KEY"
"""What the documents call the variable that holds the secret."""

_SAME_AGAIN: Final = 12
"""Characters. That a random secret of 16 letters begins and ends with the same 12 happens once in 10^14."""

_MADE_SO = 'make one: python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
_PLACEHOLDERS: Final = re.compile(
    r"change[-_ ]?me|change[-_ ]?this|replace[-_ ]?me|your[-_ ]?secret|insecure|password|do[-_ ]?not[-_ ]?use"
    r"|(super|default|example|jwt|dev|test|my)[-_ ]?secret|secret[-_ ]?key|letmein|qwerty|deadbeef"
    r"|your[-_ ]?\d{3}[-_ ]?bit|placeholder|correct[-_ ]?horse",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The text of the key that signs, where it is, and those that signed before."""

    secret: str = field(repr=False)
    file: Path | None
    """None: in an environment variable."""
    retired_file: Path
    retired: tuple[SigningKey, ...]


def read_keys(tokens: Table, algorithm: Algorithm, *, wanted: bool) -> TokenKeys:
    """The keys that ``[tokens]`` names; what is wrong with them goes to the problems.

    ``wanted`` False: only the keys of the table are checked, and nothing is read.
    """
    retired_file = tokens.path("retired_keys_file") or tokens.document.folder / DEFAULT_RETIRED
    retired = _read_retired(tokens, retired_file) if wanted else ()
    if algorithm is Algorithm.HS256:
        if tokens.has("private_key_file"):
            tokens.text("private_key_file", "")
            tokens.reject(
                "private_key_file", "is of no use to HS256; take it out, or choose another algorithm"
            )
        secret = read_secret(tokens, wanted=wanted)
        default = tokens.path("secret_file") or tokens.document.folder / DEFAULT_FILE
        return TokenKeys(secret, None if tokens.has("secret_env") else default, retired_file, retired)
    for key in ("secret", "secret_file", "secret_env"):
        tokens.text(key, "")
        if tokens.has(key):
            tokens.reject(key, f"is of no use to {algorithm}; take it out")
    file = tokens.path("private_key_file")
    if file is None:
        remedy = f'name a file, such as private_key_file = "signing.pem"; to make it: ostiary keys make {algorithm} FILE'
        if not tokens.has("private_key_file"):
            tokens.reject("private_key_file", f"is missing, and {algorithm} needs it; {remedy}")
        return TokenKeys("", None, retired_file, retired)
    secret = _read_private_key(tokens, file, algorithm) if wanted else ""
    return TokenKeys(secret, file, retired_file, retired)


def _read_private_key(tokens: Table, file: Path, algorithm: Algorithm) -> str:
    made_so = f"make one: ostiary keys make {algorithm} {file}"
    pem = owner_only(tokens, "private_key_file", file, MAX_KEY_BYTES, made_so)
    if pem is None:
        return ""
    try:
        private_key(algorithm, pem)
    except ValueError as error:
        tokens.reject("private_key_file", f"{file} {error}; {made_so}")
        return ""
    return pem


def _read_retired(tokens: Table, file: Path) -> tuple[SigningKey, ...]:
    if not os.path.lexists(file):
        return ()
    restore = "restore it from a backup, or remove it, which ends the tokens that those keys signed"
    text = owner_only(tokens, "retired_keys_file", file, MAX_RETIRED_BYTES, restore)
    if text is None:
        return ()
    try:
        return read_retired(text.encode())
    except ValueError as error:
        tokens.reject("retired_keys_file", f"{file} {error}; {restore}")
        return ()


def read_secret(tokens: Table, *, wanted: bool) -> str:
    """The secret that ``[tokens]`` names, stripped of white space; what is wrong with it goes to the problems.

    ``wanted`` False: only the keys are checked, nothing is read, and "" is returned.
    """
    if tokens.has("secret"):
        tokens.text("secret", "")
        tokens.reject(
            "secret",
            'a secret does not belong here; write it to a 0600 file and name that: secret_file = "secret.key"',
        )
    variable = tokens.matching("secret_env", "", VARIABLE, "name an environment variable")
    tokens.document.secret_variables |= {DEFAULT_VARIABLE, variable}
    file = tokens.path("secret_file") or tokens.document.folder / DEFAULT_FILE
    if tokens.has("secret_file") and tokens.has("secret_env"):
        tokens.reject("secret_env", "stands beside secret_file; keep one of the two")
        return ""
    if variable:
        value = tokens.document.variable(variable)
        return _from_environment(tokens, variable, value) if wanted else ""
    return _from_file(tokens, file) if wanted and not tokens.has("secret_env") else ""


def _from_environment(tokens: Table, variable: str, value: str | None) -> str:
    if value is None:
        tokens.reject("secret_env", f"the variable {variable} is not set; set it, or name a secret_file")
        return ""
    try:
        value.encode()
    except UnicodeEncodeError:
        tokens.reject("secret_env", f"the secret in {variable} is not text; {_MADE_SO}")
        return ""
    return strong(tokens, "secret_env", f"the secret in {variable}", value.strip())


def _from_file(tokens: Table, file: Path) -> str:
    text = owner_only(tokens, "secret_file", file, MAX_BYTES, f"{_MADE_SO} > {file}; chmod 600 {file}")
    return "" if text is None else strong(tokens, "secret_file", f"the secret in {file}", text.strip())


def owner_only(tokens: Table, key: str, file: Path, limit: int, remedy: str) -> str | None:
    """The text in a file that nobody but its owner can get at; None: it was rejected."""
    try:
        # Not blocking: a FIFO must not hang the start.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        tokens.reject(key, f"{file} is not there; {remedy}")
        return None
    except (OSError, ValueError) as error:
        tokens.reject(key, f"{file} cannot be read ({error}); mend its owner, mode or path")
        return None
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, not a path
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            tokens.reject(key, f"{file} is not a file; name a file")
            return None
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            tokens.reject(key, f"{file} has mode {mode:04o}, others can get at it; chmod 600 {file}")
            return None
        raw = stream.read(limit + 1)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        tokens.reject(key, f"{file} is not text; {remedy}")
        return None


def strong(tokens: Table, key: str, subject: str, secret: str) -> str:
    """The secret, if it is a strong one."""
    weakness = secret_weakness(secret)
    if weakness is None:
        return secret
    tokens.reject(key, f"{subject} {weakness}; {_MADE_SO}")
    return ""


def secret_weakness(secret: str) -> str | None:
    """Why a secret must not be used, or None. It catches what people leave in place, not what is merely poor."""
    size = len(secret.encode())
    if size < MIN_BYTES:
        return f"has {size} bytes; it must have {MIN_BYTES} or more"
    if size > MAX_BYTES:
        return f"has over {MAX_BYTES} bytes; is it the right one?"
    if len(set(secret)) >= 8 and _counts(secret):
        return "counts on from one character to the next, so it can be guessed"
    if len(set(secret)) < 8 or _repeats(secret):
        return "repeats itself, so it can be guessed"
    if _PLACEHOLDERS.search(secret):
        return "is a placeholder, not a secret"
    return None


def _counts(secret: str) -> bool:
    """Whether half of it or more are steps such as from 4 to 5, or from c to b."""
    steps = sum(abs(ord(one) - ord(other)) == 1 for one, other in pairwise(secret))
    return 2 * steps >= len(secret)


def _repeats(secret: str) -> bool:
    """Whether it is one piece and then the same again, or a good part of it."""
    longest = len(secret) - _SAME_AGAIN
    return any(secret[piece:] == secret[:-piece] for piece in range(1, longest + 1))
