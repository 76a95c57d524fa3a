"""A folder of notes: one UTF-8 text file for each, NAME.txt.

The folder is opened once and every file is reached through its descriptor, so that nobody can put another folder in
its place. Symbolic links, and whatever else is not a regular file, are refused.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

# No dot and no slash: neither a path nor a hidden file can be meant.
NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _-]{0,98}[A-Za-z0-9_-])?", re.ASCII)
SUFFIX: Final = ".txt"
MAXIMUM_SIZE: Final = 1024 * 1024  # bytes


class NoteError(Exception):
    """The note cannot be read or written; the message says why."""


class NoteFolder:
    """The notes of one folder, which is made (0700) where it is missing. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def names(self) -> list[str]:
        """The notes' names in alphabetical order."""
        with os.scandir(self._folder) as entries:
            files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        stems = (name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX))
        return sorted(stem for stem in stems if NAME.fullmatch(stem))

    def read(self, name: str) -> str:
        """The note's text. Raises NoteError where there is none that may be read."""
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for its writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(_file_name(name), flags, dir_fd=self._folder)
        except FileNotFoundError:
            raise NoteError(f"there is no note {name!r}") from None
        except OSError as error:
            raise NoteError(f"note {name!r} cannot be opened: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NoteError(f"note {name!r} is not a regular file")
            content = file.read(MAXIMUM_SIZE + 1)
        if len(content) > MAXIMUM_SIZE:
            raise NoteError(f"note {name!r} is larger than {MAXIMUM_SIZE} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise NoteError(f"note {name!r} is not UTF-8 text") from None

    def write(self, name: str, text: str) -> int:
        """Writes the whole note, new or anew, and returns its size in bytes: a reader sees the old text or the new.

        Raises NoteError where the name or the size will not do, or where a link or a folder has the name.
        """
        target = _file_name(name)
        content = text.encode()
        if len(content) > MAXIMUM_SIZE:
            raise NoteError(f"a note has at most {MAXIMUM_SIZE} bytes")
        if not self._may_replace(target):
            raise NoteError(f"note {name!r} is not a regular file")
        temporary = f".{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, 0o600, dir_fd=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(temporary, target, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except OSError:
                os.unlink(temporary, dir_fd=self._folder)
                raise
            os.fsync(self._folder)
        except OSError as error:
            raise NoteError(f"note {name!r} cannot be written: {error.strerror}") from None
        return len(content)

    def search(self, words: str) -> dict[str, list[str]]:
        """The lines that contain the words, in any case, by note; a note that cannot be read is left out."""
        wanted = words.casefold()
        found: dict[str, list[str]] = {}
        for name in self.names():
            try:
                lines = self.read(name).splitlines()
            except NoteError:
                continue
            matching = [line for line in lines if wanted in line.casefold()]
            if matching:
                found[name] = matching
        return found

    def _may_replace(self, target: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(target, dir_fd=self._folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return True


def _file_name(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise NoteError(
            f"{name!r} is no name for a note: use letters, digits, spaces, hyphens and underscores"
        )
    return name + SUFFIX
