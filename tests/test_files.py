"""Private folders and files: modes, locks, and replacement as a whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from persistence.files import PIECE, Folder, System
from persistence.records import StoreError

ROOT = Path(__file__).resolve().parent.parent

HOLD = """
import sys
from pathlib import Path
from persistence.files import Folder, System
folder = Folder(Path(sys.argv[1]), system=System())
folder.lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path / "store", system=System())
    yield made
    made.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def parts(*pieces: bytes):
    for piece in pieces:
        yield piece


class TestFolder:
    def test_it_is_made_private(self, folder):
        assert mode(folder.path) == 0o700
        assert folder.names() == []

    def test_it_is_made_private_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            Folder(tmp_path / "store", system=System()).close()
        finally:
            os.umask(before)
        assert mode(tmp_path / "store") == 0o700

    @pytest.mark.parametrize("wide", [0o750, 0o701, 0o777])
    def test_a_wider_one_is_refused(self, tmp_path, wide):
        (tmp_path / "store").mkdir()
        (tmp_path / "store").chmod(wide)
        with pytest.raises(StoreError, match=f"mode {wide:04o}.*chmod 700 {tmp_path}/store"):
            Folder(tmp_path / "store", system=System())

    def test_a_file_in_its_place_is_refused(self, tmp_path):
        (tmp_path / "store").write_text("")
        with pytest.raises(StoreError, match="not a folder; move it away"):
            Folder(tmp_path / "store", system=System())

    def test_its_parent_must_be_there(self, tmp_path):
        with pytest.raises(StoreError, match="no such file"):
            Folder(tmp_path / "no" / "store", system=System())

    async def test_it_stays_the_same_when_it_is_moved(self, folder, tmp_path):
        folder.path.rename(tmp_path / "moved")
        folder.path.mkdir()
        await folder.replace("a", parts(b"1"))
        assert (tmp_path / "moved" / "a").read_bytes() == b"1"

    def test_closing_twice_is_closing_once(self, folder):
        folder.close()
        folder.close()


class TestLock:
    def test_a_second_holder_is_refused(self, folder):
        folder.lock()
        other = Folder(folder.path, system=System())
        with pytest.raises(StoreError, match=f"{folder.path} is in use by process {os.getpid()}: stop it"):
            other.lock()
        folder.close()
        other.lock()
        other.close()

    def test_another_process_is_named_and_its_death_frees_the_lock(self, folder):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder.path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout.readline() == b"locked\n"
            with pytest.raises(StoreError, match=f"in use by process {holder.pid}"):
                folder.lock()
            holder.kill()
        folder.lock()

    def test_rubbish_in_the_lock_file_is_not_repeated(self, folder):
        (folder.path / "lock").write_bytes(b"\xff\x1b[31m")
        (folder.path / "lock").chmod(0o600)
        folder.lock()
        (folder.path / "lock").write_bytes(b"\xff\x1b[31m")
        other = Folder(folder.path, system=System())
        with pytest.raises(StoreError, match="in use by another process"):
            other.lock()
        other.close()


class TestFiles:
    async def test_a_file_is_made_private_and_replaced(self, folder):
        before = os.umask(0)
        try:
            assert await folder.replace("a", parts(b"one", b"", b"two")) == 6
        finally:
            os.umask(before)
        assert mode(folder.path / "a") == 0o600
        assert await folder.read("a") == b"onetwo"
        await folder.replace("a", parts())
        assert await folder.read("a") == b""
        assert folder.names() == ["a"]

    async def test_large_ones(self, folder):
        data = os.urandom(3 * PIECE + 17)
        await folder.replace("a", parts(data[:5], data[5 : PIECE + 5], data[PIECE + 5 :]))
        assert await folder.read("a") == data
        assert b"".join([piece async for piece in folder.pieces("a")]) == data
        assert folder.read_now("a", 10) == data[:10]

    async def test_readers_see_the_old_or_the_new(self, folder):
        await folder.replace("a", parts(b"old"))
        seen = []

        async def slow():
            yield b"ne"
            seen.append((folder.path / "a").read_bytes())
            yield b"w"

        await folder.replace("a", slow())
        assert [*seen, await folder.read("a")] == [b"old", b"new"]

    async def test_what_fails_leaves_the_old(self, folder):
        await folder.replace("a", parts(b"old"))

        async def broken():
            yield b"new"
            raise OSError(errno.EIO, "broken")

        with pytest.raises(OSError, match="broken"):
            await folder.replace("a", broken())
        assert folder.names() == ["a"]
        assert await folder.read("a") == b"old"

    async def test_a_cancelled_replacement_leaves_the_old(self, folder):
        await folder.replace("a", parts(b"old"))
        begun = asyncio.Event()

        async def endless():
            while True:
                begun.set()
                yield bytes(PIECE)
                await asyncio.sleep(0)

        replacing = asyncio.create_task(folder.replace("a", endless()))
        await begun.wait()
        replacing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replacing
        assert folder.names() == ["a"]
        assert await folder.read("a") == b"old"

    @pytest.mark.parametrize("wide", [0o640, 0o604, 0o666])
    async def test_a_wider_one_is_refused(self, folder, wide):
        await folder.replace("a", parts(b"x"))
        (folder.path / "a").chmod(wide)
        with pytest.raises(StoreError, match=f"mode {wide:04o}.*chmod 600 {folder.path}/a"):
            await folder.read("a")

    async def test_links_and_folders_are_refused(self, folder, tmp_path):
        (tmp_path / "elsewhere").write_bytes(b"x")
        (folder.path / "link").symlink_to(tmp_path / "elsewhere")
        (folder.path / "folder").mkdir()
        with pytest.raises(StoreError, match="link cannot be opened: it is a symbolic link"):
            await folder.read("link")
        with pytest.raises(StoreError, match="folder is not a file"):
            await folder.read("folder")

    async def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(self, folder, tmp_path):
        (tmp_path / "elsewhere").write_bytes(b"x")
        (folder.path / "a.tmp").symlink_to(tmp_path / "elsewhere")
        await folder.replace("a", parts(b"new"))
        assert (tmp_path / "elsewhere").read_bytes() == b"x"
        assert await folder.read("a") == b"new"

    async def test_a_missing_one_is_named(self, folder):
        with pytest.raises(
            StoreError, match=f"{folder.path}/a cannot be opened: no such file.*ostiary restore FILE"
        ):
            await folder.read("a")

    def test_create_remove_and_cut(self, folder):
        folder.create("a", b"12345")
        assert mode(folder.path / "a") == 0o600
        folder.cut("a", 3)
        descriptor = folder.open_to_append("a")
        os.write(descriptor, b"6")
        os.close(descriptor)
        assert folder.read_now("a") == b"1236"
        folder.remove(["a", "never there"])
        assert folder.names() == []

    async def test_the_order_of_what_makes_it_durable(self, folder):
        calls: list[str] = []

        class Recording(System):
            def fsync(self, descriptor: int) -> None:
                calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
                super().fsync(descriptor)

            def rename(self, source: str, target: str, folder: int) -> None:
                calls.append(f"rename {source} {target}")
                super().rename(source, target, folder)

        folder.system = Recording()
        await folder.replace("a", parts(b"x"))
        folder.create("b", b"y")
        assert calls == [
            *("fsync file", "rename a.tmp a", "fsync folder"),
            *("fsync file", "rename b.tmp b", "fsync folder"),
        ]
