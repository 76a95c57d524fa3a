"""The audit's checkpoint on another disk: ``[audit] checkpoint_file``. It holds nothing that is secret."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from persistence.audit_checkpoint import Checkpoint, read_signed
from persistence.records import StoreError

log = logging.getLogger("ostiary.storage")

_MODE: Final = 0o644


class Publication:
    """Where a store's checkpoints are published, if anywhere. Everything blocks."""

    def __init__(self, path: Path | None) -> None:
        """``path`` None: nowhere."""
        self._path = path

    def publish(self, checkpoint: bytes) -> None:
        """Put the checkpoint in the place of the one before. One that cannot be is logged: it stops nothing."""
        if self._path is None:
            return
        try:
            _replace(self._path, checkpoint)
        except OSError as error:
            log.error("the audit's checkpoint could not be published at %s: %s", self._path, error)

    def refuse_new(self) -> None:
        """Raises StoreError where an audit was published already: a new store is not that one."""
        found = None if self._path is None else published(self._path)
        if found is not None and found.seq > 0:
            raise self._not_of(found)

    def check(self, mine: Checkpoint, hash_of: Callable[[int], str | None], *, is_new: bool) -> bool:
        """Whether there is one, or none is wanted; a store that is not new and finds none is warned of.

        ``mine``: the store's own. ``hash_of`` an entry of the store; None: it is not there.

        Raises:
            StoreError: What was published is not one of this audit, or is ahead of it.
        """
        if self._path is None:
            return True
        found = published(self._path)
        if found is None:
            if not is_new:
                log.warning(
                    "no checkpoint was published at %s before: if one was, its disk is not there, and an older state of "
                    "the store would not be noticed",
                    self._path,
                )
            return False
        strange = found.key != mine.key or found.seq > mine.seq or found.is_ahead_of(mine)
        if strange or found.hash != hash_of(found.seq):
            raise self._not_of(found)
        return True

    def _not_of(self, found: Checkpoint) -> StoreError:
        return StoreError(
            f"{self._path} is signed for audit entry {found.seq} at {found.signed_at}, which this store does not have: "
            "an older state, or another one, was put in its place; keep that file as evidence, move it away, then start again"
        )


def _replace(path: Path, checkpoint: bytes) -> None:
    """Put the checkpoint in the place of the one before, durably; blocks. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE
    )
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(checkpoint)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def published(path: Path) -> Checkpoint | None:
    """The checkpoint that was published there; None: none was. Raises StoreError where it is damaged or unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{path} is not a file: move it away")
            data = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    return read_signed(data, Checkpoint, path, "keep it as evidence, and move it away or give another one")
