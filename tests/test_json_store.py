"""The json backend under its files: what is on disk when, and what a start makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import stat
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence import JsonStores, StoreError, frames, open_stores
from persistence.backup import check
from persistence.changes import PARTS, Bases
from persistence.files import Folder, System
from persistence.records import (
    KINDS,
    REVOKED_CERTIFICATES,
    AuditQuery,
    AuditStatus,
    RevokedCertificate,
)
from tests.stores import (
    NOW,
    TIME,
    client,
    crashed,
    entries,
    entry,
    journals,
    opened,
    read,
    state,
    store,
    token,
    until,
)


async def next_checkpoint(stores: JsonStores) -> None:
    before = stores.stats().checkpoints
    await until(lambda: stores.stats().checkpoints > before)


class TestAtomicity:
    async def test_what_is_acknowledged_survives_a_crash(self, tmp_path):
        async with store(tmp_path / "s") as stores:
            await stores.clients.put(client("a"))
            await stores.tokens.put(token("t1"), token("t2"))
            await stores.audit.append(entry("one"))
            begun = await stores.audit.begin(entry("open"))
            done = await stores.audit.begin(entry("done"))
            done.finish(AuditStatus.OK, timestamp=TIME, duration_ms=1.0)
            await stores.audit.append(entry("two"))
            copy = crashed(tmp_path / "s", tmp_path / "copy")
            begun.finish(AuditStatus.OK, timestamp=TIME, duration_ms=1.0)
        async with store(copy) as stores:
            assert state(stores) == ({"a": client("a")}, {"t1": token("t1"), "t2": token("t2")})
            found = [(e.target, e.status, e.reason) for e in await entries(stores)]
            assert found == [
                ("one", "ok", None),
                ("done", "ok", None),
                ("two", "ok", None),
                ("open", "error", "interrupted"),
            ]
            again = crashed(copy, tmp_path / "again")
        async with store(again) as stores:
            assert [e.target for e in await entries(stores)] == ["one", "done", "two", "open"]

    async def test_a_crash_at_any_instant_while_checkpoints_are_written(self, tmp_path):
        """Before each rename, removal and fsync of a folder, a copy is taken; each copy opens with what was acknowledged."""
        folder = tmp_path / "s"
        acknowledged: list[str] = []
        copies: list[tuple[Path, list[str]]] = []
        numbers = itertools.count()

        class Copying(System):
            def copy(self) -> None:
                known = list(acknowledged)
                target = tmp_path / f"copy{next(numbers)}"
                with contextlib.suppress(shutil.Error):  # a temporary file may go while it is copied
                    copies.append((crashed(folder, target), known))

            def rename(self, source: str, target: str, folder: int) -> None:
                self.copy()
                super().rename(source, target, folder)
                self.copy()

            def unlink(self, name: str, folder: int) -> None:
                self.copy()
                super().unlink(name, folder)
                self.copy()

        async with store(folder, system=Copying(), pause=0.001, segment_bytes=1500) as stores:
            copies.clear()
            for number in range(24):
                await stores.audit.append(entry(str(number)))
                acknowledged.append(str(number))
                if number % 3 == 0:
                    await stores.tokens.put(token(f"t{number}"))
                if number % 8 == 0:
                    await stores.clients.put(client(f"c{number}"))
                    await next_checkpoint(stores)
        assert len(copies) > 20
        for copy, known in copies:
            async with store(copy) as stores:
                targets = [e.target for e in await entries(stores)]
                assert targets[: len(known)] == known
                assert targets == [str(n) for n in range(len(targets))]
                for number in range(0, len(known), 3):
                    if number + 1 < len(known):
                        assert stores.tokens.get(f"t{number}") is not None
                    if number % 8 == 0 and number + 1 < len(known):
                        assert stores.clients.get(f"c{number}") is not None

    async def test_an_intent_outlives_checkpoints(self, tmp_path):
        async with store(tmp_path / "s", pause=0.001) as stores:
            begun = await stores.audit.begin(entry("open"))
            for number in range(3):
                await stores.audit.append(entry(str(number)))
                await next_checkpoint(stores)
            copy = crashed(tmp_path / "s", tmp_path / "copy")
            begun.finish(AuditStatus.OK, timestamp=TIME, duration_ms=1.0)
            assert [e.target for e in await entries(stores)] == ["0", "1", "2", "open"]
        async with store(copy) as stores:
            assert [(e.target, e.reason) for e in await entries(stores)][-1] == ("open", "interrupted")

    async def test_making_a_store_may_be_interrupted_anywhere(self, tmp_path):
        folder = tmp_path / "s"
        copies: list[Path] = []

        class Copying(System):
            def rename(self, source: str, target: str, descriptor: int) -> None:
                copies.append(crashed(folder, tmp_path / f"copy{len(copies)}"))
                super().rename(source, target, descriptor)

            def unlink(self, name: str, descriptor: int) -> None:
                copies.append(crashed(folder, tmp_path / f"copy{len(copies)}"))
                super().unlink(name, descriptor)

        async with store(folder, system=Copying()):
            pass
        assert len(copies) >= 6
        for copy in copies:
            async with store(copy) as stores:
                await stores.tokens.put(token("t"))
            assert not (copy / "initialising").exists()


class TestCheckpoints:
    async def test_an_idle_store_shows_a_write_in_its_file(self, tmp_path):
        stores = await open_stores(tmp_path / "s", now=lambda: NOW)
        await stores.tokens.put(token("t1"))
        await until(lambda: read(tmp_path / "s" / "tokens.json")["tokens"])
        await stores.close()

    async def test_the_files_have_their_promised_shape(self, tmp_path):
        async with store(tmp_path / "s") as stores:
            await stores.clients.put(client("a"))
            await stores.tokens.put(token("t1"))
            await stores.audit.append(entry("x"))
        tokens, clients, audit = (
            read(tmp_path / "s" / f"{name}.json") for name in ("tokens", "clients", "audit")
        )
        assert tokens["version"] == clients["version"] == audit["version"] == 1
        assert tokens["journal"] == clients["journal"] == audit["journal"] == 2
        assert tokens["tokens"] == [json.loads(msgspec.json.encode(token("t1")))]
        assert clients["clients"] == [json.loads(msgspec.json.encode(client("a")))]
        (line,) = audit["entries"]
        in_the_chain = {name: line.pop(name) for name in ("seq", "prev", "digests", "salts")}
        assert line == msgspec.to_builtins(entry("x"))
        assert (in_the_chain["seq"], in_the_chain["prev"]) == (1, "A" * 43)
        assert in_the_chain["digests"].keys() == in_the_chain["salts"].keys() == {"target"}
        assert [path.name for path in journals(tmp_path / "s")] == ["journal-000000002.log"]
        assert len((tmp_path / "s" / "tokens.json").read_text().splitlines()) == 3

    async def test_nothing_is_written_where_nothing_changed(self, tmp_path):
        async with store(tmp_path / "s") as stores:
            await stores.tokens.put(token("t1"))
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.json")}
        names = journals(tmp_path / "s")
        async with store(tmp_path / "s"):
            pass
        assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.json")} == before
        assert journals(tmp_path / "s") == names

    async def test_a_part_that_did_not_change_keeps_its_file(self, tmp_path):
        folder = tmp_path / "s"
        async with store(folder) as stores:
            await stores.tokens.put(token("t1"))
        inode = (folder / "tokens.json").stat().st_ino
        for number in range(3):
            async with store(folder) as stores:
                await stores.audit.append(entry(str(number)))
        assert (folder / "tokens.json").stat().st_ino == inode
        assert (read(folder / "tokens.json")["journal"], read(folder / "audit.json")["journal"]) == (2, 5)
        async with store(folder) as stores:
            assert stores.tokens.get("t1") == token("t1")
            assert len(await entries(stores)) == 3

    async def test_an_older_copy_of_one_file_is_noticed(self, tmp_path):
        folder = tmp_path / "s"
        async with store(folder) as stores:
            await stores.tokens.put(token("t1"))
        shutil.copy(folder / "tokens.json", tmp_path / "old.json")
        async with store(folder) as stores:
            await stores.tokens.put(token("t1", revoked_at=TIME))
        shutil.copy(tmp_path / "old.json", folder / "tokens.json")
        with pytest.raises(StoreError, match=r"journal-000000002\.log is missing, and tokens\.json needs it"):
            await opened(folder)

    async def test_purged_tokens_leave_the_file(self, tmp_path):
        async with store(tmp_path / "s", pause=0.001) as stores:
            await stores.tokens.put(token("t1", exp=int(NOW) + 1), token("t2"))
            assert stores.tokens.purge(NOW + 5) == 1
            await until(
                lambda: [t["token_id"] for t in read(tmp_path / "s" / "tokens.json")["tokens"]] == ["t2"]
            )

    async def test_many_tokens_keep_their_order(self, tmp_path):
        many = [token(f"t{n}", exp=int(NOW) + 1 + n % 7) for n in range(5000)]
        async with store(tmp_path / "s") as stores:
            await stores.tokens.put(*many)
        async with store(tmp_path / "s") as stores:
            assert list(stores.tokens) == many

    async def test_a_family_of_many_tokens_is_kept_in_order_and_shrinks(self, tmp_path):
        many = [token(f"t{n}", exp=int(NOW) + 1 + n % 7, family_id="key") for n in range(50)]
        async with store(tmp_path / "s") as stores:
            await stores.tokens.put(*many)
            assert stores.tokens.of_family("key") == many
            assert stores.tokens.purge(NOW + 4) == 22
            left = [each for each in many if each.exp >= NOW + 4]
            assert stores.tokens.of_family("key") == stores.tokens.of_client(many[0].client_id) == left
            assert stores.tokens.purge(NOW + 100) == len(left)
            assert stores.tokens.of_family("key") == stores.tokens.of_client(many[0].client_id) == []

    async def test_a_file_that_was_written_otherwise_is_read(self, tmp_path):
        folder = tmp_path / "s"
        async with store(folder) as stores:
            await stores.clients.put(client("a", email="é"))
            await stores.tokens.put(token("t1"))
            await stores.audit.append(entry("x"))
        for name in ("clients.json", "tokens.json", "audit.json"):
            (folder / name).write_text(json.dumps(read(folder / name), indent=4))
        async with store(folder) as stores:
            assert state(stores) == ({"a": client("a", email="é")}, {"t1": token("t1")})
            await stores.audit.append(entry("y"))
        async with store(folder) as stores:
            assert await entries(stores) == [entry("x"), entry("y")]


class TestSegments:
    async def test_a_large_segment_is_sealed_and_still_found(self, tmp_path):
        folder = tmp_path / "s"
        times = [f"2027-01-15T08:{n // 60:02d}:{n % 60:02d}.000Z" for n in range(90)]
        async with store(folder, pause=0.001, segment_bytes=4000) as stores:
            for number, time in enumerate(times):
                await stores.audit.append(
                    msgspec.structs.replace(entry(str(number), client_id=f"c{number % 3}"), timestamp=time)
                )
                if number % 30 == 29:
                    await until(lambda n=number // 30 + 1: len(list((folder / "audit").glob("*.json"))) >= n)
            await until(lambda: not read(folder / "audit.json")["entries"])
            sealed = sorted((folder / "audit").glob("*.json"))
            assert [path.name for path in sealed] == [f"{n + 1:06d}.json" for n in range(len(sealed))]
            sealed_entries = [one for path in sealed for one in read(path)["entries"]]
            assert [one["seq"] for one in sealed_entries] == list(range(1, 91))
            content = {path: path.read_bytes() for path in sealed}
            assert [e.target for e in await entries(stores)] == [str(n) for n in range(90)]
            assert [e.target for e in await entries(stores, client_id="c1")] == [
                str(n) for n in range(1, 90, 3)
            ]
            assert [e.target for e in await entries(stores, since=times[85])] == [
                "85",
                "86",
                "87",
                "88",
                "89",
            ]
            assert [e.target for e in await entries(stores, until=times[2])] == ["0", "1"]
            page = await stores.audit.query(AuditQuery(limit=50))
            rest = await stores.audit.query(AuditQuery(limit=50, cursor=page.next_cursor))
            assert [e.target for e in (*page.entries, *rest.entries)] == [str(n) for n in range(89, -1, -1)]
            assert rest.next_cursor is None
        async with store(folder) as stores:
            await stores.audit.append(entry("last"))
            assert [e.target for e in await entries(stores)][-2:] == ["89", "last"]
            assert {path: path.read_bytes() for path in sealed} == content

    async def test_a_timestamp_that_is_none_counts_as_old(self, tmp_path):
        async with store(tmp_path / "s", segment_bytes=10) as stores:
            await stores.audit.append(msgspec.structs.replace(entry("x"), timestamp="?"))
            await stores.audit.append(entry("y"))
        async with store(tmp_path / "s") as stores:
            assert [e.target for e in await entries(stores)] == ["x", "y"]
            assert [e.target for e in await entries(stores, since=TIME)] == ["y"]
            assert [e.target for e in await entries(stores, until=TIME)] == ["x"]

    async def test_a_sealed_segment_that_is_gone_is_damage(self, tmp_path):
        folder = tmp_path / "s"
        async with store(folder, segment_bytes=10) as stores:
            await stores.audit.append(entry("x"))
        (folder / "audit" / "000001.json").unlink()
        with pytest.raises(StoreError, match=r"000001\.json is missing"):
            await opened(folder)

    async def test_a_sealed_segment_that_is_damaged_is_named(self, tmp_path):
        folder = tmp_path / "s"
        async with store(folder, segment_bytes=10) as stores:
            await stores.audit.append(entry("x"))
        (folder / "audit" / "000001.json").write_text('{"version":1}')
        async with store(folder) as stores:
            with pytest.raises(StoreError, match=r"000001\.json"):
                await stores.audit.query(AuditQuery())


def remade_without(folder: Path, collection: str) -> None:
    """The store as a version that did not know that collection would have left it."""
    journal = folder / "journal-000000002.log"
    generations = {p: read(folder / f"{p}.json")["journal"] for p in PARTS if p != collection}
    payload = msgspec.json.encode(Bases(generations))
    journal.write_bytes(frames.header(2) + frames.frame(1, [payload]))
    (folder / f"{collection}.json").unlink()


class TestDamage:
    @pytest.fixture
    async def folder(self, tmp_path) -> Path:
        async with store(tmp_path / "s") as stores:
            await stores.clients.put(client("a"))
            await stores.tokens.put(token("t1"))
            await stores.audit.append(entry("x"))
        return tmp_path / "s"

    @pytest.mark.parametrize(
        "name",
        ["clients.json", "tokens.json", "audit.json", "revoked_certificates.json", "journal-000000002.log"],
    )
    async def test_a_missing_file_is_never_a_new_installation(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(StoreError, match=name):
            await opened(folder)

    async def test_a_store_of_a_version_without_a_collection_gets_its_file(self, folder):
        remade_without(folder, "revoked_certificates")
        assert (await check(folder)).problems == ()
        async with store(folder, pause=60) as stores:
            assert stores.clients.get("a") == client("a")
            kept = stores.collection(REVOKED_CERTIFICATES)
            await kept.put(RevokedCertificate(revocation_id="r", revoked_at=TIME))
            # As after a crash: what was acknowledged is in the journal alone.
            shutil.copytree(folder, folder.with_name("crashed"))
        for path in (folder, folder.with_name("crashed")):
            async with store(path) as stores:
                assert [each.revocation_id for each in stores.collection(REVOKED_CERTIFICATES)] == ["r"]
            (path / "revoked_certificates.json").unlink()
            with pytest.raises(StoreError, match=r"revoked_certificates\.json cannot be opened"):
                await opened(path)

    async def test_a_collection_of_a_newer_version_is_not_lost_unsaid(self, folder):
        journal = folder / "journal-000000002.log"
        payload = b'{"type":"collection","collection":"wishes","put":[{"wish":1}]}'
        journal.write_bytes(journal.read_bytes() + frames.frame(2, [payload]))
        with pytest.raises(StoreError, match=r"journal-000000002\.log holds what this version .* 'wishes'"):
            await opened(folder)

    @given(data=st.data())
    @settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_a_byte_that_went_bad_is_never_served(self, folder, data):
        """Every file of records: the start is refused, or what is served is what was written."""
        path = folder / f"{data.draw(st.sampled_from([part for part in PARTS if part != 'audit']))}.json"
        content = path.read_bytes()
        at = data.draw(st.integers(0, len(content) - 1))
        other = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
        path.write_bytes(content[:at] + bytes([other]) + content[at + 1 :])
        try:
            asyncio.run(self.is_whole(folder))
        except StoreError as error:
            assert path.name in str(error) or "journal" in str(error)  # noqa: PT017 - or it is whole
        finally:
            path.write_bytes(content)

    @staticmethod
    async def is_whole(folder: Path) -> None:
        """Reads alone, so that nothing is written."""
        stores = await JsonStores.read_only(Folder(folder, system=System()))
        assert list(stores.clients) == [client("a")]
        assert list(stores.tokens) == [token("t1")]
        assert [len(stores.collection(kind)) for kind in KINDS] == [0] * len(KINDS)

    @pytest.mark.parametrize("count", [3, 8000])
    @pytest.mark.parametrize("sealed", [True, False])
    async def test_what_is_no_text_is_damage_and_names_the_file(self, tmp_path, count, sealed):
        folder = tmp_path / "s"
        async with store(folder) as stores:
            await stores.tokens.put(*(token(f"token{number}") for number in range(count)))
        path = folder / "tokens.json"
        content = path.read_bytes().replace(b"token1", b"tok\xe5n1", 1)
        if sealed:
            body = content[: content.rindex(b',"crc32"')]
            content = body + b',"crc32":"%08x"}\n' % zlib.crc32(body)
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"tokens\.json is damaged"):
            await opened(folder)
        assert any("tokens.json is damaged" in problem for problem in (await check(folder)).problems)

    async def test_what_is_nested_without_end_is_damage(self, folder):
        path = folder / "clients.json"
        nested = b'"more":' + b"[" * 100_000 + b"]" * 100_000
        path.write_bytes(path.read_bytes().replace(b'"client_id"', nested + b',"client_id"', 1))
        body = path.read_bytes()
        path.write_bytes(body[: body.rindex(b',"crc32"')] + b"}\n")
        with pytest.raises(StoreError, match=r"clients\.json is damaged"):
            await opened(folder)

    @pytest.mark.parametrize("name", ["clients", "tokens", "revoked_certificates"])
    async def test_a_file_of_a_version_without_checksums_is_read(self, folder, name):
        path = folder / f"{name}.json"
        content = path.read_bytes()
        older = re.sub(rb',"crc32":"[0-9a-f]{8}"', b"", content)
        assert older != content
        path.write_bytes(older)
        async with store(folder) as stores:
            assert list(stores.clients) == [client("a")]
            assert list(stores.tokens) == [token("t1")]

    async def test_all_but_sealed_segments_missing(self, tmp_path):
        async with store(tmp_path / "s", segment_bytes=10) as stores:
            await stores.audit.append(entry("x"))
        for path in (tmp_path / "s").iterdir():
            if path.is_file():
                path.unlink()
        with pytest.raises(StoreError, match=r"clients\.json"):
            await opened(tmp_path / "s")

    @pytest.mark.parametrize("name", ["clients.json", "tokens.json", "audit.json"])
    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", '{"version": 1}', '{"version": 1, "journal": 2, "clients": [{}]}', "\0" * 50],
    )
    async def test_a_file_that_is_not_one(self, folder, name, content):
        (folder / name).write_text(content)
        with pytest.raises(StoreError, match=f"{name} is damaged"):
            await opened(folder)

    @pytest.mark.parametrize("name", ["clients.json", "tokens.json", "audit.json"])
    async def test_another_version(self, folder, name):
        (folder / name).write_text('{"version": 2, "all": "else"}')
        with pytest.raises(StoreError, match=f"{name} has version 2"):
            await opened(folder)

    @pytest.mark.parametrize("seqs", [[2], [1, 1], [1, 3]])
    async def test_audit_entries_out_of_order(self, folder, seqs):
        audit = read(folder / "audit.json")
        audit["entries"] = [audit["entries"][0] | {"seq": seq} for seq in seqs]
        (folder / "audit.json").write_text(json.dumps(audit))
        with pytest.raises(StoreError, match="audit"):
            await opened(folder)

    async def test_a_client_twice_and_a_certificate_twice(self, folder):
        path = folder / "clients.json"
        clients = read(path)
        one = msgspec.to_builtins(client("b", certificate="x"))
        path.write_text(json.dumps(clients | {"clients": [one, one]}))
        with pytest.raises(StoreError, match=r"clients\.json has client 'b' twice"):
            await opened(folder)
        path.write_text(json.dumps(clients | {"clients": [one, one | {"client_id": "c"}]}))
        with pytest.raises(StoreError, match=r"clients\.json: the certificate id 'x'"):
            await opened(folder)

    async def test_a_refused_start_lets_go_of_the_lock(self, folder):
        content = (folder / "tokens.json").read_bytes()
        (folder / "tokens.json").write_text("{")
        with pytest.raises(StoreError):
            await opened(folder)
        (folder / "tokens.json").write_bytes(content)
        async with store(folder) as stores:
            assert stores.tokens.get("t1") == token("t1")

    async def test_it_is_all_private(self, folder):
        for path in folder.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        (folder / "clients.json").chmod(0o640)
        with pytest.raises(StoreError, match=r"clients\.json has mode 0640.*chmod 600"):
            await opened(folder)


class TestFifos:
    """A FIFO in a file's place: whoever opened it plainly would wait for its other end for ever."""

    @pytest.mark.parametrize(
        "name", ["clients.json", "tokens.json", "audit.json", "audit-index.json", "audit.key", "journal"]
    )
    async def test_is_refused(self, tmp_path, name):
        folder = tmp_path / "s"
        async with store(folder) as stores:
            await stores.tokens.put(token("t"))
        path = journals(folder)[-1] if name == "journal" else folder / name
        path.unlink()
        os.mkfifo(path, 0o600)
        async with asyncio.timeout(20):
            with pytest.raises(StoreError, match=rf"{re.escape(path.name)} is not a file: move it away"):
                await opened(folder)
            assert any(f"{path.name} is not a file" in problem for problem in (await check(folder)).problems)

    async def test_where_checkpoints_are_published(self, tmp_path):
        published = tmp_path / "published.json"
        os.mkfifo(published, 0o600)
        async with asyncio.timeout(20):
            with pytest.raises(StoreError, match=r"published\.json is not a file: move it away"):
                await opened(tmp_path / "s", checkpoint_file=published)

    async def test_an_empty_folder_is_no_new_store_where_an_audit_was_published(self, tmp_path):
        published = tmp_path / "published.json"
        async with store(tmp_path / "s", checkpoint_file=published) as stores:
            await stores.audit.append(entry("a"))
        evidence = published.read_bytes()
        shutil.rmtree(tmp_path / "s")
        for _ in range(2):
            with pytest.raises(StoreError, match=r"published\.json is signed for audit entry 1"):
                await opened(tmp_path / "s", checkpoint_file=published)
        assert published.read_bytes() == evidence
        published.unlink()
        async with store(tmp_path / "s", checkpoint_file=published):
            pass

    async def test_a_damaged_published_checkpoint_is_not_the_stores_damage(self, tmp_path):
        published = tmp_path / "published.json"
        published.write_text("{}")
        with pytest.raises(StoreError, match=r"published\.json is damaged: keep it as evidence, and move"):
            await opened(tmp_path / "s", checkpoint_file=published)
