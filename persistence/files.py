"""A folder that is the owner's alone, held open and locked, and files in it that are replaced as a whole or not at all.

Rules:
- Folder 0700, files 0600, from the instant they exist; whatever is found wider is refused, and so are symbolic links.
- A file is replaced by a temporary one that was fsynced before it is renamed over, and the rename is made durable by an
  fsync of the folder. Every name is resolved against the folder's descriptor, so that a folder that is moved or
  replaced under a running process cannot split the store.
- One process at a time: an ``flock`` that the kernel lets go of when the process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from typing import Final

import aiofiles

from persistence.records import StoreError

LOCK: Final = "lock"
TEMPORARY: Final = ".tmp"
RESTORE: Final = "move the store's folder away, then put a backup in its place: ostiary restore FILE"
"""The way out where something is missing or damaged."""
PIECE: Final = 1 << 20
"""Bytes that are read or written in one call (aiofiles costs a thread hop for each)."""

_SYNC_EVERY: Final = 2 << 20
"""Bytes of a large file after which it is synced: one fsync of it all would hold up the journal's for long."""
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
"""With O_NONBLOCK, too, nothing waits for the other end of a FIFO that stands in a file's place."""


class System:
    """The system calls that make bytes durable. A test passes one whose calls fail."""

    def open(self, name: str, flags: int, mode: int, folder: int) -> int:
        """Open or make a file in the folder of that descriptor."""
        return os.open(name, flags, mode, dir_fd=folder)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of ``data``: how many bytes were taken."""
        return os.write(descriptor, data)

    def fdatasync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        """Make a file durable, or the names in a folder."""
        os.fsync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut a file."""
        os.ftruncate(descriptor, length)

    def rename(self, source: str, target: str, folder: int) -> None:
        """Rename, with both names in the folder of that descriptor."""
        os.rename(source, target, src_dir_fd=folder, dst_dir_fd=folder)

    def unlink(self, name: str, folder: int) -> None:
        """Remove a file from the folder of that descriptor."""
        os.unlink(name, dir_fd=folder)

    def room(self, descriptor: int) -> tuple[int, int]:
        """The bytes of the disk under that descriptor: those that this user may still take, and all."""
        found = os.fstatvfs(descriptor)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def write_all(system: System, descriptor: int, data: bytes) -> None:
    """Write all of ``data``, however many calls that takes. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[system.write(descriptor, rest) :]


class Folder:
    """A folder of private files, by its descriptor."""

    def __init__(self, path: Path, *, system: System) -> None:
        """Open ``path``, which is made if it is missing.

        Raises:
            StoreError: It cannot be made or opened, or others than its owner may enter it.
        """
        self.path = path
        self.system = system
        self._lock: int | None = None
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=_FOLDER_MODE)
                _sync_folder(path.parent)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            why = "it is not a folder; move it away" if error.errno == errno.ENOTDIR else _why(error)
            raise StoreError(f"the folder {path} cannot be opened: {why}") from error
        mode = stat.S_IMODE(os.fstat(self._descriptor).st_mode)
        if mode & 0o077:
            os.close(self._descriptor)
            raise StoreError(
                f"the folder {path} has mode {mode:04o}, so others may enter it: chmod 700 {path}"
            )

    def lock(self) -> None:
        """Take the folder for this process until ``close``.

        Raises:
            StoreError: Another process has it; the message names its process id, where it is known.
        """
        descriptor = self._open(LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            by = f"process {holder}" if holder.isdigit() else "another process"
            raise StoreError(f"the store {self.path} is in use by {by}: stop it first") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        self._lock = descriptor

    def names(self) -> list[str]:
        """The names in the folder, sorted."""
        return sorted(os.listdir(self._descriptor))  # noqa: PTH208 - a descriptor

    def room(self) -> tuple[int, int]:
        """The bytes of the disk that it is on: those that may still be taken, and all. Raises OSError."""
        return self.system.room(self._descriptor)

    def size(self, suffix: str) -> int:
        """The bytes of all files whose names end so. Raises OSError."""
        with os.scandir(self._descriptor) as entries:
            return sum(
                entry.stat(follow_symlinks=False).st_size for entry in entries if entry.name.endswith(suffix)
            )

    def subfolder(self, name: str) -> Folder:
        """The folder ``name`` in this one, made if it is missing. Raises StoreError."""
        return Folder(self.path / name, system=self.system)

    async def pieces(self, name: str) -> AsyncGenerator[bytes, None]:
        """The file's bytes in large pieces. Raises StoreError where it is missing, unreadable or not private."""
        async with aiofiles.open(self._open(name, os.O_RDONLY), "rb", buffering=0) as file:
            while piece := await file.read(PIECE):
                yield piece

    async def read(self, name: str) -> bytes:
        """The whole file. Raises StoreError as ``pieces`` does."""
        async with aiofiles.open(self._open(name, os.O_RDONLY), "rb", buffering=0) as file:
            return await file.read()

    def read_now(self, name: str, limit: int = -1) -> bytes:
        """The file's first ``limit`` bytes, or all; blocks: for use in a thread. Raises StoreError."""
        with open(self._open(name, os.O_RDONLY), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            return file.read(limit)

    async def replace(self, name: str, pieces: AsyncIterable[bytes]) -> int:
        """Put a file of these bytes in the place of ``name``; durable on return. The number of bytes.

        Raises:
            OSError: It could not be done. What was there before still is, unless it was the last step, the fsync of
                the folder, that failed: then a crash leaves the one or the other.
        """
        temporary = name + TEMPORARY
        size = 0
        try:
            async with aiofiles.open(self._create(temporary), "wb", buffering=0) as file:
                async for piece in _in_large(pieces):
                    sync = size // _SYNC_EVERY != (size + len(piece)) // _SYNC_EVERY
                    await asyncio.to_thread(self._write_piece, file.fileno(), piece, sync=sync)
                    size += len(piece)
                await asyncio.to_thread(self.system.fsync, file.fileno())
            await asyncio.to_thread(self._put_in_place, temporary, name)
        except BaseException:
            self._discard(temporary)
            raise
        return size

    def create(self, name: str, data: bytes) -> None:
        """Make the file ``name`` of ``data``, durably and in one step; blocks. Raises OSError."""
        temporary = name + TEMPORARY
        try:
            descriptor = self._create(temporary)
            try:
                write_all(self.system, descriptor, data)
                self.system.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._put_in_place(temporary, name)
        except BaseException:
            self._discard(temporary)
            raise

    def open_to_read(self, name: str) -> int:
        """A descriptor that reads the file. Raises StoreError."""
        return self._open(name, os.O_RDONLY)

    def open_to_append(self, name: str) -> int:
        """A descriptor that appends to the file. Raises StoreError."""
        return self._open(name, os.O_RDWR | os.O_APPEND)

    def cut(self, name: str, length: int) -> None:
        """Cut the file to ``length`` bytes, durably; blocks. Raises OSError, StoreError."""
        descriptor = self._open(name, os.O_RDWR)
        try:
            self.system.truncate(descriptor, length)
            self.system.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, names: Iterable[str]) -> None:
        """Remove these files in this order, durably; those that are gone already are passed over. Raises OSError."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self.system.unlink(name, self._descriptor)
        self.system.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the folder, and of the lock. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self, name: str, flags: int) -> int:
        path = self.path / name
        try:
            descriptor = self.system.open(name, flags | _FLAGS | os.O_NONBLOCK, _FILE_MODE, self._descriptor)
        except OSError as error:
            ways = {
                errno.ELOOP: "it is a symbolic link",
                errno.EISDIR: "it is a folder; move it away",
                errno.ENOENT: f"{_why(error)}; {RESTORE}",
            }
            why = ways.get(error.errno or 0, _why(error))
            raise StoreError(f"{path} cannot be opened: {why}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise StoreError(f"{path} is not a file: move it away")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            os.close(descriptor)
            raise StoreError(f"{path} has mode {mode:04o}, so others may read it: chmod 600 {path}")
        return descriptor

    def _write_piece(self, descriptor: int, piece: bytes, *, sync: bool) -> None:
        write_all(self.system, descriptor, piece)
        if sync:
            self.system.fsync(descriptor)

    def _create(self, name: str) -> int:
        """A new file; one left by a crash under that name (always a temporary one) goes first."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
        return self.system.open(name, flags, _FILE_MODE, self._descriptor)

    def _put_in_place(self, temporary: str, name: str) -> None:
        self.system.rename(temporary, name, self._descriptor)
        self.system.fsync(self._descriptor)

    def _discard(self, temporary: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=self._descriptor)


async def _in_large(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, gathered into pieces of at least PIECE bytes (the last one may be smaller)."""
    gathered: list[bytes] = []
    size = 0
    async for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= PIECE:
            yield b"".join(gathered)
            gathered.clear()
            size = 0
    if gathered:
        yield b"".join(gathered)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
