"""The files of a store as they were at one instant, for reading alone, whatever a server does to the folder meanwhile.

No server is asked. The store's files are made for crashes: at every instant they are a whole state. All of them are opened
within a few milliseconds; if none was replaced, added or removed between a look before and a look after, they belong
together. From then on the descriptors hold them: a file that is replaced or removed is still read as it was. A journal only
grows at its end, so it is read at once, up to its last whole line.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from persistence.audit_checkpoint import CHECKPOINT, INDEX, KEY
from persistence.changes import PARTS
from persistence.checkpoint import file_name
from persistence.files import PIECE, RESTORE, TEMPORARY, Folder, System
from persistence.journal import journal_generation
from persistence.records import StoreError

AUDIT_FOLDER: Final = "audit"
_FILES: Final = frozenset({*(file_name(part) for part in PARTS), KEY, INDEX, CHECKPOINT})
"""The store's own files, beside journals and sealed segments."""
_ATTEMPTS: Final = 50


@dataclass(frozen=True, slots=True)
class Held:
    """One file: held by its descriptor, or in memory."""

    size: int
    descriptor: int | None
    content: bytes = b""

    def read(self, offset: int, length: int) -> bytes:
        """Some of its bytes."""
        if self.descriptor is None:
            return self.content[offset : offset + length]
        return os.pread(self.descriptor, length, offset)

    def pieces(self) -> Iterator[bytes]:
        """All of its bytes in large pieces. Raises OSError."""
        offset = 0
        while offset < self.size:
            piece = self.read(offset, min(PIECE, self.size - offset))
            if not piece:
                raise OSError("a file became shorter while it was read")
            yield piece
            offset += len(piece)


class Snapshot(Folder):
    """The folder as it was. What would change it is not done."""

    def __init__(self, path: Path, held: Mapping[str, Held], refused: Mapping[str, str]) -> None:
        """``held``: by name, ``audit/000001.json`` included. ``refused``: files that cannot be read, and why."""
        self.path = path
        self.system = System()
        self.held = held
        self.refused = refused

    def names(self) -> list[str]:
        """The names in the folder, sorted."""
        return sorted(name for name in self.held if "/" not in name)

    def subfolder(self, name: str) -> Snapshot:
        """The folder ``name`` in this one."""
        start = f"{name}/"
        held = {path.removeprefix(start): one for path, one in self.held.items() if path.startswith(start)}
        return Snapshot(self.path / name, held, {})

    async def pieces(self, name: str) -> AsyncGenerator[bytes, None]:
        """The file's bytes in large pieces. Raises StoreError where it is missing."""
        for piece in self._find(name).pieces():
            yield piece
            await asyncio.sleep(0)

    async def read(self, name: str) -> bytes:
        """The whole file. Raises StoreError where it is missing."""
        return await asyncio.to_thread(self.read_now, name)

    def read_now(self, name: str, limit: int = -1) -> bytes:
        """The file's first ``limit`` bytes, or all. Raises StoreError where it is missing."""
        held = self._find(name)
        return b"".join(held.pieces()) if limit < 0 else held.read(0, limit)

    def create(self, name: str, _data: bytes) -> None:
        """Raises StoreError: the state would have to be changed before it can be read."""
        raise StoreError(
            f"{self.path / name} is missing: an older version made this store; serve it once first"
        )

    def remove(self, names: Iterable[str]) -> None:
        """What a start would clear away stays."""

    def close(self) -> None:
        """Let go of the files."""
        _let_go(self.held)

    def _find(self, name: str) -> Held:
        try:
            return self.held[name]
        except KeyError:
            raise StoreError(f"{self.path / name} is missing: {RESTORE}") from None


def take_snapshot(path: Path) -> Snapshot:
    """Hold the files of the store in the folder ``path``; blocks, for milliseconds.

    Raises:
        StoreError: There is none, or others may enter it, or it did not keep still.
    """
    for folder in (path, path / AUDIT_FOLDER):
        if not folder.is_dir():
            what = "is missing: there is no store" if not folder.exists() else "is not a folder: move it away"
            raise StoreError(f"{folder} {what}")
    store, audit = Folder(path, system=System()), Folder(path / AUDIT_FOLDER, system=System())
    try:
        for _ in range(_ATTEMPTS):
            before = _identities(path)
            _allow_open_files(len(before))
            held, refused = _hold(store, audit, before)
            if _identities(path) == before:
                return Snapshot(path, held, refused)
            _let_go(held)
    finally:
        audit.close()
        store.close()
    raise StoreError(f"the files of {path} change all the time: try again")


def _identities(path: Path) -> dict[str, int]:
    """Which files there are: an inode that is held open by nobody may be given again, but not within a look.

    What else lies in the store's folder (an editor's copy, a backup) is nothing of the store's.
    """
    found: dict[str, int] = {}
    for folder, start in ((path, ""), (path / AUDIT_FOLDER, f"{AUDIT_FOLDER}/")):
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.endswith(TEMPORARY) and (start or is_of_the_state(entry.name)):
                    found[start + entry.name] = entry.inode()
    return found


def is_of_the_state(name: str) -> bool:
    """Whether a file of that name, in the store's own folder, is one of the store's."""
    return name in _FILES or journal_generation(name) is not None


def _hold(store: Folder, audit: Folder, names: Iterable[str]) -> tuple[dict[str, Held], dict[str, str]]:
    held: dict[str, Held] = {}
    refused: dict[str, str] = {}
    for name in sorted(names):
        folder = audit if "/" in name else store
        try:
            descriptor = folder.open_to_read(name.rpartition("/")[2])
        except StoreError as error:
            refused[name] = str(error)
            continue
        held[name] = Held(os.fstat(descriptor).st_size, descriptor)
        if journal_generation(name) is not None:
            held[name] = _whole_lines(held[name])
            os.close(descriptor)
    return held, refused


def _whole_lines(journal: Held) -> Held:
    """What is being written at its end, or was torn off, is not of the state."""
    data = journal.read(0, journal.size)
    data = data[: data.rfind(b"\n") + 1] or data
    return Held(len(data), None, data)


def _let_go(held: Mapping[str, Held]) -> None:
    for one in held.values():
        if one.descriptor is not None:
            os.close(one.descriptor)


def _allow_open_files(count: int) -> None:
    """Every sealed segment of the audit is held open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 100
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
