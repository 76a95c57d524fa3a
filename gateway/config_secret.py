"""The signing secret: read from an owner-only file or from the environment, and refused where it is weak.

No message ever repeats a secret or a part of it.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from gateway.config_shapes import VARIABLE, Table

MIN_BYTES: Final = 32
"""RFC 7518 section 3.2: a key for HS256 is at least as long as the hash."""
MAX_BYTES: Final = 4096
DEFAULT_FILE: Final = "secret.key"
DEFAULT_VARIABLE: Final = "OSTIARY_SECRET_KEY"
"""What the documents call the variable that holds the secret."""

_MADE_SO = 'make one: python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
_PLACEHOLDERS: Final = re.compile(
    r"change[-_ ]?me|change[-_ ]?this|replace[-_ ]?me|your[-_ ]?secret|insecure|password", re.IGNORECASE
)


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
    return _strong(tokens, "secret_env", f"the secret in {variable}", value.strip())


def _from_file(tokens: Table, file: Path) -> str:
    try:
        # Not blocking: a FIFO must not hang the start.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        tokens.reject("secret_file", f"{file} is not there; {_MADE_SO} > {file}; chmod 600 {file}")
        return ""
    except (OSError, ValueError) as error:
        tokens.reject("secret_file", f"{file} cannot be read ({error}); mend its owner, mode or path")
        return ""
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, not a path
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            tokens.reject("secret_file", f"{file} is not a file; name a file")
            return ""
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            tokens.reject(
                "secret_file", f"{file} has mode {mode:04o}, others can get at it; chmod 600 {file}"
            )
            return ""
        raw = stream.read(MAX_BYTES + 1)
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        tokens.reject("secret_file", f"{file} is not text; {_MADE_SO} > {file}")
        return ""
    return _strong(tokens, "secret_file", f"the secret in {file}", text)


def _strong(tokens: Table, key: str, subject: str, secret: str) -> str:
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
    if len(set(secret)) < 8 or _repeats(secret):
        return "repeats itself, so it can be guessed"
    if _PLACEHOLDERS.search(secret):
        return "is a placeholder, not a secret"
    return None


def _repeats(secret: str) -> bool:
    """Whether it is one short piece, four times or more."""
    return any(secret[piece:] == secret[:-piece] for piece in range(1, len(secret) // 4 + 1))
