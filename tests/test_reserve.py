"""How much room is kept on the store's disk, and for whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistence.files import Folder, System
from persistence.reserve import RESERVE_BYTES, Reserve

GIB = 1 << 30


class Disk(System):
    """With as much room as a test says."""

    def __init__(self) -> None:
        self.answer: tuple[int, int] | OSError = (10 * GIB, 100 * GIB)
        self.looked = 0

    def room(self, _descriptor: int) -> tuple[int, int]:
        self.looked += 1
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def folder(tmp_path: Path, disk: Disk) -> Folder:
    tmp_path.chmod(0o700)
    return Folder(tmp_path, system=disk)


@pytest.mark.parametrize(
    ("free", "total", "untouched"),
    [
        (RESERVE_BYTES + 1, 100 * GIB, True),
        (RESERVE_BYTES, 100 * GIB, False),
        (0, 100 * GIB, False),
        (RESERVE_BYTES // 4 + 1, RESERVE_BYTES, True),
        (RESERVE_BYTES // 4, RESERVE_BYTES, False),
    ],
)
def test_what_is_kept(folder: Folder, disk: Disk, free: int, total: int, untouched: bool) -> None:
    disk.answer = (free, total)
    assert Reserve(folder, now=lambda: 0.0).untouched() is untouched


def test_a_checkpoint_has_its_room_beside_it(folder: Folder, disk: Disk, tmp_path: Path) -> None:
    disk.answer = (RESERVE_BYTES + 5000, 100 * GIB)
    (tmp_path / "tokens.json").write_bytes(bytes(4999))
    assert Reserve(folder, now=lambda: 0.0).untouched()
    (tmp_path / "clients.json").write_bytes(bytes(1))
    assert not Reserve(folder, now=lambda: 0.0).untouched()


def test_a_disk_that_cannot_be_asked_has_no_room(folder: Folder, disk: Disk) -> None:
    disk.answer = OSError("gone")
    assert not Reserve(folder, now=lambda: 0.0).untouched()


def test_a_flood_looks_once_a_second(folder: Folder, disk: Disk) -> None:
    clock = [0.0]
    reserve = Reserve(folder, now=lambda: clock[0])
    for _ in range(1000):
        reserve.untouched()
    assert disk.looked == 1
    clock[0] = 1.0
    disk.answer = (0, 100 * GIB)
    assert not reserve.untouched()
