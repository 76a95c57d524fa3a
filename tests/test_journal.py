"""The journal: frames on disk, and what a start makes of them."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persistence import StoreError
from persistence import frames as journal_frames
from persistence.changes import PARTS, Bases, Change, ClientPut, TokensPut
from persistence.files import System
from persistence.records import (
    AuditEntry,
    ClientRecord,
    TokenRecord,
)
from tests.stores import TIME, client, entries, journals, opened, state, store, token


class TestFrames:
    CHANGES = ([b'{"a":1}'], [b'{"b":2}', b'{"c":"\\n"}'], [b"3"])
    DATA = journal_frames.header(7) + b"".join(
        journal_frames.frame(n, parts) for n, parts in enumerate(CHANGES, 1)
    )
    PAYLOADS = tuple(b"[" + b",".join(parts) + b"]" for parts in CHANGES)

    def test_a_whole_journal(self):
        read = journal_frames.read(self.DATA, "x.log", 7)
        assert read == journal_frames.Frames(self.PAYLOADS, len(self.DATA), torn=False)

    def test_its_lines_can_be_read_by_eye(self):
        assert self.DATA.splitlines()[2].split(b" ", 3)[1:] == [b"2", b"20", b'[{"b":2},{"c":"\\n"}]']

    def test_cut_anywhere_it_is_a_prefix_or_refused(self):
        first = self.DATA.index(b"\n") + 1
        for end in range(len(self.DATA)):
            if end < first:
                with pytest.raises(StoreError, match=r"x\.log"):
                    journal_frames.read(self.DATA[:end], "x.log", 7)
                continue
            read = journal_frames.read(self.DATA[:end], "x.log", 7)
            assert read.payloads == self.PAYLOADS[: len(read.payloads)]
            assert self.DATA[: read.end].endswith(b"\n")
            assert read.torn == (read.end < end)

    def test_any_byte_changed_is_refused_but_for_the_last_frame(self):
        last = self.DATA.rindex(b"\n", 0, -1) + 1
        for place in range(len(self.DATA)):
            for bit in (1, 0x10, 0x80):
                bad = bytearray(self.DATA)
                bad[place] ^= bit
                if place < last:
                    with pytest.raises(StoreError, match=r"x\.log"):
                        journal_frames.read(bytes(bad), "x.log", 7)
                else:
                    assert journal_frames.read(bytes(bad), "x.log", 7).payloads == self.PAYLOADS[:2]

    @given(st.binary(max_size=60))
    def test_garbage_behind_it_is_torn(self, garbage):
        read = journal_frames.read(self.DATA + garbage, "x.log", 7)
        assert read == journal_frames.Frames(self.PAYLOADS, len(self.DATA), torn=bool(garbage))

    @pytest.mark.parametrize("order", [(0, 2, 3), (0, 1, 1, 2, 3), (0, 2, 1, 3), (0, 1, 2, 3, 3), (1, 2, 3)])
    def test_frames_removed_copied_or_moved_are_refused(self, order):
        lines = self.DATA.splitlines(keepends=True)
        with pytest.raises(StoreError, match="damaged"):
            journal_frames.read(b"".join(lines[n] for n in order), "x.log", 7)

    def test_another_generation_or_version_is_refused(self):
        with pytest.raises(StoreError, match="generation 7, not 8"):
            journal_frames.read(self.DATA, "x.log", 8)
        newer = self.DATA.replace(b'"version":1', b'"version":2')
        with pytest.raises(StoreError, match=r"x\.log is damaged"):
            journal_frames.read(newer, "x.log", 7)

    @given(st.binary(max_size=200))
    def test_garbage_is_refused(self, garbage):
        with pytest.raises(StoreError):
            journal_frames.read(garbage, "x.log", 7)


async def seeded(folder: Path, *batches: list[Change]) -> tuple[Path, list[int]]:
    """A store whose journal has these batches; the journal, and where each frame ends."""
    async with store(folder):
        pass
    path = journals(folder)[0]
    data = path.read_bytes()
    ends = [len(data)]
    for number, changes in enumerate(batches, 1):
        data += journal_frames.frame(number, [msgspec.json.encode(change) for change in changes])
        ends.append(len(data))
    path.write_bytes(data)
    return path, ends


BATCHES: list[list[Change]] = [
    [ClientPut(client("a", email="Ä\n"))],
    [TokensPut((token("t1"), token("t2")))],
    [TokensPut((token("t1", revoked_at=TIME),)), TokensPut((token("t3"),))],
    [ClientPut(client("b"))],
]


def after(batches: int) -> tuple[dict, dict]:
    """Clients and tokens after so many batches."""
    clients: dict[str, ClientRecord] = {}
    tokens: dict[str, TokenRecord] = {}
    for change in (change for batch in BATCHES[:batches] for change in batch):
        if isinstance(change, ClientPut):
            clients[change.record.client_id] = change.record
        elif isinstance(change, TokensPut):
            tokens |= {record.token_id: record for record in change.records}
    return clients, tokens


class TestReplay:
    @given(st.data())
    @settings(max_examples=40, deadline=None)
    def test_a_journal_cut_anywhere(self, data):
        async def run(folder: Path) -> None:
            path, ends = await seeded(folder, *BATCHES)
            cut = data.draw(st.integers(0, ends[-1]))
            os.truncate(path, cut)
            if cut < ends[0]:
                with pytest.raises(StoreError, match=path.name):
                    await opened(folder)
                return
            whole = sum(end <= cut for end in ends) - 1
            async with store(folder) as stores:
                assert state(stores) == after(whole)
                recovered = [(e.event, e.status, e.reason) for e in await entries(stores)]
                torn = cut not in ends
                assert recovered == ([("store_recovered", "ok", "torn_tail")] if torn else [])
            async with store(folder) as stores:
                assert state(stores) == after(whole)

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(run(Path(folder) / "store"))

    @given(st.data())
    @settings(max_examples=25, deadline=None)
    def test_a_changed_byte_in_the_middle_is_named(self, data):
        async def run(folder: Path) -> None:
            path, ends = await seeded(folder, *BATCHES)
            content = bytearray(path.read_bytes())
            content[data.draw(st.integers(0, ends[-2] - 1))] ^= data.draw(st.integers(1, 255))
            path.write_bytes(bytes(content))
            for _ in range(2):
                with pytest.raises(StoreError, match=path.name):
                    await opened(folder)
            assert path.read_bytes() == bytes(content)

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(run(Path(folder) / "store"))

    async def test_a_torn_tail_is_logged_and_cut(self, tmp_path, caplog):
        path, ends = await seeded(tmp_path / "s", *BATCHES)
        with path.open("ab") as file:
            file.write(b"\0" * 5000)
        async with store(tmp_path / "s") as stores:
            assert state(stores) == after(4)
            assert f"{path.name} at byte {ends[-1]}" in caplog.text
            assert path.read_bytes()[: ends[-1]].count(b"\0") == 0
        async with store(tmp_path / "s") as stores:
            assert len(await entries(stores)) == 1

    async def test_a_change_of_a_kind_that_is_unknown_is_refused(self, tmp_path):
        path, _ = await seeded(tmp_path / "s")
        with path.open("ab") as file:
            file.write(journal_frames.frame(1, [b'{"type":"later"}']))
        with pytest.raises(StoreError, match=path.name):
            await opened(tmp_path / "s")

    async def test_a_torn_journal_before_one_with_changes_is_damage(self, tmp_path):
        path, _ = await seeded(tmp_path / "s", *BATCHES)
        with path.open("ab") as file:
            file.write(b"torn")
        later = path.with_name("journal-000000002.log")
        bases = Bases(dict.fromkeys(PARTS, 1))
        later.write_bytes(journal_frames.header(2) + journal_frames.frame(1, [msgspec.json.encode(bases)]))
        later.chmod(0o600)
        with pytest.raises(StoreError, match=path.name):
            await opened(tmp_path / "s")

    async def test_a_journal_that_was_made_but_not_gone_over_to(self, tmp_path):
        path, _ = await seeded(tmp_path / "s", *BATCHES)
        with path.open("ab") as file:
            file.write(b"torn")
        later = path.with_name("journal-000000002.log")
        later.write_bytes(journal_frames.header(2))
        later.chmod(0o600)
        async with store(tmp_path / "s") as stores:
            assert state(stores) == after(4)
            await stores.tokens.put(token("t9"))
        async with store(tmp_path / "s") as stores:
            assert stores.tokens.get("t9") == token("t9")

    async def test_a_store_in_use_is_not_made_anew(self, tmp_path):
        await seeded(tmp_path / "s", *BATCHES)
        (tmp_path / "s" / "initialising").touch(mode=0o600)
        with pytest.raises(StoreError, match="initialising"):
            await opened(tmp_path / "s")
        (tmp_path / "s" / "initialising").unlink()
        async with store(tmp_path / "s") as stores:
            assert state(stores) == after(4)


class TestBatches:
    """Which changes share one frame, and so one fdatasync."""

    @staticmethod
    def entry(event: str) -> AuditEntry:
        return AuditEntry(timestamp=TIME, event=event, status="ok")

    async def test_those_of_many_callers_at_once_are_one(self, tmp_path):
        async with store(tmp_path) as stores:
            before = stores.stats().journal_batches

            async def late(number: int) -> None:
                for _ in range(number % 3):  # not all in the same turn of the event loop
                    await asyncio.sleep(0)
                await stores.audit.append(self.entry(str(number)))

            await asyncio.gather(*(late(number) for number in range(30)))
            assert stores.stats().journal_batches == before + 1

    async def test_what_nobody_waits_for_goes_with_what_somebody_does(self, tmp_path):
        async with store(tmp_path) as stores:
            before = stores.stats()
            stores.audit.append_soon(self.entry("soon"))
            await stores.audit.append(self.entry("now"))
            after = stores.stats()
            assert (after.journal_batches, after.journal_records) == (
                before.journal_batches + 1,
                before.journal_records + 2,
            )
            assert [found.event for found in await entries(stores)] == ["soon", "now"]

    async def test_what_nobody_waits_for_is_written_all_the_same(self, tmp_path):
        loop, synced = asyncio.get_running_loop(), asyncio.Event()

        class Telling(System):
            def fdatasync(self, descriptor: int) -> None:
                super().fdatasync(descriptor)
                loop.call_soon_threadsafe(synced.set)

        async with store(tmp_path, system=Telling()) as stores:
            synced.clear()
            stores.audit.append_soon(self.entry("soon"))
            await asyncio.wait_for(synced.wait(), 10)
            assert b'"soon"' in journals(tmp_path)[0].read_bytes()
