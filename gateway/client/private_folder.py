"""A folder whose files are one user's alone.

The folder is 0700. A file is made 0600, under a name of its own, and renamed over the old one once it is whole and on
disk: it is never wider and never half, not for an instant. What is found wider is narrowed, with a warning; what is not
the user's own, or is a symbolic link, is refused.

Where the system has no such modes (Windows) the user's profile is what keeps others out, and nothing is checked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from gateway.client.errors import ClientError

if sys.platform != "win32":
    import fcntl

HAS_MODES: Final = os.name != "nt"
MAX_BYTES: Final = 1 << 20
_LOCK: Final = "lock"
_FLAGS: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not hang it
    | getattr(os, "O_BINARY", 0)
)


class PrivateFolder:
    """One such folder; it is made when something is first written."""

    def __init__(self, path: Path, *, warn: Callable[[str], None], modes: bool = HAS_MODES) -> None:
        """``warn`` is told of what was too wide. ``modes``: whether the system has modes and owners."""
        self.path = path
        self._warn = warn
        self._modes = modes

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None: there is no such file. Raises ClientError."""
        path = self.path / name
        if self.path.is_dir():
            self._narrow_folder()
        try:
            descriptor = os.open(path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refusal(path, error) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ClientError(f"{path} is not a file; move it away")
            self._narrow(descriptor, path, 0o600)
            return os.read(descriptor, MAX_BYTES)
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Put a file of these bytes in the place of ``name``, durably. Raises ClientError."""
        self._make()
        temporary = self.path / f".{name}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
            try:
                with open(descriptor, "wb") as file:  # noqa: PTH123
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
                temporary.replace(self.path / name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            self._sync()
        except OSError as error:
            raise _refusal(self.path / name, error) from None

    def remove(self, name: str) -> None:
        """Remove the file, if it is there. Raises ClientError."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise _refusal(self.path / name, error) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Held by one process at a time; blocks. Where there are no such locks it does nothing. Raises ClientError."""
        self._make()
        if sys.platform == "win32":
            yield
            return
        try:
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        except OSError as error:
            raise _refusal(self.path / _LOCK, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _refusal(self.path, error) from None
        self._narrow_folder()

    def _narrow_folder(self) -> None:
        if not self._modes:
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(self.path, error) from None
        try:
            self._narrow(descriptor, self.path, 0o700)
        finally:
            os.close(descriptor)

    def _narrow(self, descriptor: int, path: Path, narrow: int) -> None:
        """What is open is the user's own, and nobody else's. Raises ClientError."""
        if not self._modes:
            return
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise ClientError(f"{path} belongs to another user; move it away")
        mode = stat.S_IMODE(status.st_mode)
        if not mode & 0o077:
            return
        try:
            os.fchmod(descriptor, narrow)
        except OSError:
            raise ClientError(
                f"{path} has mode {mode:04o}, others can get at it; chmod {narrow:o} {path}"
            ) from None
        self._warn(f"{path} had mode {mode:04o}, so others could get at it; it is {narrow:04o} now")

    def _sync(self) -> None:
        if not self._modes:
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refusal(path: Path, error: OSError) -> ClientError:
    if path.is_symlink():
        return ClientError(f"{path} is a symbolic link; move it away")
    return ClientError(
        f"{path}: {(error.strerror or str(error)).lower()}; mend its owner, its mode or the disk"
    )
