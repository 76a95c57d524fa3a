"""Files that nobody else may read, as the client keeps them."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.client.errors import ClientError
from gateway.client.private_folder import PrivateFolder


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path, told: list[str]) -> PrivateFolder:
    return PrivateFolder(tmp_path / "kept", warn=told.append)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_file_and_its_folder_are_the_owners_alone_whatever_the_umask(
    folder: PrivateFolder, umask: int
) -> None:
    before = os.umask(umask)
    try:
        folder.write("token", b"one")
    finally:
        os.umask(before)
    assert (_mode(folder.path), _mode(folder.path / "token")) == (0o700, 0o600)
    assert folder.read("token") == b"one"
    assert [path.name for path in folder.path.iterdir()] == ["token"]


def test_a_file_is_never_wider_and_never_half(folder: PrivateFolder) -> None:
    """Whoever looks while it is replaced, again and again, sees one whole content or the other, and one mode."""
    contents = {b"a" * 50_000, b"b" * 70_000}
    folder.write("token", b"a" * 50_000)
    seen: set[int] = set()
    torn: list[bytes] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for path in folder.path.iterdir():
                try:
                    seen.add(_mode(path))
                except FileNotFoundError:
                    continue
            content = (folder.path / "token").read_bytes()
            if content not in contents:
                torn.append(content)

    before = os.umask(0)
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            for content in contents:
                folder.write("token", content)
    finally:
        stop.set()
        watcher.join()
        os.umask(before)
    assert (seen, torn) == ({0o600}, [])


def test_what_is_found_wider_is_narrowed_with_a_warning(folder: PrivateFolder, told: list[str]) -> None:
    folder.write("token", b"one")
    (folder.path / "token").chmod(0o644)
    folder.path.chmod(0o755)
    assert folder.read("token") == b"one"
    assert (_mode(folder.path), _mode(folder.path / "token")) == (0o700, 0o600)
    assert len(told) == 2
    assert "had mode 0755" in told[0]
    assert "had mode 0644" in told[1]
    assert folder.read("token") == b"one"
    assert len(told) == 2


def test_a_link_a_folder_and_somebody_elses_file_are_refused(folder: PrivateFolder, tmp_path: Path) -> None:
    folder.write("other", b"x")
    (tmp_path / "elsewhere").write_bytes(b"stolen")
    (folder.path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClientError, match="symbolic link"):
        folder.read("token")
    folder.write("token", b"mine")  # replaces the link, and leaves alone what it named
    assert (tmp_path / "elsewhere").read_bytes() == b"stolen"
    (folder.path / "name").mkdir()
    with pytest.raises(ClientError, match="not a file"):
        folder.read("name")
    os.mkfifo(folder.path / "pipe", 0o600)
    with pytest.raises(ClientError, match="not a file"):
        folder.read("pipe")
    if os.geteuid() == 0:
        os.chown(folder.path / "token", 12345, 12345)
        with pytest.raises(ClientError, match="another user"):
            folder.read("token")


def test_where_there_are_no_modes_nothing_fails(tmp_path: Path, told: list[str]) -> None:
    folder = PrivateFolder(tmp_path / "kept", warn=told.append, modes=False)
    folder.write("token", b"one")
    (folder.path / "token").chmod(0o644)
    folder.write("token", b"two")
    assert (folder.read("token"), told) == (b"two", [])
    folder.remove("token")
    folder.remove("token")
    assert folder.read("token") is None


def test_a_home_that_is_not_there_is_named(tmp_path: Path, told: list[str]) -> None:
    folder = PrivateFolder(tmp_path / "missing" / "kept", warn=told.append)
    assert folder.read("token") is None
    with pytest.raises(ClientError, match="kept: no such file"):
        folder.write("token", b"one")
