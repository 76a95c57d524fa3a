"""The json backend: JSON files that are checkpoints, one for each part, and the journal that follows them.

The promises, and how they are kept:

- A write is acknowledged, and seen by readers, once it is in the journal on disk; memory never shows what the disk does
  not have.
- A checkpoint goes over to a new journal generation, then replaces the files of the parts that changed, each naming that
  generation, then removes the older generations. A crash at any instant leaves each file with all the journals that
  follow it: a part is replayed from the generation that its file names. A part that did not change keeps its file; the
  new journal's first change says so, so that a missing journal is still noticed.
- A part that a newer version brought has no file yet in an older store: it is empty, until the oldest journal names it.
- Whatever is missing or does not check, but for a torn journal tail, stops the start. Only a folder with none of the
  files in it is a new installation, and only whoever opens it with ``create`` may make one where it pleases.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from persistence import checkpoint
from persistence.audit_archive import AuditArchive
from persistence.audit_log import AuditLog
from persistence.changes import (
    AUDIT,
    CLIENTS,
    PARTS,
    TOKENS,
    Bases,
    Change,
    ClientPut,
    ClientRemoved,
    CollectionChanged,
    EntryAdded,
    IntentBegun,
    TokensPut,
)
from persistence.checkpoint import AuditFile, ClientsFile, file_name
from persistence.checkpointer import PAUSE, RECOVERY_PAUSE, SEGMENT_BYTES, Checkpointer
from persistence.clients import JsonClients
from persistence.collection import JsonCollection
from persistence.files import LOCK, RESTORE, TEMPORARY, Folder, System
from persistence.journal import Journal, journal_generation, journal_name
from persistence.protocols import Collection
from persistence.records import KINDS, AuditEntry, AuditStatus, Kind, RecordT, StoreError
from persistence.reserve import Reserve
from persistence.tokens import JsonTokens

log = logging.getLogger("ostiary.storage")

_AUDIT_FOLDER: Final = "audit"
_INITIALISING: Final = "initialising"
"""A file that is there while a new store is being made, before anything can be acknowledged."""
_BEFORE_ANY_FILE: Final = frozenset({LOCK, _AUDIT_FOLDER, _INITIALISING, _INITIALISING + TEMPORARY})
"""What a crash may leave of a store before the first of its files is there."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Figures of a running store."""

    journal_generation: int
    journal_bytes: int
    journal_batches: int
    """Since the start; one fdatasync each."""
    journal_records: int
    """Since the start."""
    checkpoints: int
    """Since the start."""
    last_checkpoint_seconds: float
    clients: int
    tokens: int


def missing_store(path: Path) -> str | None:
    """Why ``path`` is not to be opened but by whoever makes new stores; None: it may be.

    A folder that is missing, or that holds only other things, is a mistyped path, or a disk that was not mounted. An
    empty one was made for a store (by an installer, a container's volume), and becomes one.
    """
    try:
        names = os.listdir(path)  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        names = None
    except OSError:
        return None  # opening it tells why
    if names is not None and (set(names) <= _BEFORE_ANY_FILE or any(map(_is_ours, names))):
        return None
    return f"no store at {path}: `ostiary init` makes one, or mend [storage] path"


class JsonStores:
    """``Stores`` of the json backend. Made by ``open``."""

    def __init__(
        self,
        folder: Folder,
        *,
        now: Callable[[], float],
        segment_bytes: int,
        pause: float,
        recovery_pause: float,
        checkpoint_file: Path | None,
    ) -> None:
        self._folder = folder
        self._now = now
        self._audit_folder = folder.subfolder(_AUDIT_FOLDER)
        self._journal = Journal(folder)
        self.clients = JsonClients(self._journal)
        self.tokens = JsonTokens(self._journal, on_purge=self._wake)
        self._collections: dict[str, JsonCollection[Any]] = {
            kind.name: JsonCollection(kind, self._journal) for kind in KINDS
        }
        self._archive = AuditArchive(
            folder, self._audit_folder, timestamp=self._timestamp, checkpoint_file=checkpoint_file
        )
        self.audit = AuditLog(
            self._journal, self._archive, on_change=self._wake, has_room=Reserve(folder, now=now).untouched
        )
        self._checkpointer = Checkpointer(
            folder,
            self._journal,
            clients=self.clients,
            tokens=self.tokens,
            audit=self.audit,
            collections=self._collections,
            segment_bytes=segment_bytes,
            pause=pause,
            recovery_pause=recovery_pause,
            on_recovery=self._healthy_again,
        )
        self._closer: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        now: Callable[[], float],
        create: bool = True,
        system: System | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        pause: float = PAUSE,
        recovery_pause: float = RECOVERY_PAUSE,
        checkpoint_file: Path | None = None,
    ) -> JsonStores:
        """Open the store in the folder ``path``; an empty folder becomes a new one.

        ``create``: so does a missing folder, and one with other things in it (``missing_store`` says why not to do so
        unasked). ``now``: seconds since the epoch. ``system``: the system calls that make bytes durable. ``segment_bytes``: size
        of the newest audit segment from which on it is sealed. ``pause``: seconds between a write and its checkpoint.
        ``recovery_pause``: seconds from a write that failed to the first attempt to go on. ``checkpoint_file``: where the
        audit's signed checkpoint is published, too.

        Raises:
            StoreError: It is not there, in use, damaged, of another version, not private, or cannot be read or written.
        """
        missing = None if create else missing_store(path)
        if missing is not None:
            raise StoreError(missing)
        folder = Folder(path, system=system or System())
        try:
            folder.lock()
            stores = cls(
                folder,
                now=now,
                segment_bytes=segment_bytes,
                pause=pause,
                recovery_pause=recovery_pause,
                checkpoint_file=checkpoint_file,
            )
        except BaseException:
            folder.close()
            raise
        try:
            await stores._open()
        except BaseException as error:
            await stores._let_go()
            if isinstance(error, OSError):
                raise StoreError(f"the store {path} cannot be opened: {error}") from error
            raise
        return stores

    @classmethod
    async def read_only(cls, folder: Folder) -> JsonStores:
        """The state that is in ``folder``, for reading alone: no lock is taken and nothing is written.

        Raises:
            StoreError: It is damaged, or of another version.
        """
        stores = cls(
            folder,
            now=lambda: 0.0,
            segment_bytes=SEGMENT_BYTES,
            pause=PAUSE,
            recovery_pause=RECOVERY_PAUSE,
            checkpoint_file=None,
        )
        await stores._read()
        stores.audit.check()
        return stores

    @classmethod
    async def unmade_parts(cls, folder: Folder) -> frozenset[str]:
        """The parts that the version which wrote the store did not have: a start makes their files."""
        journal = Journal(folder)
        try:
            journals, _ = await journal.read(journal.generations())
        except StoreError:
            return frozenset()
        return _unmade(journals, folder.names())

    def collection(self, kind: Kind[RecordT]) -> Collection[RecordT]:
        """The records of that kind."""
        return self._collections[kind.name]

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def healthy(self) -> bool:
        """Whether writes are being taken."""
        return self._journal.healthy

    def stats(self) -> StoreStats:
        """Figures for metrics."""
        journal = self._journal
        return StoreStats(
            journal_generation=journal.generation,
            journal_bytes=journal.bytes,
            journal_batches=journal.batches,
            journal_records=journal.records,
            checkpoints=self._checkpointer.count,
            last_checkpoint_seconds=self._checkpointer.last_seconds,
            clients=len(self.clients),
            tokens=len(self.tokens),
        )

    async def close(self) -> None:
        """End open intents as ``interrupted``, write the last checkpoint and let go of the files.

        May be called twice. A checkpoint that cannot be written is logged: the journal has everything. Reads still
        answer afterwards; writes raise StoreError.
        """
        if self._closer is None:
            self._closer = asyncio.get_running_loop().create_task(self._close(), name="store-close")
        await asyncio.shield(self._closer)

    async def _close(self) -> None:
        await self._journal.settle()
        if self._journal.healthy:
            self.audit.interrupt()
        self._journal.refuse()
        await self._journal.settle()
        await self._let_go()

    async def _let_go(self) -> None:
        await self._checkpointer.stop()
        await self._journal.close()
        self._audit_folder.close()
        self._folder.close()

    # ---- opening -----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._make_if_new()
        torn = await self._read()
        self.audit.check()
        self._journal.start(self._durable, self._checkpointer.failed)
        self.audit.replayed()
        if self.audit.begins_chain:
            # Until its lines are on disk as they are now in the chain, no entry may follow them.
            await self._checkpointer.write_now()
        if torn:
            self.audit.append_soon(self._recovered("torn_tail"))
        if self._archive.upgraded:
            self.audit.append_soon(self._upgraded())
        interrupted = self.audit.interrupt()
        if interrupted:
            log.warning("%d actions were interrupted when the store was last in use", interrupted)
        await self._journal.settle()
        if not self._journal.healthy:
            raise StoreError(f"the store {self._folder.path} cannot be written")
        self.tokens.purge(self._now())
        self._checkpointer.start()

    async def _make_if_new(self) -> None:
        """The last thing made is what takes ``initialising`` away; before that, nothing can have been acknowledged."""
        _remove_leftovers(self._folder)
        _remove_leftovers(self._audit_folder)
        names = self._folder.names()
        if _INITIALISING in names:
            self._check_nothing_there()
        elif any(map(_is_ours, names)) or self._audit_folder.names():
            return
        self._folder.create(_INITIALISING, b"")
        self._archive.create()
        await self._checkpointer.write_first()
        self._journal.create_first()
        self._folder.remove([_INITIALISING])

    def _check_nothing_there(self) -> None:
        """Making the store was interrupted: then it holds nothing yet."""
        if not self._journal.unused() or self._audit_folder.names():
            path = self._folder.path / _INITIALISING
            raise StoreError(f"{path} says that the store is new, but it is not: remove that file")

    async def _read(self) -> bool:
        """Take over the files, then the journals; whether there is a torn tail."""
        generations = self._journal.generations()
        journals, torn = await self._journal.read(generations)
        await self._load()
        for part in (self.clients, self.tokens, self.audit):
            part.changed = False
        await self._load_collections(generations, journals)
        self._replay(generations, journals)
        return torn

    async def _load_collections(self, generations: Sequence[int], journals: Sequence[list[Change]]) -> None:
        """A collection without a file is damage, but where the oldest journal does not know it yet."""
        unmade = _unmade(journals, self._folder.names())
        for name, collection in self._collections.items():
            if name in unmade:
                self._checkpointer.bases[name] = generations[0]
                collection.changed = True
                continue
            self._checkpointer.bases[name], records = await checkpoint.read_collection(
                self._folder, collection.kind
            )
            collection.load(records)

    async def _load(self) -> None:
        clients = await self._decode(CLIENTS, ClientsFile)
        path = self._folder.path / file_name(CLIENTS)
        for record in clients.clients:
            if self.clients.get(record.client_id) is not None:
                raise StoreError(f"{path} has client {record.client_id!r} twice: {RESTORE}")
            try:
                self.clients.check(record)
            except StoreError as error:
                raise StoreError(f"{path}: {error}: {RESTORE}") from error
            self.clients.apply(ClientPut(record))
        self._checkpointer.bases[TOKENS], tokens = await checkpoint.read_tokens(self._folder)
        self.tokens.load(tokens)
        audit = await self._decode(AUDIT, AuditFile)
        await self._archive.open(audit.segment, audit.first_seq, audit.prev)
        try:
            self.audit.load(audit)
        except checkpoint.UNREADABLE as error:
            path = self._folder.path / file_name(AUDIT)
            raise StoreError(f"{path} is damaged ({error}): {RESTORE}") from error

    async def _decode(self, part: str, shape: type[checkpoint.FileT]) -> checkpoint.FileT:
        name = file_name(part)
        found = checkpoint.decode(await self._folder.read(name), shape, self._folder.path / name)
        self._checkpointer.bases[part] = found.journal
        return found

    def _replay(self, generations: Sequence[int], journals: Sequence[list[Change]]) -> None:
        """Apply the journals to each part from the one that its file needs on."""
        first = {part: self._first_needed(part, generations, journals) for part in PARTS}
        for generation, changes in zip(generations, journals, strict=True):
            wanted = {part for part in PARTS if generation >= first[part]}
            if AUDIT in wanted:
                self.audit.generation_begins(generation)
            try:
                self._apply(change for change in changes if _known_part(change) in wanted)
            except checkpoint.UNREADABLE as error:
                path = self._folder.path / journal_name(generation)
                raise StoreError(
                    f"{path} holds what this version of Ostiary does not read: {error}"
                ) from error

    def _first_needed(self, part: str, generations: Sequence[int], journals: Sequence[list[Change]]) -> int:
        named = self._checkpointer.bases[part]
        if named in generations:
            return named
        for generation, changes in zip(generations, journals, strict=True):
            if changes and isinstance(changes[0], Bases) and changes[0].generations.get(part) == named:
                return generation
        missing = self._folder.path / journal_name(named)
        raise StoreError(f"{missing} is missing, and {file_name(part)} needs it: {RESTORE}")

    def _recovered(self, reason: str) -> AuditEntry:
        return AuditEntry(
            timestamp=self._timestamp(),
            event="store_recovered",
            status=AuditStatus.OK,
            reason=reason,
        )

    def _upgraded(self) -> AuditEntry:
        """The chain begins: from here on everything is signed with a key that is new."""
        return AuditEntry(
            timestamp=self._timestamp(),
            event="admin_change",
            status=AuditStatus.OK,
            method="store.upgrade",
            target=f"audit key {self._archive.key}",
        )

    def _timestamp(self) -> str:
        """Now, as the records have it."""
        timestamp = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
        return timestamp.replace("+00:00", "Z")

    # ---- running -----------------------------------------------------------------------------------------------

    def _durable(self, changes: list[Change]) -> None:
        """The journal has these on disk."""
        self._apply(changes)
        self._wake()

    def _healthy_again(self) -> None:
        """The disk takes writes again: number on from what it has, and enter what was on its way when it failed."""
        self.audit.replayed()
        self.audit.append_soon(self._recovered("write_failed"))
        self.audit.end_again()

    def _wake(self) -> None:
        self._checkpointer.wake()

    def _apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, EntryAdded):
                self.audit.apply(change)
            elif isinstance(change, IntentBegun):
                self.audit.apply_intent(change)
            elif isinstance(change, TokensPut):
                self.tokens.apply(change)
            elif isinstance(change, ClientPut | ClientRemoved):
                self.clients.apply(change)
            elif isinstance(change, CollectionChanged):
                self._collections[change.collection].apply(change)


_PARTS: Final[dict[type, str | None]] = {
    ClientPut: CLIENTS,
    ClientRemoved: CLIENTS,
    TokensPut: TOKENS,
    EntryAdded: AUDIT,
    IntentBegun: AUDIT,
    Bases: None,
}


def _known_part(change: Change) -> str | None:
    """The part that it changes. Raises msgspec.ValidationError where this version has no such part."""
    if not isinstance(change, CollectionChanged):
        return _PARTS[type(change)]
    if change.collection not in PARTS:
        raise msgspec.ValidationError(f"records of {change.collection[:80]!a}")
    return change.collection


def _unmade(journals: Sequence[list[Change]], names: Container[str]) -> frozenset[str]:
    """The collections that the oldest journal does not know, and that have no file."""
    oldest = next(iter(journals), [])
    if not oldest or not isinstance(oldest[0], Bases):
        return frozenset()
    known = oldest[0].generations
    return frozenset(
        kind.name for kind in KINDS if kind.name not in known and file_name(kind.name) not in names
    )


def _is_ours(name: str) -> bool:
    return any(name == file_name(part) for part in PARTS) or journal_generation(name) is not None


def _remove_leftovers(folder: Folder) -> None:
    """Temporary files that a crash left behind."""
    left = [name for name in folder.names() if name.endswith(TEMPORARY)]
    if left:
        folder.remove(left)
