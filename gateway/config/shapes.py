"""The shapes of the values in ``ostiary.toml``, and tables that are read key by key.

msgspec stops at the first mistake, but whoever starts a gateway wants to know all of them. So a ``Table`` notes what
is wrong, with its place and its remedy, and goes on with the default; what nobody asked it for is an unknown key.

No message repeats a value of the file, except where the value is one of a few known words: it could be a secret.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from gateway.config.values import ConfigError

Word = TypeVar("Word", bound=StrEnum)

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""An upstream, a service, a tenant."""
ROLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PERMISSION: Final = re.compile(r"(?:[a-z0-9_.-]{1,64}|\*):(?:[a-z0-9_.-]{1,64}|\*)")
"""``resource:action``; each segment may be ``*``."""
PERMISSION_REMEDY: Final = (
    'write "resource:action" in lower-case letters, digits, "_", "." and "-", or "*" for a segment'
)
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
"""The name of an environment variable."""
HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*\.?", re.IGNORECASE
)

MAX_FILE_BYTES: Final = 1 << 20

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]{1,12})([KMGT])")
_BYTES: Final[Mapping[str, int]] = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_duration(text: str) -> float | None:
    """Seconds for ``"90s"``, ``"15m"``, ``"1h"``, ``"7d"``; None: not a duration."""
    found = _DURATION.fullmatch(text)
    return float(int(found[1]) * _SECONDS[found[2]]) if found else None


def parse_size(text: str) -> int | None:
    """Bytes for ``"64K"``, ``"512M"``, ``"1G"`` (powers of 1024); None: not a size."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _BYTES[found[2]] if found else None


def is_host(name: str) -> bool:
    """Whether ``name`` is a host name or an IP address, without scheme and port."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return HOST.fullmatch(name) is not None
    return True


def url_problem(
    url: str, schemes: tuple[str, ...] = ("http", "https"), *, origin: bool = False
) -> str | None:
    """What is wrong with an address that the gateway is to call or to be called by; None: nothing.

    ``origin``: it must be scheme, host and port alone (RFC 6454 section 4), a trailing slash at most.
    """
    if not all("!" <= character <= "~" for character in url) or any(c in url for c in '\\"<>^`{|}'):
        return "holds characters that no URL may; percent-encode them"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL; write SCHEME://HOST:PORT/PATH"
    if parts.scheme not in schemes:
        return f"has a scheme that cannot be used; begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if "@" in parts.netloc:
        return "must not hold a user or a password; take them out"
    if not is_host(parts.hostname or "") or port == 0:
        return "has no usable host and port; write SCHEME://HOST:PORT"
    if "?" in url or "#" in url:
        return "must have no query and no fragment; take them out"
    if origin and parts.path not in {"", "/"}:
        return "must have no path; write SCHEME://HOST:PORT alone"
    return None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean "x"?``, or all the known words where none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word[:80], words, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(words)}" if words else "take it out"


def _shown(key: str) -> str:
    """A key as TOML would write it, on one line."""
    if _BARE_KEY.fullmatch(key):
        return key[:80]
    return ascii(key[:80])


def _kind(value: object) -> str:
    """The TOML type of a value, in words."""
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "an array",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


class Document:
    """The file and the environment while they are being read: the problems so far, and the variables in use.

    ``secret_variables``: those that may hold the gateway's own secret; no child process gets one of them.
    ``secret_files``: those that hold credentials for upstreams.
    """

    def __init__(self, file: Path, environment: Mapping[str, str]) -> None:
        self.file = file
        self.folder = file.parent
        self.environment = environment
        self.problems: list[str] = []
        self.variables_in_use: set[str] = set()
        self.secret_variables: set[str] = set()
        self.secret_files: list[Path] = []
        self.known_overrides: set[str] = set()

    def load(self) -> dict[str, object]:
        """Parse the file. Raises ConfigError where there is nothing to go on with."""
        try:
            with self.file.open("rb") as stream:
                raw = stream.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            remedy = "make one with `ostiary init DIR`, or name yours with --config FILE"
            raise ConfigError([f"{self.file}: there is no such file; {remedy}"]) from None
        except OSError as error:
            raise ConfigError(
                [f"{self.file}: cannot be read ({error.strerror}); mend its mode or its path"]
            ) from None
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigError([f"{self.file}: is larger than {MAX_FILE_BYTES} bytes; is it the right file?"])
        try:
            return tomllib.loads(raw.decode())
        except UnicodeDecodeError as error:
            raise ConfigError(
                [f"{self.file}: byte {error.start} is not UTF-8; save the file as UTF-8"]
            ) from None
        except RecursionError:
            raise ConfigError([f"{self.file}: is nested too deeply; is it the right file?"]) from None
        except ValueError as error:  # TOMLDecodeError, and integers of thousands of digits
            what = re.sub(
                r"\(at (?:line (\d+), column (\d+)|end of document)\)", _position, str(error), count=1
            )
            raise ConfigError(
                [f"{self.file}: not valid TOML: {ascii(what)[1:-1]}; correct it there"]
            ) from None

    def note(self, place: str, what: str) -> None:
        """Add a problem at a place of the file."""
        self.problems.append(f"{self.file}: {place}: {what}")

    def variable(self, name: str) -> str | None:
        """The value of an environment variable that the file refers to by name."""
        self.variables_in_use.add(name)
        return self.environment.get(name)


def _position(found: re.Match[str]) -> str:
    return f"line {found[1]}, column {found[2]}" if found[1] else "at the end of the file"


class Table:
    """One table of the file. Every reading method notes what is wrong and returns the default instead."""

    def __init__(self, document: Document, place: str, values: dict[str, object], override: str = "") -> None:
        """``override``: the prefix of the environment variables that override this table's scalars, if any do."""
        self.document = document
        self.place = place
        self._values = values
        self._override = override
        self._known: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the key is given, in the file or by an override."""
        return key in self._values or (
            bool(self._override) and self._variable(key) in self.document.environment
        )

    def reject(self, key: str, what: str) -> None:
        """Note that the value of ``key`` is wrong; ``what`` says how, and what to write instead."""
        if self._overridden(key):
            self.document.problems.append(f"environment: {self._variable(key)}: {what}")
            return
        self.document.note(f"{self.place} {_shown(key)}".lstrip(), what)

    def text(self, key: str, default: str, *, empty: bool = False) -> str:
        """A printable string, not empty unless ``empty`` allows it."""
        value = self._take(key, default)
        if not isinstance(value, str):
            self.reject(key, f"must be a string, not {_kind(value)}; put it in quotes")
            return default
        if not self.has(key) or (empty and not value):
            return value
        if not value.strip() or not value.isprintable():
            self.reject(key, "is empty or holds control characters; write a printable string")
            return default
        return value

    def matching(
        self, key: str, default: str, pattern: re.Pattern[str], remedy: str, *, empty: bool = False
    ) -> str:
        """A string of which the whole matches ``pattern``."""
        value = self.text(key, default, empty=empty)
        if value not in {default, ""} and not pattern.fullmatch(value):
            self.reject(key, f"is not allowed; {remedy}")
            return default
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``."""
        number = self.optional_integer(key, low, high)
        return default if number is None else number

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """As ``integer``; None: not given, or wrong."""
        value = self._take(key, None)
        if value is None:
            return None
        if isinstance(value, str) and self._overridden(key) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self.reject(key, f"must be an integer, not {_kind(value)}; write a number from {low} to {high}")
            return None
        if not low <= value <= high:
            self.reject(key, f"is out of range; write a number from {low} to {high}")
            return None
        return value

    def flag(self, key: str) -> bool:
        """True or false; False: not given."""
        value = self._take(key, None)
        if value is None:
            return False
        if not isinstance(value, bool):
            self.reject(key, f"must be true or false, not {_kind(value)}; write it without quotes")
            return False
        return value

    def seconds(self, key: str, default: float, low: str, high: str) -> float:
        """A duration from ``low`` to ``high``, which are durations, too."""
        value = self._take(key, None)
        if value is None:
            return default
        seconds = parse_duration(value) if isinstance(value, str) else None
        if seconds is None:
            self.reject(key, 'must be a duration; write "90s", "15m", "1h" or "7d"')
            return default
        if not (parse_duration(low) or 0) <= seconds <= (parse_duration(high) or 0):
            self.reject(key, f"is out of range; write a duration from {low} to {high}")
            return default
        return seconds

    def size(self, key: str) -> int | None:
        """A size in bytes; None: not given."""
        value = self._take(key, None)
        if value is None:
            return None
        size = parse_size(value) if isinstance(value, str) else None
        if not size:
            self.reject(key, 'must be a size; write "64K", "512M" or "1G"')
        return size

    def choice(self, key: str, default: Word) -> Word:
        """One of the words of an enumeration."""
        value = self._take(key, default)
        words = [str(word) for word in type(default)]
        if not isinstance(value, str):
            self.reject(key, f"must be a string, not {_kind(value)}; write one of: {', '.join(words)}")
            return default
        if value not in words:
            self.reject(key, f"{_shown(value)} is not one of: {', '.join(words)}; write one of them")
            return default
        return type(default)(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; (): not given."""
        value = self._take(key, [])
        if self._overridden(key):
            self.reject(key, "an array cannot be overridden from the environment; write it in the file")
            return ()
        if not isinstance(value, list):
            self.reject(key, f'must be an array of strings, not {_kind(value)}; write ["…", "…"]')
            return ()
        if not all(isinstance(item, str) and item.strip() and item.isprintable() for item in value):
            self.reject(key, 'must hold printable, non-empty strings only; write ["…", "…"]')
            return ()
        return tuple(value)

    def permissions(self, key: str) -> tuple[str, ...]:
        """An array of permissions that is not empty; (): not given, or wrong."""
        permissions = self.texts(key)
        if self._values.get(key) == []:
            self.reject(key, "is empty, which could be read as open to all or to nobody; name a permission")
        if not all(PERMISSION.fullmatch(permission) for permission in permissions):
            self.reject(key, f"holds what is not a permission; {PERMISSION_REMEDY}")
            return ()
        return permissions

    def secret_path(self, key: str) -> Path | None:
        """As ``path``, of a file that no child process may see."""
        path = self.path(key)
        if path is not None:
            self.document.secret_files.append(path)
        return path

    def path(self, key: str) -> Path | None:
        """A path, made absolute: relative ones are relative to the file. None: not given, or wrong."""
        value = self.text(key, "")
        return self.document.folder / value if value else None

    def regex(self, key: str) -> str | None:
        """A regular expression; None: not given, or wrong."""
        value = self.text(key, "")
        if not value:
            return None
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            self.reject(key, f"is not a regular expression ({ascii(str(error))[1:-1]}); correct it")
            return None
        return value

    def url(
        self, key: str, default: str, schemes: tuple[str, ...] = ("http", "https"), *, origin: bool = False
    ) -> str:
        """A URL as ``url_problem`` wants it, without the trailing slash where it is an origin."""
        value = self.text(key, default)
        problem = url_problem(value, schemes, origin=origin) if value != default else None
        if problem:
            self.reject(key, problem)
            return default
        return value.rstrip("/") if origin else value

    def mapping(self, key: str) -> dict[str, str]:
        """A table of strings; {}: not given."""
        table = self.table(key)
        return {name: table.text(name, "") for name in table.keys()}  # noqa: SIM118 - a Table is no dictionary

    def keys(self) -> list[str]:
        """The keys as they stand in the file: for tables whose keys are names of the user's own."""
        return list(self._values)

    def table(self, key: str, override: str = "") -> Table:
        """A table within this one; an empty one: not given. The caller closes it."""
        value = self._take(key, {})
        place = f"[{key}]" if self.place == "" else f"{self.place} {_shown(key)}"
        if not isinstance(value, dict):
            self.reject(key, f"must be a table, not {_kind(value)}; write {place} or {{ … }}")
            value = {}
        return Table(self.document, place, value, override)

    def tables(self, key: str, path: str) -> list[Table]:
        """An array of tables, ``[[path]]``. The caller closes each."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.reject(key, f"must be an array of tables; write [[{path}]] before each")
            return []
        return [Table(self.document, f"[[{path}]] #{number}", item) for number, item in enumerate(value, 1)]

    def close(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._values:
            if key not in self._known:
                self.reject(key, f"no such key; {did_you_mean(key, self._known)}")

    def _variable(self, key: str) -> str:
        return f"{self._override}{key.upper()}"

    def _overridden(self, key: str) -> bool:
        return (
            bool(self._override) and key in self._known and self._variable(key) in self.document.environment
        )

    def _take(self, key: str, default: object) -> object:
        self._known.add(key)
        if self._override:
            self.document.known_overrides.add(self._variable(key))
        if self._overridden(key):
            return self.document.environment[self._variable(key)]
        return self._values.get(key, default)
