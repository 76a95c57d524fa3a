"""System calls that fail: what is acknowledged stays, what is not is said not to be."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest

from persistence import StoreError
from persistence.files import System
from persistence.records import (
    AuditStatus,
)
from tests.stores import TIME, client, crashed, entries, entry, opened, state, store, token, until

RECOVERY = 0.001
"""A pause before recoveries that a test can wait for."""


class Faulty(System):
    """Fails the named call once, as often as asked; then goes on."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.sick: set[str] = set()
        """Calls that fail until ``heal``."""
        self.calls: dict[str, int] = {}
        self.short = 0
        """At most so many bytes are taken by a write; 0: all."""

    def fail(self, call: str, error: int = errno.EIO) -> None:
        self.failing[call] = error

    def heal(self) -> None:
        """Nothing fails any more."""
        self.failing.clear()
        self.sick.clear()

    def _enter(self, call: str) -> None:
        self.calls[call] = self.calls.get(call, 0) + 1
        error = errno.EIO if call in self.sick else self.failing.pop(call, None)
        if error is not None:
            raise OSError(error, os.strerror(error))

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.short and len(data) > self.short:
            return super().write(descriptor, data[: self.short])
        self._enter("write")
        return super().write(descriptor, data)

    def fdatasync(self, descriptor: int) -> None:
        self._enter("fdatasync")
        super().fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        self._enter("fsync")
        super().fsync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        self._enter("truncate")
        super().truncate(descriptor, length)

    def rename(self, source: str, target: str, folder: int) -> None:
        self._enter("rename")
        super().rename(source, target, folder)

    def unlink(self, name: str, folder: int) -> None:
        self._enter("unlink")
        super().unlink(name, folder)


class TestFaults:
    @pytest.mark.parametrize(
        ("call", "error"), [("write", errno.ENOSPC), ("write", errno.EIO), ("fdatasync", errno.EIO)]
    )
    async def test_a_write_that_fails_is_not_acknowledged_and_nothing_more_is_taken(
        self, tmp_path, call, error
    ):
        system = Faulty()
        stores = await opened(tmp_path / "s", system=system)
        await stores.tokens.put(token("t1"))
        begun = await stores.audit.begin(entry("open"))
        synced = system.calls["fdatasync"]
        system.fail(call, error)
        waiting = [
            asyncio.create_task(stores.tokens.put(token("t1", revoked_at=TIME))),
            asyncio.create_task(stores.clients.put(client("a"))),
            asyncio.create_task(stores.audit.append(entry("lost"))),
        ]
        for answer in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(answer, StoreError)
            assert "journal-000000001.log" in str(answer)
        assert not stores.healthy
        assert stores.tokens.get("t1") == token("t1")
        assert stores.clients.get("a") is None
        assert await entries(stores) == []
        for write in (
            stores.tokens.put(token("t2")),
            stores.audit.append(entry("x")),
            stores.clients.put(client("b")),
        ):
            with pytest.raises(StoreError):
                await write
        with pytest.raises(StoreError):
            begun.finish(AuditStatus.OK, timestamp=TIME, duration_ms=1.0)
        assert system.calls["fdatasync"] == synced + (call == "fdatasync")
        await stores.close()
        async with store(tmp_path / "s") as stores:
            assert stores.healthy
            assert stores.tokens.get("t1") == token("t1")
            assert [(e.target, e.reason) for e in await entries(stores)] == [("open", "interrupted")]

    async def test_short_writes(self, tmp_path):
        system = Faulty()
        system.short = 7
        async with store(tmp_path / "s", system=system) as stores:
            await stores.tokens.put(token("t1"))
            copy = crashed(tmp_path / "s", tmp_path / "copy")
        async with store(copy) as stores:
            assert stores.tokens.get("t1") == token("t1")

    async def test_a_disk_that_fills_in_the_middle_of_a_frame(self, tmp_path):
        system = Faulty()
        async with store(tmp_path / "s", system=system) as stores:
            await stores.tokens.put(token("t1"))
            system.short = 20
            system.fail("write", errno.ENOSPC)
            with pytest.raises(StoreError, match="No space left"):
                await stores.tokens.put(token("t2"))
        async with store(tmp_path / "s") as stores:
            assert state(stores) == ({}, {"t1": token("t1")})
            assert await entries(stores) == []  # the part that was written was cut off at once

    @pytest.mark.parametrize("call", ["fsync", "rename", "unlink"])
    async def test_a_checkpoint_that_fails_loses_nothing(self, tmp_path, call, caplog):
        system = Faulty()
        stores = await opened(tmp_path / "s", system=system, pause=0.001, segment_bytes=1000)
        for number in range(5):
            stores.audit.append_soon(entry(str(number)))
        system.fail(call)
        await stores.tokens.put(token("t1"))
        await until(lambda: call not in system.failing)
        await stores.tokens.put(token("t2"))
        assert stores.healthy
        copy = crashed(tmp_path / "s", tmp_path / "copy")
        await stores.close()
        assert "no checkpoint" in caplog.text
        for folder in (copy, tmp_path / "s"):
            async with store(folder) as again:
                assert state(again)[1] == {"t1": token("t1"), "t2": token("t2")}
                assert [e.target for e in await entries(again)] == ["0", "1", "2", "3", "4"]
        assert list(tmp_path.rglob("*.tmp")) == []

    @pytest.mark.parametrize("call", ["fsync", "rename"])
    async def test_a_store_that_cannot_be_made_says_so(self, tmp_path, call):
        system = Faulty()
        system.fail(call)
        with pytest.raises(StoreError, match="Input/output error"):
            await opened(tmp_path / "s", system=system)
        async with store(tmp_path / "s") as stores:
            assert state(stores) == ({}, {})


class TestRecovery:
    @pytest.mark.parametrize("call", ["write", "fdatasync"])
    async def test_it_takes_writes_again_by_itself(self, tmp_path, call):
        system = Faulty()
        async with store(tmp_path / "s", system=system, recovery_pause=RECOVERY) as stores:
            await stores.tokens.put(token("t1"))
            begun = await stores.audit.begin(entry("call"))
            system.sick.add(call)
            with pytest.raises(StoreError):
                await stores.tokens.put(token("t2"))
            with pytest.raises(StoreError, match="it goes on by itself"):
                begun.finish(AuditStatus.OK, timestamp=TIME, duration_ms=2.0)
            tried = system.calls[call]
            await until(lambda: system.calls[call] > tried + 3)
            assert not stores.healthy
            assert state(stores) == ({}, {"t1": token("t1")})
            system.heal()
            await until(lambda: stores.healthy)
            await stores.tokens.put(token("t3"))
            await stores.audit.append(entry("after"))
            copy = crashed(tmp_path / "s", tmp_path / "copy")
        for folder in (copy, tmp_path / "s"):
            async with store(folder) as stores:
                assert state(stores)[1] == {"t1": token("t1"), "t3": token("t3")}
                found = [(e.event, e.target, e.status, e.reason) for e in await entries(stores)]
                assert found == [
                    ("store_recovered", None, "ok", "write_failed"),
                    ("tool_call", "call", "ok", None),
                    ("tool_call", "after", "ok", None),
                ]

    async def test_it_fails_twice(self, tmp_path):
        system = Faulty()
        async with store(tmp_path / "s", system=system, recovery_pause=RECOVERY) as stores:
            for number in range(5):
                system.fail("fdatasync")
                with pytest.raises(StoreError):
                    await stores.tokens.put(token("lost"))
                await until(lambda: stores.healthy)
                await stores.tokens.put(token(f"t{number}"))
        async with store(tmp_path / "s") as stores:
            assert set(state(stores)[1]) == {f"t{number}" for number in range(5)}

    async def test_what_could_not_even_be_cut_off_does_not_come_back(self, tmp_path):
        """The failed frame is whole on disk, and a crash comes at any instant of the recovery."""
        folder = tmp_path / "s"
        copies: list[Path] = []

        class Copying(Faulty):
            def copy(self) -> None:
                if "truncate" in self.sick:
                    with contextlib.suppress(shutil.Error):  # a temporary file may go while it is copied
                        copies.append(crashed(folder, tmp_path / f"copy{len(copies)}"))

            def fdatasync(self, descriptor: int) -> None:
                super().fdatasync(descriptor)
                self.copy()

            def rename(self, source: str, target: str, descriptor: int) -> None:
                if not source.startswith("journal"):
                    self.copy()
                super().rename(source, target, descriptor)

            def unlink(self, name: str, descriptor: int) -> None:
                self.copy()
                super().unlink(name, descriptor)

        system = Copying()
        async with store(folder, system=system, recovery_pause=RECOVERY) as stores:
            await stores.tokens.put(token("t1"))
            await stores.audit.append(entry("one"))
            system.sick = {"truncate"}
            system.fail("fdatasync")
            with pytest.raises(StoreError):
                await asyncio.gather(stores.tokens.put(token("t2")), stores.audit.append(entry("two")))
            assert b"t2" in (folder / "journal-000000001.log").read_bytes()
            await until(lambda: stores.healthy)
            system.heal()
        assert len(copies) > 3
        for copy in copies:
            async with store(copy) as stores:
                assert state(stores) == ({}, {"t1": token("t1")})
                assert [e.target for e in await entries(stores) if e.event == "tool_call"] == ["one"]

    async def test_a_store_may_be_closed_while_it_recovers(self, tmp_path):
        system = Faulty()
        stores = await opened(tmp_path / "s", system=system)
        await stores.tokens.put(token("t1"))
        system.sick = {"write"}
        with pytest.raises(StoreError):
            await stores.tokens.put(token("t2"))
        await stores.close()
        async with store(tmp_path / "s") as stores:
            assert state(stores)[1] == {"t1": token("t1")}

    async def test_a_fault_in_the_program_is_final(self, tmp_path, monkeypatch):
        """Then memory may not be what was acknowledged: nothing is written down from it."""
        stores = await opened(tmp_path / "s", recovery_pause=RECOVERY, pause=0.001)
        await stores.tokens.put(token("t1"))
        monkeypatch.setattr(stores.tokens, "apply", lambda _change: 1 / 0)
        with pytest.raises(StoreError, match="restart"):
            await stores.tokens.put(token("t2"))
        await asyncio.sleep(0.05)
        assert not stores.healthy
        await stores.close()
        async with store(tmp_path / "s") as stores:
            assert stores.tokens.get("t1") == token("t1")
