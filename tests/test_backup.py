"""Backups: a store in one file beside whoever writes to it, and back again."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import stat
import tarfile
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

import tests.stores
from persistence import StoreError
from persistence.audit_verify import verify
from persistence.backup import back_up, check, restore
from persistence.records import AuditQuery, ClientRecord, TokenKind, TokenRecord
from persistence.snapshot import take_snapshot
from tests.stores import NOW, TIME, entries, entry
from tests.stores import store as opened_store

opened = partial(tests.stores.opened, segment_bytes=2000)


def client(client_id: str) -> ClientRecord:
    return ClientRecord(
        client_id=client_id, username=client_id, user_id="u", created_at=TIME, updated_at=TIME
    )


def token(token_id: str) -> TokenRecord:
    return TokenRecord(
        token_id=token_id, client_id="a", kind=TokenKind.ACCESS, exp=int(NOW) + 60, created_at=TIME
    )


async def seen(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Clients, tokens and audited targets of the store in that folder."""
    stores = await opened(folder)
    try:
        page = await stores.audit.query(AuditQuery(limit=1000))
        entries = list(page.entries)
        while page.next_cursor is not None:
            page = await stores.audit.query(AuditQuery(limit=1000, cursor=page.next_cursor))
            entries += page.entries
        targets = [e.target for e in entries if e.event == "tool_call"][::-1]
        return [c.client_id for c in stores.clients], [t.token_id for t in stores.tokens], targets
    finally:
        await stores.close()


async def put_back(file: Path, folder: Path) -> None:
    with file.open("rb") as content:
        await restore(content, folder)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
async def store(tmp_path) -> Path:
    """A store with sealed segments, files and a journal that nobody folded in."""
    folder = tmp_path / "s"
    for round_ in range(2):
        stores = await opened(folder)
        await stores.clients.put(client(f"c{round_}"))
        await stores.tokens.put(token(f"t{round_}"))
        for number in range(10):
            await stores.audit.append(entry(f"{round_}-{number}"))
        await stores.close()
    stores = await opened(folder)
    await stores.tokens.put(token("t2"))
    shutil.copytree(folder, tmp_path / "copy")
    await stores.close()
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    (folder / "lock").unlink()
    return folder


EXPECTED = (["c0", "c1"], ["t0", "t1", "t2"], [f"{r}-{n}" for r in range(2) for n in range(10)])


def repack(backup: Path, name: str, content: bytes) -> None:
    """The same backup with another content of one file, and a manifest that fits."""
    with tarfile.open(backup) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    files[name] = content
    manifest = json.loads(files.pop("manifest.json"))
    for file in manifest["files"]:
        if file["name"] == name:
            file |= {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    with tarfile.open(backup, "w") as tar:
        for each, data in {"manifest.json": json.dumps(manifest).encode(), **files}.items():
            member = tarfile.TarInfo(each)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


class TestBackup:
    async def test_there_and_back(self, tmp_path, store):
        before = content_of(store)
        manifest = await back_up(store, tmp_path / "b.tar", made_at=TIME)
        assert content_of(store) == before
        assert (manifest.clients, manifest.tokens, manifest.made_at) == (2, 3, TIME)
        assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600
        await put_back(tmp_path / "b.tar", tmp_path / "new")
        assert content_of(tmp_path / "new") == before
        for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert await seen(tmp_path / "new") == EXPECTED
        assert sorted(p.name for p in tmp_path.iterdir()) == ["b.tar", "new", "s"]

    async def test_any_tar_reads_it(self, tmp_path, store):
        await back_up(store, tmp_path / "b.tar", made_at=TIME)
        with tarfile.open(tmp_path / "b.tar") as tar:
            names = tar.getnames()
            manifest = json.load(tar.extractfile("manifest.json"))
        assert names[0] == "manifest.json"
        assert sorted(names[1:]) == sorted(content_of(store))
        assert [file["name"] for file in manifest["files"]] == names[1:]

    async def test_beside_a_store_that_is_being_written(self, tmp_path):
        """Each backup holds what was acknowledged before it began, and the order of what it holds has no gap."""
        stores = await opened(tmp_path / "s", pause=0.001)
        written = 0
        ended = False

        async def write() -> None:
            nonlocal written
            while not ended:
                await asyncio.gather(
                    stores.tokens.put(token(f"t{written}")), stores.audit.append(entry(str(written)))
                )
                written += 1

        writer = asyncio.create_task(write())
        known: list[int] = []
        while len(known) < 12 or stores.stats().checkpoints < 5:
            known.append(written)
            await back_up(tmp_path / "s", tmp_path / f"b{len(known) - 1}.tar", made_at=TIME)
        ended = True
        await writer
        await stores.close()
        assert known[-1] > 20
        for number, least in enumerate(known):
            await put_back(tmp_path / f"b{number}.tar", tmp_path / f"r{number}")
            _, tokens, targets = await seen(tmp_path / f"r{number}")
            assert least <= len(tokens) == len(targets)
            assert tokens == [f"t{n}" for n in range(len(tokens))]
            assert targets == [str(n) for n in range(len(targets))]

    async def test_files_that_are_replaced_are_read_as_they_were(self, tmp_path, store):
        before = content_of(store)
        snapshot = take_snapshot(store)
        stores = await opened(store)
        await stores.clients.put(client("later"))
        await stores.close()
        assert content_of(store) != before
        assert {name: b"".join(held.pieces()) for name, held in snapshot.held.items()} == before
        snapshot.close()

    async def test_a_frame_that_is_being_written_is_left_out(self, tmp_path, store):
        journal = max(store.glob("journal-*.log"))
        whole = journal.read_bytes()
        journal.write_bytes(whole + b"0badc0de 9 17 [{")
        await back_up(store, tmp_path / "b.tar", made_at=TIME)
        await put_back(tmp_path / "b.tar", tmp_path / "new")
        assert (tmp_path / "new" / journal.name).read_bytes() == whole

    @pytest.mark.parametrize("name", ["clients.json~", ".clients.json.swp", "README", "b1.tar", "fifo"])
    async def test_what_is_not_the_stores_is_not_in_it(self, tmp_path, store, name):
        if name == "fifo":
            os.mkfifo(store / name)
        else:
            (store / name).write_text("x")
            (store / name).chmod(0o644)
        assert (await check(store)).problems == ()
        manifest = await back_up(store, tmp_path / "b", made_at=TIME)
        assert name not in {file.name for file in manifest.files}
        await put_back(tmp_path / "b", tmp_path / "again")
        assert await seen(tmp_path / "again") == EXPECTED
        assert (await verify(store)).problems == []

    async def test_nothing_is_overwritten(self, tmp_path, store):
        (tmp_path / "b.tar").write_text("precious")
        with pytest.raises(StoreError, match=r"b\.tar is there already"):
            await back_up(store, tmp_path / "b.tar", made_at=TIME)
        assert (tmp_path / "b.tar").read_text() == "precious"

    async def test_a_damaged_store_is_not_backed_up(self, tmp_path, store):
        (store / "tokens.json").write_text("{")
        with pytest.raises(StoreError, match=r"tokens\.json is damaged"):
            await back_up(store, tmp_path / "b.tar", made_at=TIME)
        assert not (tmp_path / "b.tar").exists()

    @pytest.mark.parametrize("packed", [True, False])
    async def test_a_store_with_a_bent_segment_is_not_backed_up(self, tmp_path, store, packed):
        path = min((store / "audit").iterdir())
        content = path.read_bytes()
        if packed:  # what was bent later is not restored either
            await back_up(store, tmp_path / "b", made_at=TIME)
            repack(tmp_path / "b", f"audit/{path.name}", content.replace(b'"ok"', b'"no"', 1))
            with pytest.raises(StoreError, match=f"{path.name} is damaged"):
                await put_back(tmp_path / "b", tmp_path / "again")
            assert not (tmp_path / "again").exists()
        else:
            path.write_bytes(content.replace(b'"ok"', b'"no"', 1))
            with pytest.raises(StoreError, match=f"{path.name} is damaged"):
                await back_up(store, tmp_path / "b", made_at=TIME)
            assert not (tmp_path / "b").exists()

    async def test_no_store(self, tmp_path):
        with pytest.raises(StoreError, match="there is no store"):
            await back_up(tmp_path / "none", tmp_path / "b.tar", made_at=TIME)
        assert list(tmp_path.iterdir()) == []

    async def test_a_file_that_cannot_be_written(self, tmp_path, store):
        with pytest.raises(FileNotFoundError):
            await back_up(store, tmp_path / "none" / "b.tar", made_at=TIME)


class TestRestore:
    @pytest.fixture
    async def backup(self, tmp_path, store) -> Path:
        await back_up(store, tmp_path / "b.tar", made_at=TIME)
        return tmp_path / "b.tar"

    async def test_an_empty_folder_is_taken(self, tmp_path, backup):
        (tmp_path / "new").mkdir(mode=0o700)
        await put_back(backup, tmp_path / "new")
        assert await seen(tmp_path / "new") == EXPECTED

    async def test_a_link_to_an_empty_folder_is_followed(self, tmp_path, backup):
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "real")
        await put_back(backup, tmp_path / "link")
        assert await seen(tmp_path / "real") == EXPECTED
        assert (tmp_path / "link").is_symlink()

    async def test_a_store_is_never_overwritten(self, tmp_path, backup, store):
        before = content_of(store)
        with pytest.raises(StoreError, match=rf"not empty.*mv {store} {store}\.old"):
            await put_back(backup, store)
        assert content_of(store) == before

    async def test_any_damage_is_found_and_nothing_is_left_behind(self, tmp_path, backup):
        data = backup.read_bytes()
        step = max(1, len(data) // 60)
        refused = 0
        for place in range(0, len(data), step):
            bad = bytearray(data)
            bad[place] ^= 0x41
            try:
                await restore(io.BytesIO(bytes(bad)), tmp_path / "new")
            except StoreError:
                refused += 1
                assert not (tmp_path / "new").exists()
                assert not (tmp_path / "new.restoring").exists()
            else:  # padding, or a field of a tar header that nobody reads
                assert await seen(tmp_path / "new") == EXPECTED
                shutil.rmtree(tmp_path / "new")
        assert refused > 20

    async def test_one_that_was_cut_off_is_refused(self, tmp_path, backup):
        data = backup.read_bytes()
        content_end = data.rstrip(b"\0")
        for end in range(0, len(content_end) - 1024, 1024):
            with pytest.raises(StoreError, match="that is no backup, or it is damaged"):
                await restore(io.BytesIO(data[:end]), tmp_path / "new")
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        "name", ["../evil", "/etc/evil", "audit/../../evil", "audit/x/y", ".hidden", "a b"]
    )
    async def test_names_that_lead_elsewhere(self, tmp_path, name):
        data = b"x"
        manifest = json.dumps(
            {
                "version": 1,
                "made_at": TIME,
                "clients": 0,
                "tokens": 0,
                "files": [{"name": name, "bytes": 1, "sha256": ""}],
            }
        ).encode()
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            for member, content in (("manifest.json", manifest), (name, data)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        made.seek(0)
        (tmp_path / "deep").mkdir()
        with pytest.raises(StoreError, match="no name of a store's file"):
            await restore(made, tmp_path / "deep" / "new")
        assert list((tmp_path / "deep").iterdir()) == []

    async def test_links_are_refused(self, tmp_path, backup):
        made = io.BytesIO()
        with tarfile.open(backup) as old, tarfile.open(fileobj=made, mode="w") as tar:
            for member in old:
                if member.name == "tokens.json":
                    member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
                tar.addfile(member, old.extractfile(member) if member.isreg() else None)
        made.seek(0)
        with pytest.raises(StoreError, match=r"tokens\.json"):
            await restore(made, tmp_path / "new")

    async def test_what_is_entered_is_there_when_the_store_is(self, tmp_path, backup):
        async def enter(folder: Path) -> None:
            assert not (tmp_path / "new").exists()
            async with opened_store(folder) as stores:
                await stores.audit.append(entry("store.restore"))

        with backup.open("rb") as file:
            await restore(file, tmp_path / "new", enter=enter)
        async with opened_store(tmp_path / "new") as stores:
            assert (await entries(stores))[-1].target == "store.restore"

    async def test_a_restore_that_was_killed_says_what_to_remove(self, tmp_path, backup):
        (tmp_path / "new.restoring").mkdir()
        with pytest.raises(StoreError, match=r"new\.restoring is left.*remove that folder"):
            await put_back(backup, tmp_path / "new")

    async def test_another_version(self, tmp_path):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            content = b'{"version": 2, "made_at": "", "clients": 0, "tokens": 0, "files": []}'
            info = tarfile.TarInfo("manifest.json")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        made.seek(0)
        with pytest.raises(StoreError, match="version 2"):
            await restore(made, tmp_path / "new")


class TestCheck:
    async def test_nothing_is_wrong(self, store):
        before = content_of(store)
        checked = await check(store)
        assert checked.problems == ()
        assert (checked.clients, checked.tokens) == (2, 3)
        assert [file.name for file in checked.files] == sorted(before)
        assert content_of(store) == before

    async def test_every_file_that_is_damaged_is_named(self, store):
        names = [name for name in content_of(store) if not name.endswith(".key")]
        for name in names:
            path = store / name
            content = path.read_bytes()
            place = content.index(b"\n") // 2
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
            checked = await check(store)
            assert checked.problems, name
            damaged = [file.name for file in checked.files if file.problem]
            assert damaged == [name] or any(name in problem for problem in checked.problems), name
            path.write_bytes(content)
        assert (await check(store)).problems == ()

    async def test_several_at_once(self, store):
        (store / "tokens.json").write_text("{")
        (store / "clients.json").write_text("{")
        (store / "audit.json").chmod(0o640)
        checked = await check(store)
        assert {"tokens.json", "clients.json", "audit.json"} == {f.name for f in checked.files if f.problem}

    @pytest.mark.parametrize("which", ["clients.json", "journal", "audit/000001.json"])
    async def test_a_missing_file_is_named(self, store, which):
        path = max(store.glob("journal-*")) if which == "journal" else store / which
        path.unlink()
        checked = await check(store)
        assert any(path.name in problem for problem in checked.problems)

    async def test_beside_a_store_that_is_open(self, tmp_path):
        stores = await opened(tmp_path / "s", pause=0.001)
        for number in range(60):
            await stores.audit.append(entry(str(number)))
            assert (await check(tmp_path / "s")).problems == ()
        await stores.close()


class TestCommands:
    def test_beside_a_running_server(self, home, caller, tmp_path):
        home.client("reports")
        served = home.serve()
        token = (
            caller(served, home.folder / "clients" / "reports").ask("GET", "/auth/token").json["access_token"]
        )
        made = home.json("backup", str(tmp_path / "b.tar"))
        assert (made["clients"], made["tokens"]) == (2, 1)
        assert home.json("store", "check")["ok"] is True
        assert "Nothing is wrong" in home.cli("store", "check").stdout
        served.kill()
        store = home.folder / "persistence"
        refused = home.cli("restore", str(tmp_path / "b.tar"), check=False)
        assert refused.returncode == 1
        assert "is not empty" in refused.stderr
        store.rename(home.folder / "old")
        home.cli("restore", str(tmp_path / "b.tar"))
        served = home.serve()
        with_token = caller(served, home.folder / "clients" / "reports", token)
        assert with_token.rpc("tools/list").status == 200
        entries = home.json("audit", "query", "--event", "admin_change")["entries"]
        assert entries[0]["method"] == "store.restore"
        assert entries[0]["target"] == "b.tar"

    def test_check_fails_where_something_is_wrong(self, home):
        path = home.folder / "persistence" / "tokens.json"
        path.write_text("{")
        done = home.cli("store", "check", check=False)
        assert done.returncode == 1
        assert "tokens.json" in done.stderr
        assert "ostiary restore FILE" in done.stderr
        report = home.cli("store", "check", "--json", check=False)
        assert report.returncode == 1
        assert json.loads(report.stdout)["ok"] is False
