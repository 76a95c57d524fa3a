"""Entries in the chain, and what may be taken away from it: erasures, old segments, bytes."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import hashlib
import json
import re
import shutil
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from persistence import JsonStores, StoreError
from persistence.audit_chain import (
    PERSONAL,
    START,
    Salts,
    laid_out,
    line_hash,
    new_line,
    read_line,
    wrong_digests,
)
from persistence.audit_verify import Report, verify
from persistence.records import AuditEntry, AuditQuery, AuditStatus
from tests.stores import NOW, store

texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
entries = st.builds(
    AuditEntry,
    timestamp=st.just("2027-01-15T08:00:00.000Z"),
    event=st.text(st.characters(codec="utf-8"), max_size=9),
    status=st.sampled_from(AuditStatus),
    tool_name=texts,
    reason=texts,
    duration_ms=st.none() | st.floats(0, 1e9),
    era=st.just(msgspec.UNSET) | st.sampled_from(["legacy", "modern"]),
    arguments_digest=st.just(msgspec.UNSET) | st.text("0123456789abcdef", min_size=64, max_size=64),
    response_bytes=st.just(msgspec.UNSET) | st.integers(0, 2**40),
    **dict.fromkeys(PERSONAL, texts),
)


def entry(number: int, **more) -> AuditEntry:
    fields = {
        "timestamp": f"2027-01-{1 + number // 10:02d}T08:00:{number % 60:02d}.000Z",
        "event": "tool_call",
        "status": AuditStatus.OK,
        "client_id": f"client{number % 3}",
        "address": f"192.0.2.{number % 3}",
        "target": f"client{(number + 1) % 3}" if number % 2 else None,
    }
    return AuditEntry(**(fields | more))


async def written(folder: Path, rounds: int = 4, each: int = 10, last: int = 3) -> Path:
    for turn in range(rounds):
        async with store(folder, segment_bytes=1) as stores:
            for number in range(each):
                await stores.audit.append(entry(turn * each + number))
    async with store(folder) as stores:
        for number in range(last):
            await stores.audit.append(entry(rounds * each + number))
    return folder


@pytest.fixture
async def folder(tmp_path) -> Path:
    return await written(tmp_path / "s")


async def checked(folder: Path, **more) -> Report:
    report = await verify(folder, **more)
    assert report.problems == []
    return report


async def all_of(stores: JsonStores) -> list[AuditEntry]:
    return list((await stores.audit.query(AuditQuery(limit=1000))).entries)[::-1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "audit").iterdir())


class TestLines:
    @given(entries)
    def test_a_line_is_json_with_the_entry_as_it_was(self, one):
        line, hashed = new_line(7, START, one, Salts())
        document = json.loads(line)
        assert list(document)[:3] == ["seq", "prev", "timestamp"]
        fields = AuditEntry.__struct_fields__
        assert {name: document[name] for name in fields if name in document} == msgspec.to_builtins(one)
        link, found = read_line(line)
        assert (link.seq, link.prev, found) == (7, START, one)
        assert laid_out(link, found) == line
        assert line_hash(line) == hashed
        assert wrong_digests(link, found) == []

    @given(entries)
    def test_anybody_can_compute_the_hash_and_the_digests(self, one):
        """As the module's docstring, and docs/audit.md, tell it."""
        line, hashed = new_line(1, START, one, Salts())
        document = json.loads(line)
        for name, salt in document["salts"].items():
            text = f"{salt}:{name}:{document[name]}".encode()
            digest = base64.b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
            assert document["digests"][name] == digest
        upto = line.index(b"}", line.index(b'"digests":{')) + 1
        expected = hashlib.sha256(line[:upto] + b"}").digest()
        assert base64.b64encode(expected).decode().rstrip("=") == hashed

    @given(entries, st.sampled_from(PERSONAL), st.text(st.characters(codec="utf-8"), max_size=5))
    def test_another_value_does_not_fit_its_digest(self, one, name, value):
        link, found = read_line(new_line(1, START, one, Salts())[0])
        other = msgspec.structs.replace(found, **{name: value})
        assert wrong_digests(link, other) == ([] if getattr(one, name) == value else [name])

    @given(entries)
    def test_equal_entries_have_no_digest_in_common(self, one):
        salts = Salts()
        both = [read_line(new_line(seq, START, one, salts)[0])[0].digests.values() for seq in (1, 2)]
        assert not set(both[0]) & set(both[1])

    def test_a_line_from_before_calls_had_their_own_fields_is_still_laid_out_so(self):
        line = (
            b'{"seq":1,"prev":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","timestamp":"2027-01-15T08:00:00.000Z",'
            b'"event":"tool_call","status":"ok","tenant_id":"default","tool_name":"files_read","duration_ms":1.5,'
            b'"reason":null,"request_id":"r1","upstream":"files","method":"tools/call","token_id":null,"count":1,'
            b'"digests":{},"client_id":null,"address":null,"user_agent":null,"target":null,"actor":null,'
            b'"certificate_thumbprint":null,"salts":{}}'
        )
        assert laid_out(*read_line(line)) == line

    @given(entries, st.data())
    def test_what_identifies_nobody_is_hashed(self, one, data):
        line, hashed = new_line(1, START, one, Salts())
        link, found = read_line(line)
        name = data.draw(st.sampled_from([n for n in AuditEntry.__struct_fields__ if n not in PERSONAL]))
        if name in {"duration_ms", "count", "status", "timestamp"}:
            return
        changed = msgspec.structs.replace(found, **{name: f"{getattr(one, name) or ''}x"})
        assert line_hash(laid_out(link, changed)) != hashed


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def _copied(folder: Path, copy: Path) -> None:
    """What a crash would leave; a checkpoint may be replacing files meanwhile, so until nothing was."""
    for _ in range(100):
        before = sorted((p.name, p.stat().st_ino) for p in folder.iterdir())
        try:
            shutil.copytree(folder, copy)
            if before == sorted((p.name, p.stat().st_ino) for p in folder.iterdir()):
                return
        except (shutil.Error, FileNotFoundError):
            pass
        shutil.rmtree(copy, ignore_errors=True)
    raise AssertionError("the store is never at rest")


class TestErasure:
    async def test_a_client_leaves_and_everything_else_verifies(self, folder):
        async with store(folder, pause=0.001) as stores:
            before = await all_of(stores)
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            count = await stores.audit.erase(said, "client1")
            assert count > 40
            after = await all_of(stores)
        assert b"client1" not in everything_in(folder)
        report = await checked(folder)
        assert (report.erased, report.entries) == (count, 44)
        for old, new in zip(before, after, strict=False):
            if old.client_id == "client1":
                assert (new.client_id, new.address, new.target) == ("erased-44", None, None)
                assert (new.timestamp, new.event) == (old.timestamp, old.event)
            else:
                assert new == (msgspec.structs.replace(old, target=None) if old.target == "client1" else old)
        assert after[-1].event == "erased"
        async with store(folder) as stores:
            assert await all_of(stores) == after

    async def test_one_after_the_other_compressed_and_pruned(self, folder):
        async with store(folder, pause=0.001) as stores:
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            first = 1 + len(await all_of(stores))
            one = await stores.audit.erase(said, "client1")
            await stores.audit.compress(2)
            other = await stores.audit.erase(said, "client2")
            assert await stores.audit.erase(said, "nobody") == 0
            await checked(folder)
            assert (await checked(folder)).erased == one + other
            gone = await stores.audit.prune("2027-01-03T00:00:00Z")
            assert len(gone) == 2
        report = await checked(folder)
        assert 0 < report.erased < one + other
        async with store(folder) as stores:
            assert {e.client_id for e in await all_of(stores)} == {
                "client0",
                f"erased-{first}",
                f"erased-{first + 1}",
                f"erased-{first + 2}",
            }

    @pytest.mark.parametrize(
        "forge",
        [
            lambda line: line | {"address": None},
            lambda line: (
                line | {"address": None, "salts": {k: v for k, v in line["salts"].items() if k != "address"}}
            ),
            lambda line: line | {"address": None, "salts": line["salts"] | {"address": 44}},
            lambda line: line | {"address": None, "salts": line["salts"] | {"address": 7}},
            lambda line: line | {"address": "203.0.113.9", "salts": line["salts"] | {"address": 44}},
        ],
    )
    async def test_one_that_no_signed_entry_covers_is_found(self, folder, forge):
        async with store(folder, pause=0.001) as stores:
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            await stores.audit.erase(said, "client1")
        path = folder / "audit" / names(folder)[1]
        first, *lines, end = path.read_text().splitlines()
        forged = [json.loads(line.removesuffix(",")) for line in lines]
        at = next(index for index, line in enumerate(forged) if line["client_id"] == "client0")
        forged[at] = forge(forged[at])
        text = ",\n".join(json.dumps(line, separators=(",", ":")) for line in forged)
        path.write_text(f"{first}\n{text}\n{end}\n")
        problems = (await verify(folder)).problems
        assert any(
            (problem.seq == 11 + at and problem.what.startswith("address is not"))
            or "said to be" in problem.what
            for problem in problems
        ), problems

    async def test_a_crash_before_anything_was_taken_out(self, folder, tmp_path, monkeypatch):
        async with store(folder, pause=0.001) as stores:

            async def crash(*_) -> None:
                await asyncio.to_thread(_copied, folder, tmp_path / "copy")

            monkeypatch.setattr(stores.audit._archive, "erase", crash)
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            await stores.audit.erase(said, "client1")
        assert (await checked(tmp_path / "copy")).erased == 0
        async with store(tmp_path / "copy", pause=0.001) as stores:
            assert await stores.audit.erase(said, "client1") > 40
        assert (await checked(tmp_path / "copy")).erased > 40

    async def test_what_is_under_way_ends_without_the_name(self, folder):
        """Whoever is erased while a request of theirs is being forwarded, or was begun in the very moment."""
        async with store(folder, pause=0.001) as stores:
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            under_way = entry(70, client_id="zelda", user_agent="zeldas", target="zelda: x")
            before = await stores.audit.begin(under_way)
            left_open = await stores.audit.begin(under_way)
            erasing = asyncio.create_task(stores.audit.erase(said, "zelda"))
            await asyncio.sleep(0)
            meanwhile = await stores.audit.begin(under_way)
            await erasing
            assert b"zelda" not in everything_in(folder)
            for intent in (before, meanwhile):
                intent.finish(AuditStatus.OK, timestamp=entry(71).timestamp, duration_ms=1.0)
            stores.audit.append_soon(under_way)
            stores.audit.append_soon(entry(72, client_id="client0", target="/admin/api/clients/zeld%61"))
            del left_open
        assert b"zelda" not in everything_in(folder)
        assert b"zeld%61" not in everything_in(folder)
        await checked(folder)
        async with store(folder) as stores:
            late = [one for one in await all_of(stores) if one.client_id == "erased"]
        assert [(one.event, one.reason) for one in late] == [
            ("tool_call", None),
            ("tool_call", None),
            ("tool_call", None),
            ("tool_call", "interrupted"),
        ]
        assert {(one.address, one.user_agent, one.target) for one in late} == {(None, None, None)}

    async def test_a_crash_after_what_is_under_way_was_begun_anew(self, folder, tmp_path):
        async with store(folder, pause=0.001) as stores:
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            await stores.audit.begin(entry(70, client_id="zelda", target="zelda"))
            await stores.audit.erase(said, "zelda")
            _copied(folder, tmp_path / "copy")
        await checked(tmp_path / "copy")
        async with store(tmp_path / "copy") as stores:
            (interrupted,) = [one for one in await all_of(stores) if one.reason == "interrupted"]
        assert (interrupted.client_id, interrupted.target) == ("erased", None)

    async def test_one_that_was_undone_is_named(self, folder):
        """By the files from before, which were signed, too."""
        old = {path: path.read_bytes() for path in (folder / "audit").iterdir()}
        async with store(folder, pause=0.001) as stores:
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            index = (folder / "audit-index.json").read_bytes()
            erase = stores.audit._archive.erase

            async def watched(*found) -> None:
                nonlocal index
                index = (folder / "audit-index.json").read_bytes()
                old.update({path: path.read_bytes() for path in (folder / "audit").iterdir()})
                await erase(*found)

            stores.audit._archive.erase = watched
            await stores.audit.erase(said, "client1")
            stores.audit._archive.erase = erase
        assert (await checked(folder)).unfinished == []
        (folder / "audit-index.json").write_bytes(index)
        shutil.rmtree(folder / "audit")
        (folder / "audit").mkdir(mode=0o700)
        for path, content in old.items():
            path.write_bytes(content)
            path.chmod(0o600)
        assert "were erased from entry 1 on, and they are there" in (await checked(folder)).unfinished[0]
        async with store(folder, pause=0.001) as stores:
            assert await stores.audit.erase(said, "client1") > 40
        assert (await checked(folder)).unfinished == []

    async def test_a_disk_without_room_is_said_and_not_waited_for(self, folder, monkeypatch):
        async with store(folder, pause=0.001) as stores:

            async def full(**_more) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(stores._checkpointer, "_checkpoint", full)
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            with pytest.raises(StoreError, match="make room, then do it again"):
                await stores.audit.erase(said, "client1")
            monkeypatch.undo()

    async def test_a_segment_that_was_changed_is_not_signed_anew(self, folder):
        path = folder / "audit" / names(folder)[1]
        path.write_bytes(path.read_bytes().replace(b"client0", b"client9"))
        async with store(folder, pause=0.001) as stores:
            said = entry(99, event="erased", client_id=None, address=None, target=None)
            with pytest.raises(StoreError, match="is not the file that was sealed"):
                await stores.audit.erase(said, "client1")
            with pytest.raises(StoreError, match="is not the file that was sealed"):
                await all_of(stores)
        assert any("is not" in str(problem) for problem in (await verify(folder)).problems)


async def test_a_query_may_be_of_the_newest_segments_alone(folder):
    async with store(folder) as stores:

        async def found(among: int, **more) -> int:
            return len((await stores.audit.query(AuditQuery(among=among, **more))).entries)

        assert [await found(among) for among in (1, 3, 4, 13, 14, 1000)] == [3, 3, 13, 13, 23, 43]
        assert await found(4, client_id="client0") < await found(1000, client_id="client0")


class TestPruning:
    async def test_whole_segments_go_and_the_rest_verifies_from_a_signed_start(self, folder):
        async with store(folder) as stores:
            gone = await stores.audit.prune("2027-01-03T00:00:00Z")
            assert [(segment.first_seq, segment.last_seq) for segment in gone] == [(1, 10), (11, 20)]
            assert len(await all_of(stores)) == 23
        assert names(folder) == ["000003.json", "000004.json"]
        report = await checked(folder)
        assert (report.first_seq, report.entries) == (21, 23)
        start = json.loads((folder / "audit-index.json").read_text())["start"]
        assert (start["seq"], start["reason"]) == (21, "pruned")
        async with store(folder) as stores:
            await stores.audit.append(entry(43))
            assert await stores.audit.prune("2027-01-03T00:00:00Z") == []
            assert len(await stores.audit.prune("2999-01-01T00:00:00Z")) == 2
            assert len(await all_of(stores)) == 4
        assert (await checked(folder)).first_seq == 41
        async with store(folder, segment_bytes=1) as stores:
            await stores.audit.append(entry(44))
        assert (await checked(folder)).segments == 1

    async def test_a_segment_with_one_younger_entry_stays(self, folder):
        async with store(folder) as stores:
            assert await stores.audit.prune("2027-01-01T08:00:09.000Z") == []
            assert len(await stores.audit.prune("2027-01-01T08:00:09.001Z")) == 1
            with pytest.raises(ValueError, match="RFC 3339"):
                await stores.audit.prune("yesterday")

    async def test_what_was_removed_by_hand_is_not_pruned(self, folder):
        for name in ("000001.json", "000002.json"):
            (folder / "audit" / name).unlink()
        assert "audit/000001.json, entry 1" in str((await verify(folder)).problems[0])

    async def test_an_earlier_checkpoint_ends_where_the_kept_part_begins_or_later(self, folder):
        from persistence.audit_checkpoint import Checkpoint, read_signed

        async with store(folder, segment_bytes=1) as stores:
            await stores.audit.append(entry(43))
        published = read_signed((folder / "audit-checkpoint.json").read_bytes(), Checkpoint, "published")
        async with store(folder, segment_bytes=1) as stores:
            await stores.audit.append(entry(50))
        async with store(folder) as stores:
            await stores.audit.prune("2027-01-05T12:00:00Z")
        assert (await checked(folder, against=published)).first_seq == published.seq + 1
        async with store(folder) as stores:
            await stores.audit.prune("2999-01-01T00:00:00Z")
        (problem,) = (await verify(folder, against=published)).problems
        assert "the audit begins with" in problem.what


class TestCompression:
    async def test_it_changes_nothing_but_size(self, folder):
        contents = {name: (folder / "audit" / name).read_bytes() for name in names(folder)}
        async with store(folder) as stores:
            before = await all_of(stores)
            assert await stores.audit.compress(3) == (3, 1)
            assert await stores.audit.compress(3) == (1, 0)
            assert await stores.audit.compress(3) == (0, 0)
            assert await all_of(stores) == before
        assert names(folder) == [f"{name}.gz" for name in contents]
        for name, content in contents.items():
            assert gzip.decompress((folder / "audit" / f"{name}.gz").read_bytes()) == content
            assert stat.S_IMODE((folder / "audit" / f"{name}.gz").stat().st_mode) == 0o600
        await checked(folder)

    async def test_any_changed_byte_of_a_compressed_segment_is_found(self, folder):
        async with store(folder) as stores:
            await stores.audit.compress(1)
        path = folder / "audit" / "000001.json.gz"
        content = path.read_bytes()
        for at in (*range(0, len(content), 9), *range(len(content) - 9, len(content))):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            problems = (await verify(folder)).problems
            assert problems
            assert problems[0].file == "audit/000001.json.gz"

    async def test_a_damaged_segment_is_not_compressed(self, folder):
        path = folder / "audit" / "000001.json"
        path.write_bytes(path.read_bytes().replace(b"client1", b"client2"))
        async with store(folder) as stores:
            with pytest.raises(StoreError, match=r"000001\.json is not the file that was sealed"):
                await stores.audit.compress(1)

    @pytest.mark.parametrize("left", ["000001.json.gz", "000001.7.json", "000002.7.json.gz"])
    async def test_what_a_crash_left_over_goes_at_the_next_start(self, folder, left):
        content = (folder / "audit" / f"{left[:6]}.json").read_bytes()
        (folder / "audit" / left).write_bytes(gzip.compress(content) if left.endswith(".gz") else content)
        (folder / "audit" / left).chmod(0o600)
        assert (await checked(folder)).left_over == [f"audit/{left}"]
        async with store(folder):
            pass
        assert left not in names(folder)
        await checked(folder)


class TestPublishing:
    async def test_each_checkpoint_is_published(self, tmp_path):
        published = tmp_path / "elsewhere.json"
        async with store(tmp_path / "s", checkpoint_file=published) as stores:
            await stores.audit.append(entry(1))
        document = json.loads(published.read_text())
        assert document["seq"] == 1
        assert published.read_bytes() == (tmp_path / "s" / "audit-checkpoint.json").read_bytes()
        signature = base64.b64decode(document.pop("signature"))
        body = json.dumps(document, separators=(",", ":")).encode()
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(document["key"]))
        key.verify(signature, b"ostiary audit checkpoint\n" + body)

    async def test_a_store_that_is_behind_what_was_published_is_refused(self, tmp_path):
        published = tmp_path / "elsewhere.json"
        async with store(tmp_path / "s", checkpoint_file=published) as stores:
            await stores.audit.append(entry(1))
        shutil.copytree(tmp_path / "s", tmp_path / "old")
        async with store(tmp_path / "s", checkpoint_file=published) as stores:
            await stores.audit.append(entry(2))
        with pytest.raises(StoreError, match=r"elsewhere\.json is signed for audit entry 2.*move it away"):
            await JsonStores.open(tmp_path / "old", now=lambda: NOW, checkpoint_file=published)
        published.unlink()
        async with store(tmp_path / "old", checkpoint_file=published):
            assert json.loads(published.read_text())["seq"] == 1

    @pytest.mark.parametrize("more", [1, 3])
    async def test_a_store_that_went_another_way_is_refused(self, tmp_path, more):
        """It has as many entries as what was published, or more, but not the same ones."""
        published = tmp_path / "elsewhere.json"
        async with store(tmp_path / "s", checkpoint_file=published) as stores:
            await stores.audit.append(entry(1))
        shutil.copytree(tmp_path / "s", tmp_path / "fork")
        async with store(tmp_path / "s", checkpoint_file=published) as stores:
            await stores.audit.append(entry(2))
        kept = published.read_bytes()
        async with store(tmp_path / "fork", segment_bytes=1) as stores:
            for number in range(more):
                await stores.audit.append(entry(10 + number))
        async with store(tmp_path / "fork"):
            pass
        with pytest.raises(StoreError, match=r"elsewhere\.json is signed for audit entry 2"):
            await JsonStores.open(tmp_path / "fork", now=lambda: NOW, checkpoint_file=published)
        assert published.read_bytes() == kept
        async with store(
            tmp_path / "s", segment_bytes=1
        ) as stores:  # published nowhere, and yet the same way
            for number in range(more):
                await stores.audit.append(entry(20 + number))
        async with store(tmp_path / "s", checkpoint_file=published):
            pass

    async def test_a_disk_that_is_gone_stops_nothing(self, tmp_path, caplog):
        async with store(tmp_path / "s", checkpoint_file=tmp_path / "gone" / "x.json") as stores:
            await stores.audit.append(entry(1))
        assert "could not be published" in caplog.text
        assert (await checked(tmp_path / "s")).unsigned == 0

    async def test_the_key_is_private_and_new_for_each_store(self, tmp_path):
        keys = set()
        for name in ("a", "b"):
            async with store(tmp_path / name) as stores:
                keys.add(json.loads(await stores.audit.checkpoint())["key"])
            assert stat.S_IMODE((tmp_path / name / "audit.key").stat().st_mode) == 0o600
            assert re.match(r"-----BEGIN PRIVATE KEY-----", (tmp_path / name / "audit.key").read_text())
        assert len(keys) == 2


class TestTimes:
    async def test_segments_outside_of_the_times_are_not_read(self, folder):
        async with store(folder) as stores:
            for name in ("000001.json", "000004.json"):
                (folder / "audit" / name).write_bytes(b"unreadable")
            query = AuditQuery(since="2027-01-02T00:00:00Z", until="2027-01-04T00:00:00Z", limit=100)
            assert len((await stores.audit.query(query)).entries) == 20
            with pytest.raises(StoreError, match=r"000001\.json"):
                await stores.audit.query(AuditQuery(until="2027-01-02T00:00:00Z"))


async def test_verifying_takes_no_lock_and_writes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    async with asyncio.timeout(30):
        await checked(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
