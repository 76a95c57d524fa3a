"""The audit under the hands of somebody who can write its files: whatever is changed, ``verify`` finds it and says where."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from persistence import JsonStores, StoreError
from persistence.audit_chain import Salts, laid_out, line_hash, new_line, read_line, without
from persistence.audit_checkpoint import AuditKey, Checkpoint, read_signed
from persistence.audit_erasure import claim, find, of_client
from persistence.audit_verify import Report, verify
from persistence.changes import AUDIT, CLIENTS, TOKENS, EntryAdded
from persistence.checkpoint import AuditFile
from persistence.checkpointer import Checkpointer
from persistence.frames import frame, header
from persistence.frames import read as read_frames
from persistence.journal import journal_name
from persistence.records import KINDS, AuditEntry, AuditQuery, AuditStatus
from tests.stores import NOW, TIME, store, until


def entry(number: int, **more) -> AuditEntry:
    fields = {
        "timestamp": f"2027-01-15T08:{number // 60:02d}:{number % 60:02d}.000Z",
        "event": "tool_call",
        "status": AuditStatus.OK,
        "client_id": f"client{number % 3}",
        "address": "192.0.2.7",
        "tool_name": f"files_{number}",
    }
    return AuditEntry(**(fields | more))


async def written(folder: Path, rounds: int = 4, each: int = 5, last: int = 3) -> Path:
    """A store with ``rounds`` sealed segments of ``each`` entries, and ``last`` entries in the newest one."""
    for turn in range(rounds):
        async with store(folder, segment_bytes=1) as stores:
            for number in range(each):
                await stores.audit.append(entry(turn * each + number))
    async with store(folder) as stores:
        for number in range(last):
            await stores.audit.append(entry(rounds * each + number))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return asyncio.run(written(tmp_path_factory.mktemp("made") / "s"))


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "s"))


def copied(made: Path) -> contextlib.AbstractContextManager[Path]:
    @contextlib.contextmanager
    def copying() -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(shutil.copytree(made, Path(temporary) / "s"))

    return copying()


def found(folder: Path, **more) -> list[str]:
    return [str(problem) for problem in asyncio.run(verify(folder, **more)).problems]


def report(folder: Path, **more) -> Report:
    return asyncio.run(verify(folder, **more))


def sealed(folder: Path, number: int) -> Path:
    return folder / "audit" / f"{number:06d}.json"


def change_lines(path: Path, change) -> None:
    """Rewrite the entries of a segment's file."""
    first, *lines, end = path.read_text().splitlines()
    lines = [line.removesuffix(",") for line in lines]
    path.write_text("\n".join([first, ",\n".join(change(lines)), end, ""]))


def _newest_journal(folder: Path) -> tuple[Path, int, list[bytes]]:
    path = max(folder.glob("journal-*.log"))
    generation = int(path.name[8:17])
    return path, generation, list(read_frames(path.read_bytes(), path, generation).payloads)


def into_the_journal(folder: Path, change: EntryAdded) -> None:
    """Its frames have checksums, and no key."""
    path, _, payloads = _newest_journal(folder)
    with path.open("ab") as file:
        file.write(frame(len(payloads) + 1, [msgspec.json.encode(change)]))


def rebase(folder: Path, change: Callable[[dict[str, int]], dict[str, int]]) -> None:
    """Let the newest journal say that it follows other generations of the files."""
    path, generation, (first, *rest) = _newest_journal(folder)
    bases = json.loads(first)
    bases[0]["generations"] = change(bases[0]["generations"])
    frames = [frame(number, [payload[1:-1]]) for number, payload in enumerate(rest, 2)]
    path.write_bytes(
        header(generation) + frame(1, [json.dumps(one).encode() for one in bases]) + b"".join(frames)
    )


def test_what_was_written_verifies(folder):
    result = report(folder)
    assert result.problems == []
    assert (result.entries, result.first_seq, result.last_seq) == (23, 1, 23)
    assert (result.segments, result.signed_seq, result.unsigned, result.erased) == (4, 23, 0, 0)


def test_progress_is_told(folder):
    told: list[tuple[int, int]] = []
    report(folder, progress=lambda done, total: told.append((done, total)))
    assert len(told) == 5
    assert told == sorted(told)
    assert 0 < told[-1][0] < told[-1][1]


class TestTampering:
    @pytest.mark.parametrize("number", [1, 2, 4])
    def test_an_edit_in_a_sealed_segment(self, folder, number):
        path = sealed(folder, number)
        path.write_text(
            re.sub(r'"tool_name":"files_\d+"', '"tool_name":"files_x"', path.read_text(), count=1)
        )
        first = (number - 1) * 5 + 1
        assert any(f"audit/{path.name}, entry {first + 1}:" in problem for problem in found(folder))

    @pytest.mark.parametrize("name", ["client_id", "address"])
    def test_a_value_that_identifies_somebody(self, folder, name):
        path = sealed(folder, 3)
        path.write_text(
            re.sub(
                rf'"{name}":"[a-z0-9.]+","(address|user_agent)"',
                rf'"{name}":"other","\1"',
                path.read_text(),
                count=1,
            )
        )
        assert found(folder)[0] == f"audit/000003.json, entry 11: {name} is not what was entered"

    @pytest.mark.parametrize(
        ("change", "where"),
        [
            (lambda lines: lines[1:], "entry 6: missing"),
            (lambda lines: lines[:2] + lines[3:], "entry 8: missing"),
            (lambda lines: lines[:-1], "entry 9: it must end with entry 10"),
            (lambda lines: [lines[0], *lines], "entry 6: it comes where entry 7 should be"),
            (lambda lines: [lines[1], lines[0], *lines[2:]], "entry 6: missing: entry 7 comes"),
            (lambda lines: list(reversed(lines)), "entry 6: missing: entry 10 comes"),
            (
                lambda lines: [
                    *lines[:2],
                    lines[2].replace('"status":"ok"', '"status":"denied"'),
                    *lines[3:],
                ],
                "entry 9: it does not hold the hash",
            ),
            (lambda lines: [*lines[:2], "{}", *lines[3:]], "entry 8"),
            (lambda lines: [lines[0][:-1] + ',"more":1}', *lines[1:]], "entry 6: it is not laid out"),
        ],
    )
    def test_deleted_inserted_swapped_reordered(self, folder, change, where):
        change_lines(sealed(folder, 2), change)
        assert any(f"audit/000002.json, {where}" in problem for problem in found(folder)), found(folder)

    @pytest.mark.parametrize(
        "change",
        [
            lambda lines: lines[1:],
            lambda lines: lines[:-1],
            lambda lines: [lines[1], lines[0], lines[2]],
            lambda lines: [lines[0].replace("files_", "other_"), *lines[1:]],
            lambda lines: [*lines[:-1], lines[-1].replace("files_", "other_")],
            lambda lines: [lines[0], lines[0], *lines[1:]],
            lambda lines: [],
        ],
    )
    def test_the_newest_segment_is_found_and_refuses_the_start(self, folder, change):
        change_lines(folder / "audit.json", change)
        problems = found(folder)
        assert problems
        assert all("audit.json" in problem for problem in problems)
        with pytest.raises(StoreError, match=r"audit\.json.*backup"):
            asyncio.run(JsonStores.open(folder, now=lambda: NOW))

    def test_a_removed_a_replaced_and_a_doubled_file(self, folder):
        content = sealed(folder, 2).read_bytes()
        sealed(folder, 2).unlink()
        assert "audit/000002.json, entry 6:" in found(folder)[0]
        shutil.copy(sealed(folder, 1), sealed(folder, 2))
        assert "audit/000002.json, entry 1: it comes where entry 6 should be" in found(folder)[0]
        sealed(folder, 2).write_bytes(content)
        assert found(folder) == []
        shutil.copy(sealed(folder, 4), sealed(folder, 5))
        assert found(folder) == ["audit/000005.json: it is no segment of this audit"]
        shutil.move(sealed(folder, 5), sealed(folder, 9))
        assert found(folder) == ["audit/000009.json: it is no segment of this audit"]

    def test_an_older_checkpoint_in_its_place(self, folder):
        """Its signature is good, and every entry that it is signed for is there."""
        older = (folder / "audit-checkpoint.json").read_bytes()
        asyncio.run(written(folder, rounds=0))
        (folder / "audit-checkpoint.json").write_bytes(older)
        assert any("audit.json: it and the journals" in problem for problem in found(folder))
        with pytest.raises(StoreError, match=r"audit\.json: it and the journals"):
            asyncio.run(JsonStores.open(folder, now=lambda: NOW))

    @pytest.mark.parametrize("with_the_entry_that_says_so", [True, False])
    def test_values_erased_without_the_key(self, folder, with_the_entry_that_says_so):
        """An erasure is never in the newest segment: that is sealed before."""
        path = folder / "audit.json"
        lines = [bytes(line) for line in msgspec.json.decode(path.read_bytes(), type=AuditFile).entries]
        gone = find(lines, of_client("client0"))
        last = read_line(lines[-1])[0].seq
        forged = [
            laid_out(*without(link, one, gone.get(link.seq, ()), last + 1))
            for link, one in map(read_line, lines)
        ]
        assert forged != lines
        change_lines(path, lambda _lines: [line.decode() for line in forged])
        if with_the_entry_that_says_so:
            said = entry(0, event="erased", client_id=None, address=None)
            line, _ = new_line(last + 1, line_hash(lines[-1]), said, Salts(), [claim(21, gone)])
            into_the_journal(folder, EntryAdded(last + 1, msgspec.Raw(line)))
        assert any("client_id is gone, and it was not erased" in problem for problem in found(folder))
        with pytest.raises(StoreError, match=r"audit\.json.*was changed"):
            asyncio.run(JsonStores.open(folder, now=lambda: NOW))

    @pytest.mark.parametrize("names_its_journal", [True, False])
    def test_entries_outside_of_the_chain_behind_the_first_checkpoint(self, tmp_path, names_its_journal):
        """They come from an older version, or from whoever has a copy of a checkpoint that is signed for nothing."""
        folder = tmp_path / "s"
        asyncio.run(written(folder, rounds=0, last=0))
        first = (folder / "audit-checkpoint.json").read_bytes()
        if not names_its_journal:
            key = AuditKey.read((folder / "audit.key").read_bytes(), "audit.key")
            signed = read_signed(first, Checkpoint, "first")
            first = key.sign(msgspec.structs.replace(signed, journal=UNSET, intents=UNSET))
        asyncio.run(written(folder, rounds=0, last=3))
        assert report(folder).signed_seq == 3
        (folder / "audit-checkpoint.json").write_bytes(first)
        document = json.loads((folder / "audit.json").read_bytes())
        lines = ",\n".join(
            json.dumps({"seq": number} | msgspec.to_builtins(entry(number, client_id="forged")))
            for number in (1, 2)
        )
        head = document | {"journal": json.loads(first).get("journal", document["journal"])}
        del head["entries"]
        (folder / "audit.json").write_text(json.dumps(head)[:-1] + f',"entries":[\n{lines}\n]}}\n')
        rebase(folder, lambda generations: generations | {AUDIT: head["journal"]})
        assert found(folder)
        with pytest.raises(StoreError, match=r"audit verify"):
            asyncio.run(JsonStores.open(folder, now=lambda: NOW))

    def test_files_that_are_no_segments(self, folder):
        junk = {
            "000001.9.json": b'{"version":1,"entries":[\n',
            "000000.json": sealed(folder, 1).read_bytes(),
            "000002.json.gz": b"junk",
            "000003.7.json": sealed(folder, 2).read_bytes(),
            "000004.7.json": sealed(folder, 4).read_bytes().replace(b"files_16", b"files_61"),
            "000005.json": b'{"version":1,"entries":[\n',
            "notes.txt": b"",
        }
        for name, content in junk.items():
            (folder / "audit" / name).write_bytes(content)
            (folder / "audit" / name).chmod(0o600)
        assert found(folder) == [f"audit/{name}: it is no segment of this audit" for name in sorted(junk)]

    def test_what_a_crash_leaves_is_no_damage_and_is_named(self, folder):
        compressed = folder / "audit" / "000001.json.gz"
        compressed.write_bytes(gzip.compress(sealed(folder, 1).read_bytes()))
        compressed.chmod(0o600)
        result = report(folder)
        assert (result.problems, result.left_over) == ([], ["audit/000001.json.gz"])

    def test_two_files_exchanged(self, folder):
        one, other = sealed(folder, 1).read_bytes(), sealed(folder, 2).read_bytes()
        sealed(folder, 1).write_bytes(other)
        sealed(folder, 2).write_bytes(one)
        assert len({problem.split(",")[0] for problem in found(folder)}) == 2

    @pytest.mark.parametrize("name", ["audit-checkpoint.json", "audit-index.json", "audit.key", "audit.json"])
    def test_a_file_that_is_missing(self, folder, name):
        (folder / name).unlink()
        (problem,) = found(folder)
        assert name in problem
        with pytest.raises(StoreError, match=re.escape(name)):
            asyncio.run(JsonStores.open(folder, now=lambda: NOW))

    def test_documents_of_another_store(self, folder, tmp_path):
        other = asyncio.run(written(tmp_path / "other"))
        shutil.copy(other / "audit-checkpoint.json", folder)
        problems = found(folder)
        assert "audit-checkpoint.json: it was not signed with audit.key" in problems
        assert any(
            "is not the entry that audit-checkpoint.json is signed for" in problem for problem in problems
        )
        with pytest.raises(StoreError, match=r"audit-checkpoint\.json was not signed with"):
            asyncio.run(JsonStores.open(folder, now=lambda: NOW))

    def test_an_audit_made_anew_is_not_the_one_that_was_published(self, folder, tmp_path):
        published = read_signed((folder / "audit-checkpoint.json").read_bytes(), Checkpoint, "published")
        assert found(folder, against=published, key=published.key) == []
        other = asyncio.run(written(tmp_path / "other"))
        problems = found(other, against=published, key=published.key)
        assert "audit-checkpoint.json" not in problems[0]
        assert any("the published checkpoint: it was not signed with" in problem for problem in problems)
        assert any("it is not the entry that the published checkpoint is signed for" in p for p in problems)
        assert any("not the one that was given" in problem for problem in problems)

    def test_a_tail_that_was_cut_together_with_the_checkpoint(self, folder, tmp_path):
        """An older copy of the whole folder: only what was published elsewhere can tell."""
        old = Path(shutil.copytree(folder, tmp_path / "old"))
        asyncio.run(written(folder, rounds=1))
        published = read_signed((folder / "audit-checkpoint.json").read_bytes(), Checkpoint, "published")
        assert found(old) == []
        assert found(folder, against=published) == []
        (problem,) = found(old, against=published)
        assert problem.startswith(
            f"audit.json, entry {published.seq}: missing: the published checkpoint is signed"
        )


@pytest.fixture(scope="module")
def packed(made, tmp_path_factory) -> Path:
    """The same with two segments compressed, and somebody erased from one of them and one of the others."""

    async def pack() -> Path:
        folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("packed") / "s"))
        async with store(folder, pause=0.001) as stores:
            await stores.audit.compress(2)
            await stores.audit.erase(
                AuditEntry(timestamp=TIME, event="erased", status=AuditStatus.OK), "client1"
            )
        assert {path.suffix for path in (folder / "audit").iterdir()} == {".gz", ".json"}
        return folder

    return asyncio.run(pack())


class TestAnyByte:
    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_in_a_sealed_file_or_a_signed_document(self, made, packed, data):
        with copied(data.draw(st.sampled_from([made, packed]))) as folder:
            paths = [*sorted((folder / "audit").iterdir()), *sorted(folder.glob("audit-*.json"))]
            path = data.draw(st.sampled_from(paths))
            self.change_one(path, data)
            assert found(folder)

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_in_the_newest_segment(self, made, data):
        with copied(made) as folder:
            self.change_one(folder / "audit.json", data)
            assert found(folder)

    @staticmethod
    def change_one(path: Path, data) -> None:
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
        path.write_bytes(content)

    @settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_any_rearrangement_of_lines(self, made, data):
        with copied(made) as folder:
            path = data.draw(st.sampled_from([*sorted((folder / "audit").iterdir()), folder / "audit.json"]))
            before = path.read_bytes()

            def rearranged(lines: list[str]) -> list[str]:
                return data.draw(st.lists(st.sampled_from(lines), max_size=8))

            change_lines(path, rearranged)
            assert bool(found(folder)) == (path.read_bytes() != before)


class TestIntents:
    """What was forwarded and has no outcome yet: a crash is no way to get rid of it."""

    @pytest.fixture
    async def crashed(self, tmp_path) -> Path:
        """A store as a crash left it, with two intents in its ``audit.json``."""
        async with store(tmp_path / "s", pause=0.001) as stores:
            await stores.audit.append(entry(1))
            for number in (2, 3):
                await stores.audit.begin(entry(number))
            async with asyncio.timeout(20):
                while b'"seq":1,' not in (tmp_path / "s" / "audit-checkpoint.json").read_bytes() or (  # noqa: ASYNC110
                    len(json.loads((tmp_path / "s" / "audit.json").read_bytes())["intents"]) < 2
                    or await found_in(tmp_path / "s")
                    or json.loads((tmp_path / "s" / "audit-checkpoint.json").read_bytes())["journal"]
                    != json.loads((tmp_path / "s" / "audit.json").read_bytes())["journal"]
                    or len(list((tmp_path / "s").glob("journal-*.log"))) > 1
                ):
                    await asyncio.sleep(0.01)
            return Path(shutil.copytree(tmp_path / "s", tmp_path / "crashed"))

    async def test_what_a_crash_left_verifies_and_is_interrupted(self, crashed):
        assert await found_in(crashed) == []
        async with store(crashed) as stores:
            page = await stores.audit.query(AuditQuery())
            assert [(e.tool_name, e.reason) for e in page.entries] == [
                ("files_3", "interrupted"),
                ("files_2", "interrupted"),
                ("files_1", None),
            ]

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_any_byte_of_them(self, crashed, data):
        with copied(crashed) as folder:
            content = bytearray((folder / "audit.json").read_bytes())
            begin, end = content.index(b'"journal"'), content.index(b'"entries"')
            at = data.draw(st.integers(begin, end))
            content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
            (folder / "audit.json").write_bytes(content)
            assert found(folder)

    @pytest.mark.parametrize("change", ["removed", "changed", "doubled", "older", "newer"])
    async def test_an_intent_cannot_be_changed_unseen(self, crashed, change):
        path = crashed / "audit.json"
        document = json.loads(path.read_bytes())
        intents = document["intents"]
        if change == "removed":
            intents.pop(0)
        elif change == "changed":
            intents[0]["entry"]["client_id"] = "somebody-else"
        elif change == "doubled":
            intents.append({**intents[0], "number": 99})
        elif change == "older":
            document["journal"] -= 1
        else:  # as if a crash had come between this file and its checkpoint
            intents.pop(0)
            document["journal"] += 1
            (crashed / journal_name(document["journal"])).write_bytes(header(document["journal"]))
        first, _, rest = path.read_text().partition(',"entries":[')
        assert json.loads(first + "}")["intents"] is not None
        head = {name: value for name, value in document.items() if name != "entries"}
        path.write_text(json.dumps(head, separators=(",", ":"))[:-1] + ',"entries":[' + rest)
        assert any("audit.json" in problem for problem in await found_in(crashed))
        with pytest.raises(StoreError, match=r"audit\.json|journal"):
            await JsonStores.open(crashed, now=lambda: NOW)

    async def test_an_older_state_with_the_same_entries(self, tmp_path):
        """Only intents were begun since: what was published elsewhere tells."""
        published, folder = tmp_path / "published.json", tmp_path / "s"
        async with store(folder, pause=0.001, checkpoint_file=published) as stores:
            await stores.audit.append(entry(1))
            await until(lambda: read_signed(published.read_bytes(), Checkpoint, published).seq == 1)
            old = Path(shutil.copytree(folder, tmp_path / "old"))
            before = published.read_bytes()
            await stores.audit.begin(entry(2))
            await until(lambda: published.read_bytes() != before)
            against = read_signed(published.read_bytes(), Checkpoint, published)
            assert against.seq == 1
            assert (await verify(folder, against=against)).problems == []
            assert (await verify(old)).problems == []
            (problem,) = (await verify(old, against=against)).problems
            assert "later state" in str(problem)
            with pytest.raises(StoreError, match=r"published\.json is signed for .* an older state"):
                await JsonStores.open(old, now=lambda: NOW, checkpoint_file=published)


async def found_in(folder: Path) -> list[str]:
    return [str(problem) for problem in (await verify(folder)).problems]


class TestLiveStore:
    async def test_beside_a_store_that_is_written_and_sealed(self, tmp_path):
        folder = tmp_path / "s"
        async with store(folder, pause=0.001, segment_bytes=3000) as stores:

            async def write() -> None:
                for number in range(300):
                    await stores.audit.append(entry(number))

            async def watch() -> None:
                while not writing.done():
                    result = await verify(folder)
                    assert result.problems == []
                    await asyncio.sleep(0)

            writing = asyncio.create_task(write())
            await asyncio.gather(writing, watch())
        result = await verify(folder)
        assert (result.problems, result.entries, result.unsigned) == ([], 300, 0)
        assert result.segments >= 1

    async def test_what_is_newer_than_the_checkpoint_is_said_to_be(self, tmp_path):
        async with store(tmp_path / "s") as stores:
            await stores.audit.append(entry(1))
            await stores.audit.append(entry(2))
            result = await verify(tmp_path / "s")
            assert (result.problems, result.entries, result.signed_seq, result.unsigned) == ([], 2, 0, 2)

    async def test_no_store(self, tmp_path):
        with pytest.raises(StoreError, match="no store"):
            await verify(tmp_path)


class TestUpgrade:
    """A store from before the chain."""

    @pytest.fixture
    def old(self, folder) -> Path:
        for path in [*sorted((folder / "audit").iterdir()), folder / "audit.json"]:
            document = json.loads(path.read_text())
            document.pop("prev", None)
            entries = document.pop("entries")
            for one in entries:
                for name in ("prev", "digests", "salts"):
                    del one[name]
            lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in entries)
            path.write_text(
                json.dumps(document, separators=(",", ":"))[:-1] + ',"entries":[\n' + lines + "\n]}\n"
            )
        for name in ("audit-checkpoint.json", "audit-index.json", "audit.key"):
            (folder / name).unlink()
        for kind in KINDS:
            (folder / f"{kind.name}.json").unlink()
        rebase(folder, lambda generations: {name: generations[name] for name in (AUDIT, CLIENTS, TOKENS)})
        return folder

    def test_one_that_has_what_only_newer_versions_wrote(self, old):
        """Otherwise whoever removes three files could have everything signed anew."""
        (old / "tombstones.json").write_text('{"version":1,"journal":1,"tombstones":[]}')
        (old / "tombstones.json").chmod(0o600)
        with pytest.raises(StoreError, match=r"audit\.key"):
            asyncio.run(JsonStores.open(old, now=lambda: NOW))
        assert not (old / "audit.key").exists()

    def test_the_chain_begins_with_the_newest_segment(self, old):
        async def go_on() -> None:
            async with store(old) as stores:
                page = await stores.audit.query(AuditQuery(limit=100))
                assert page.entries[0].method == "store.upgrade"
                assert [e.tool_name for e in page.entries[1:]] == [f"files_{n}" for n in range(22, -1, -1)]
                await stores.audit.append(entry(23))

        asyncio.run(go_on())
        result = report(old)
        assert result.problems == []
        assert (result.first_seq, result.entries, result.before_chain, result.unsigned) == (21, 5, 20, 0)
        index = json.loads((old / "audit-index.json").read_text())
        assert index["start"]["reason"] == "upgraded"

    def test_before_the_first_start_there_is_nothing_to_verify(self, old):
        (problem,) = found(old)
        assert "was written by an older version" in problem

    def test_what_was_sealed_before_is_signed_for_from_then_on(self, old):
        async def go_on() -> None:
            async with store(old):
                pass

        asyncio.run(go_on())
        assert found(old) == []
        path = sealed(old, 2)
        path.write_text(path.read_text().replace("files_7", "files_8"))
        assert found(old) == ["audit/000002.json: it is not the file that was sealed"]

    def test_a_crash_before_anything_is_signed(self, old, tmp_path, monkeypatch):
        async def opened(folder: Path) -> None:
            async with store(folder):
                pass

        async def crash(_self) -> None:
            shutil.copytree(old, tmp_path / "copy")

        with monkeypatch.context() as patch:
            patch.setattr(Checkpointer, "write_now", crash)
            asyncio.run(opened(old))
        result = report(tmp_path / "copy")
        assert (result.problems, result.before_chain) == ([], 23)
        asyncio.run(opened(tmp_path / "copy"))
        result = report(tmp_path / "copy")
        assert (result.problems, result.before_chain, result.entries) == ([], 20, 3)

    def test_a_crash_right_after_the_first_entry(self, old, tmp_path):
        async def interrupted() -> None:
            async with store(old) as stores:
                await stores.audit.append(entry(23))
                shutil.copytree(old, tmp_path / "copy")

        async def again() -> None:
            async with store(tmp_path / "copy") as stores:
                page = await stores.audit.query(AuditQuery(limit=2))
                assert [(e.method, e.tool_name) for e in page.entries] == [
                    (None, "files_23"),
                    ("store.upgrade", None),
                ]

        asyncio.run(interrupted())
        assert found(tmp_path / "copy") == []
        asyncio.run(again())
        assert found(tmp_path / "copy") == []
