"""The audit's checkpoint on another disk: ``[audit] checkpoint_file``. It holds nothing that is secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from persistence.audit_checkpoint import Checkpoint, read_signed
from persistence.records import StoreError

_MODE: Final = 0o644


def publish(path: Path, checkpoint: bytes) -> None:
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
