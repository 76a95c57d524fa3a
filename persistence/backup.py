"""A store in one file, back again, and looked through.

A backup is a tar file: ``manifest.json`` first, with the size and SHA-256 of each file, then the files of the store as
they were at one instant (``snapshot``). Before it counts as one it was opened, as a start would open it; before it is put
in its place again, too.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

import msgspec

from persistence import checkpoint, frames
from persistence.audit_checkpoint import INDEX, Index, read_signed
from persistence.audit_segments import segment_of
from persistence.changes import AUDIT, CLIENTS, TOKENS
from persistence.checkpoint import AuditFile, ClientsFile, TokensFile
from persistence.files import PIECE, RESTORE
from persistence.journal import journal_generation
from persistence.json_store import JsonStores
from persistence.records import KINDS, StoreError
from persistence.snapshot import AUDIT_FOLDER, Held, Snapshot, is_of_the_state, take_snapshot

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
_MAX_MANIFEST_BYTES: Final = 64 << 20
_SHAPES: Final[dict[str, type[checkpoint.CheckpointFile]]] = {
    CLIENTS: ClientsFile,
    TOKENS: TokensFile,
    AUDIT: AuditFile,
    **{kind.name: checkpoint.collection_shape(kind) for kind in KINDS},
}


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the store."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a backup."""

    version: int
    made_at: str
    """RFC 3339."""
    clients: int
    tokens: int
    files: tuple[ManifestFile, ...]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file of a store that was looked through."""

    name: str
    bytes: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Checked:
    """A store that was looked through. ``clients`` and ``tokens`` are None where it would not open."""

    files: tuple[CheckedFile, ...]
    problems: tuple[str, ...]
    clients: int | None
    tokens: int | None


# ---- backup --------------------------------------------------------------------------------------------------------


async def back_up(store: Path, target: Path, *, made_at: str) -> Manifest:
    """Write a backup of the store in the folder ``store`` to the file ``target``, beside a running server or without.

    Durable on return, mode 0600.

    Raises:
        StoreError: The store is damaged, or the file is there already.
        OSError: The file cannot be written.
    """
    _refuse_to_overwrite(target)
    with closing(take_snapshot(store)) as snapshot:
        for problem in snapshot.refused.values():
            raise StoreError(problem)
        state = (await JsonStores.read_only(snapshot)).stats()
        await asyncio.to_thread(_refuse_bent_segments, snapshot)
        return await asyncio.to_thread(_write, snapshot, target, made_at, state.clients, state.tokens)


def _write(snapshot: Snapshot, target: Path, made_at: str, clients: int, tokens: int) -> Manifest:
    kept = [(name, held) for name, held in sorted(snapshot.held.items()) if _is_a_stores(name)]
    files = tuple(
        ManifestFile(name=name, bytes=held.size, sha256=_digest(held.pieces())) for name, held in kept
    )
    manifest = Manifest(version=VERSION, made_at=made_at, clients=clients, tokens=tokens, files=files)
    temporary = target.with_name(f".{target.name}.unfinished")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                data = msgspec.json.encode(manifest)
                tar.addfile(_member(MANIFEST, len(data)), io.BytesIO(data))
                for name, held in kept:
                    with _as_file(held) as content:
                        tar.addfile(_member(name, held.size), content)
            file.flush()
            os.fsync(file.fileno())
        _refuse_to_overwrite(target)
        temporary.rename(target)
        _sync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return manifest


def _is_a_stores(name: str) -> bool:
    """Whether a name in a snapshot or a manifest is that of a store's file."""
    folder, _, segment = name.rpartition("/")
    return segment_of(segment) is not None if folder == AUDIT_FOLDER else not folder and is_of_the_state(name)


def _refuse_to_overwrite(target: Path) -> None:
    if target.exists():
        raise StoreError(f"{target} is there already: give the backup another name, or remove that file")


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    return member


def _as_file(held: Held) -> IO[bytes]:
    if held.descriptor is None:
        return io.BytesIO(held.content)
    file = open(os.dup(held.descriptor), "rb")  # noqa: PTH123, SIM115 - a descriptor; the caller closes it
    file.seek(0)
    return file


# ---- restore -------------------------------------------------------------------------------------------------------


async def restore(
    backup: IO[bytes], store: Path, *, enter: Callable[[Path], Awaitable[None]] | None = None
) -> Manifest:
    """Put a backup in the place of the folder ``store``, which must be missing or empty. Durable on return.

    It is unpacked beside it, compared with its checksums and opened for reading first; ``store`` is there as a whole or
    not at all. ``enter`` is called with the folder before it takes its place: what it writes into that store is there with it.

    Raises:
        StoreError: There is a store, or that is no backup, or it is damaged. Nothing was changed.
        OSError: It cannot be read or written.
    """
    store = _empty_place(store)
    unpacked = store.with_name(f"{store.name}.restoring")
    try:
        unpacked.mkdir(mode=0o700)
    except FileExistsError:
        raise StoreError(f"{unpacked} is left from a restore that did not end: remove that folder") from None
    try:
        manifest = await asyncio.to_thread(_unpack, backup, unpacked)
        with closing(take_snapshot(unpacked)) as snapshot:
            await JsonStores.read_only(snapshot)
            await asyncio.to_thread(_refuse_bent_segments, snapshot)
        if enter is not None:
            await enter(unpacked)
        unpacked.rename(store)
        _sync_folder(store.parent)
    except BaseException:
        shutil.rmtree(unpacked, ignore_errors=True)
        raise
    return manifest


def _empty_place(store: Path) -> Path:
    """Where links lead to. Raises StoreError where something is there."""
    store = store.resolve()
    if store.exists() and (not store.is_dir() or any(store.iterdir())):
        raise StoreError(
            f"{store} is not empty, and a restore overwrites nothing: stop the gateway, move that folder away "
            f"(mv {store} {store}.old), then restore again"
        )
    if store.is_mount():
        raise StoreError(
            f"{store} is a mount point, and no folder takes its place: restore to another one on that disk, and name it "
            "as [storage] path"
        )
    return store


def _unpack(backup: IO[bytes], folder: Path) -> Manifest:
    """Raises StoreError where what comes is not what the manifest says."""
    (folder / AUDIT_FOLDER).mkdir(mode=0o700)
    try:
        with tarfile.open(fileobj=backup, mode="r:") as tar:
            manifest = _read_manifest(tar)
            expected = {file.name: file for file in manifest.files}
            while (member := tar.next()) is not None:
                file = expected.pop(member.name, None)
                content = tar.extractfile(member) if member.isreg() else None
                if file is None or content is None or member.size != file.bytes or member.issparse():
                    raise _no_backup(f"{member.name[:100]!r} is not in its manifest")
                if _copy(content, folder / file.name) != file.sha256:
                    raise _no_backup(f"the checksum of {file.name} is wrong")
    except (tarfile.TarError, msgspec.MsgspecError, EOFError) as error:
        raise _no_backup(str(error)) from error
    if expected:
        raise _no_backup(f"{min(expected)} is missing")
    for path in (folder / AUDIT_FOLDER, folder):
        _sync_folder(path)
    return manifest


def _read_manifest(tar: tarfile.TarFile) -> Manifest:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.isreg() else None
    if first is None or content is None or first.name != MANIFEST or first.size > _MAX_MANIFEST_BYTES:
        raise _no_backup("it does not begin with a manifest")
    manifest = msgspec.json.decode(content.read(), type=Manifest)
    if manifest.version != VERSION:
        raise StoreError(
            f"the backup has version {manifest.version}; this version of Ostiary reads version {VERSION}"
        )
    for file in manifest.files:
        if not _is_a_stores(file.name):
            raise _no_backup(f"{file.name[:100]!r} is no name of a store's file")
    return manifest


def _copy(content: IO[bytes], target: Path) -> str:
    """Write a new file, durably; its SHA-256."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
        digest = sha256()
        while piece := content.read(PIECE):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _no_backup(why: str) -> StoreError:
    return StoreError(
        f"that is no backup, or it is damaged ({why}): nothing was restored; take another backup"
    )


# ---- check ---------------------------------------------------------------------------------------------------------


async def check(store: Path) -> Checked:
    """Look through the store in the folder ``store``, beside a running server or without; nothing is changed.

    Raises StoreError where there is none.
    """
    with closing(take_snapshot(store)) as snapshot:
        problems = list(snapshot.refused.values())
        unmade = await JsonStores.unmade_parts(snapshot)
        problems += await asyncio.to_thread(lambda: list(_problems(snapshot, unmade)))
        state = None
        try:
            state = (await JsonStores.read_only(snapshot)).stats()
        except StoreError as error:
            problems.append(str(error))
        names = sorted({*snapshot.held, *snapshot.refused})
        files = tuple(_checked_file(snapshot, name, problems) for name in names)
    problems = list(dict.fromkeys(problems))
    if state is None:
        return Checked(files, tuple(problems), None, None)
    return Checked(files, tuple(problems), state.clients, state.tokens)


def _checked_file(snapshot: Snapshot, name: str, problems: Iterable[str]) -> CheckedFile:
    held = snapshot.held.get(name)
    path = str(snapshot.path / name)
    problem = next((problem for problem in problems if problem.startswith(path)), None)
    return CheckedFile(name, held.size if held is not None else 0, problem)


def _problems(snapshot: Snapshot, missing: Container[str]) -> Iterator[str]:
    """What is wrong with each file by itself: a start stops at the first one.

    ``missing``: the parts that an older version did not have: a start makes their files.
    """
    for part, shape in _SHAPES.items():
        name = checkpoint.file_name(part)
        if part in missing and name not in snapshot.held:
            continue
        try:
            checkpoint.decode(snapshot.read_now(name), shape, snapshot.path / name)
        except StoreError as error:
            yield str(error)
    for name in snapshot.names():
        generation = journal_generation(name)
        if generation is not None:
            try:
                frames.read(snapshot.read_now(name), snapshot.path / name, generation)
            except StoreError as error:
                yield str(error)
    try:
        yield from _bent_segments(snapshot)
    except StoreError as error:
        yield str(error)


def _bent_segments(snapshot: Snapshot) -> Iterator[str]:
    """The sealed segments whose files are not those that the index is signed for. Raises StoreError."""
    index = read_signed(snapshot.read_now(INDEX), Index, snapshot.path / INDEX)
    for record in index.segments:
        held = snapshot.held.get(f"{AUDIT_FOLDER}/{record.file}")
        if held is not None and _digest(held.pieces()) != record.sha256:
            yield f"{snapshot.path / AUDIT_FOLDER / record.file} is damaged: {RESTORE}"


def _refuse_bent_segments(snapshot: Snapshot) -> None:
    """A copy of what is damaged would only take the place of a good one. Raises StoreError."""
    problem = next(_bent_segments(snapshot), None)
    if problem is not None:
        raise StoreError(problem)


def _digest(pieces: Iterable[bytes]) -> str:
    digest = sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
