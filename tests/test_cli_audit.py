"""``ostiary audit verify``, ``export``, ``prune`` and ``key``, through the real command."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persistence import JsonStores
from persistence.records import AuditEntry, AuditStatus
from tests import commands
from tests.commands import ROOT

PYTHON = [sys.executable, "-m", "gateway"]
NOW = 1_800_000_000.0

Run = Callable[..., subprocess.CompletedProcess[str]]


def ostiary(*words: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = commands.ostiary(*words, stdin=stdin)
    assert done.returncode == code, f"{words}: {done.returncode} {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


async def fill(store: Path, years: tuple[int, ...] = (2020, 2021, 2022, 2023, 2024)) -> None:
    """A sealed segment of four entries for each of the years, and two newer ones."""
    for turn, year in enumerate(years):
        stores = await JsonStores.open(store, now=lambda: NOW, pause=3600, segment_bytes=1)
        for number in range(4):
            await stores.audit.append(
                AuditEntry(
                    timestamp=f"{year}-01-0{number + 1}T08:00:00.000Z",
                    event="tool_call",
                    status=AuditStatus.OK,
                    client_id="alice",
                    tool_name=f"files_{turn}{number}",
                    target='=HYPERLINK("x")',
                )
            )
        await stores.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "gateway"
    ostiary("init", str(folder), "--password-stdin", stdin="Correct-Horse-7-Battery\n")
    shutil.rmtree(folder / "persistence")
    asyncio.run(fill(folder / "persistence"))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "door"))


@pytest.fixture
def run(folder: Path) -> Run:
    def running(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return ostiary("audit", *words, "--config", str(folder / "ostiary.toml"), **more)

    return running


def shown(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


# verify


def test_an_audit_that_is_as_it_was_written(run: Run) -> None:
    done = run("verify")
    assert "The audit is as it was written." in done.stdout
    assert re.search(r"entries +20 \(1 to 20\)", done.stdout)
    document = shown(run("verify", "--json"))
    assert (document["intact"], document["problems"], document["entries"]) == (True, [], 20)
    assert (document["segments"], document["signed_seq"], document["unsigned"]) == (5, 20, 0)
    assert run("key").stdout.strip() == document["key"]
    assert run("verify", "--key", document["key"])


def test_where_it_is_not(run: Run, folder: Path) -> None:
    path = folder / "persistence" / "audit" / "000002.json"
    path.write_text(path.read_text().replace("files_12", "files_99"))
    done = run("verify", code=1)
    assert "audit/000002.json, entry 8: it does not hold the hash of the entry before" in done.stderr
    assert "the audit is NOT as it was written" in done.stderr
    document = shown(run("verify", "--json", code=1))
    assert document["intact"] is False
    assert (document["problems"][0]["file"], document["problems"][0]["seq"]) == ("audit/000002.json", 8)


def test_against_a_checkpoint_that_was_kept(run: Run, folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    shutil.copy(folder / "persistence" / "audit-checkpoint.json", kept)
    run("verify", "--checkpoint", str(kept))
    shutil.rmtree(folder / "persistence")
    asyncio.run(fill(folder / "persistence"))
    run("verify")
    done = run("verify", "--checkpoint", str(kept), code=1)
    assert "the published checkpoint is signed for" in done.stderr
    kept.write_text("{}")
    assert "kept.json is damaged" in run("verify", "--checkpoint", str(kept), code=1).stderr
    assert "No such file" in run("verify", "--checkpoint", str(tmp_path / "none"), code=1).stderr


def test_another_key(run: Run) -> None:
    assert "not the one that was given" in run("verify", "--key", "A" * 43 + "=", code=1).stderr


def test_no_store(run: Run, folder: Path) -> None:
    shutil.rmtree(folder / "persistence")
    assert "there is no store" in run("verify", code=1).stderr
    assert not (folder / "persistence").exists()


def test_a_progress_bar_on_a_terminal(folder: Path) -> None:
    master, slave = pty.openpty()
    words = [*PYTHON, "audit", "verify", "--config", str(folder / "ostiary.toml")]
    done = subprocess.run(words, stdout=slave, stderr=slave, cwd=ROOT, timeout=60, check=False)
    os.close(slave)
    assert done.returncode == 0
    output = os.read(master, 65536).decode()
    os.close(master)
    assert "Verifying" in output


# export


def test_export_as_lines_that_verify_outside(run: Run) -> None:
    lines = [json.loads(line) for line in run("export").stdout.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 21))
    assert {"prev", "digests", "salts", "timestamp", "client_id"} <= lines[0].keys()


def test_export_as_one_document_of_some_times(run: Run) -> None:
    done = run("export", "--format", "json", "--since", "2021-01-02", "--until", "2022-01-02T08:00:00Z")
    assert [entry["tool_name"] for entry in shown(done)["entries"]] == [
        "files_11",
        "files_12",
        "files_13",
        "files_20",
    ]
    assert done.stderr == "4 entries\n"
    assert shown(run("export", "--format", "json", "--since", "2030-01-01")) == {"entries": []}


def test_export_for_a_spreadsheet(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("export", "--format", "csv").stdout)))
    assert len(rows) == 20
    assert (rows[0]["seq"], rows[0]["client_id"], rows[0]["tool_name"]) == ("1", "alice", "files_00")
    assert rows[0]["target"] == '\'=HYPERLINK("x")'


def test_export_to_a_new_private_file(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.jsonl"
    assert run("export", "--out", str(out)).stdout == ""
    assert len(out.read_text().splitlines()) == 20
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "exists" in run("export", "--out", str(out), code=1).stderr
    (folder / "persistence" / "audit" / "000003.json").write_bytes(b"")
    other = tmp_path / "other.jsonl"
    assert "000003.json is not the file that was sealed" in run("export", "--out", str(other), code=1).stderr
    assert not other.exists()
    run("export", "--since", "tomorrow", code=2)


# prune


def test_prune_and_compress(run: Run, folder: Path) -> None:
    answer = shown(run("prune", "--older-than", "0s", "--compress", "--json"))
    assert (answer["segments"], answer["entries"], answer["compressed"]) == (5, 20, 0)
    document = shown(run("verify", "--json"))
    assert (document["intact"], document["first_seq"], document["entries"]) == (True, 21, 1)
    (entry,) = shown(run("query", "--json"))["entries"]
    assert (entry["event"], entry["method"], entry["target"]) == (
        "admin_change",
        "audit.prune",
        "audit entries 1 to 20",
    )
    assert entry["actor"]


async def test_a_clock_that_was_ahead_keeps_what_is_after_it_and_that_is_said(run: Run, folder: Path) -> None:
    shutil.rmtree(folder / "persistence")
    await fill(folder / "persistence", (2020, 2199, 2021))
    done = run("prune", "--older-than", "1d")
    assert done.stdout == "1 segments with 4 entries were removed.\n"
    assert "Segment 2 has an entry of 2199-01-04T08:00:00.000Z" in done.stderr
    assert "so do 1 after it" in done.stderr


def test_compress_what_stays(run: Run, folder: Path) -> None:
    done = run("prune", "--older-than", "36500d", "--compress")
    assert done.stdout == "0 segments with 0 entries were removed.\n5 segments were compressed.\n"
    names = sorted(path.name for path in (folder / "persistence" / "audit").iterdir())
    assert names == [f"00000{number}.json.gz" for number in range(1, 6)]
    assert len(run("export").stdout.splitlines()) == 21
    run("verify")


@pytest.mark.parametrize("words", [(), ("--older-than", "soon"), ("--older-than", "90")])
def test_prune_wants_to_know_what(run: Run, words: tuple[str, ...]) -> None:
    run("prune", *words, code=2)


def test_a_checkpoint_file_is_written_by_commands_too(run: Run, folder: Path) -> None:
    config = folder / "ostiary.toml"
    config.write_text(config.read_text() + '\n[audit]\ncheckpoint_file = "elsewhere.json"\n')
    run("prune", "--older-than", "0s")
    assert json.loads((folder / "elsewhere.json").read_text())["seq"] == 21
    run("verify", "--checkpoint", str(folder / "elsewhere.json"))


def test_an_older_state_of_the_whole_store_is_found_by_the_checkpoint_file(run: Run, folder: Path) -> None:
    """With its key, index and checkpoint: nothing in the store itself can tell."""
    config = folder / "ostiary.toml"
    config.write_text(config.read_text() + '\n[audit]\ncheckpoint_file = "elsewhere.json"\n')
    shutil.copytree(folder / "persistence", folder / "older")
    assert "nothing to compare the audit with" in run("verify", code=1).stderr
    run("prune", "--older-than", "0s")
    run("verify")
    shutil.rmtree(folder / "persistence")
    (folder / "older").rename(folder / "persistence")
    assert "the published checkpoint is signed for" in run("verify", code=1).stderr


# beside a running gateway


@pytest.fixture
def admin(home: Any) -> Path:
    home.configure(
        """
        [audit]
        checkpoint_file = "elsewhere.json"

        [[audit.redact]]
        field = "user_agent"

        [[audit.redact]]
        field = "target"
        match = "b[a-z]b"

        [roles]
        auditor = ["audit:read"]
        """
    )
    return Path(home.client("alice", "--role", "auditor"))


def test_beside_a_server(
    home: Any, admin: Path, caller: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    served = home.serve()
    curl = caller(served, admin)
    for _ in range(30):
        assert curl.ask("GET", "/auth/token", headers={"User-Agent": "curl/1.2.3"}).status == 200
    curl.ask("POST", "/mcp", "{}", {"Content-Type": "text/bob", "User-Agent": "curl/1.2.3"})
    verified = home.json("audit", "verify")
    assert verified["intact"]
    assert verified["entries"] >= 30
    wait_until(lambda: home.json("audit", "verify")["unsigned"] == 0)
    answer = curl.ask("GET", "/audit/checkpoint")
    assert answer.status == 200
    kept = home.folder / "kept.json"
    kept.write_bytes(answer.body)
    assert answer.body == (home.folder / "elsewhere.json").read_bytes()
    home.cli("audit", "verify", "--checkpoint", str(kept))
    pruned = home.json("audit", "prune", "--older-than", "1d", "--compress")
    assert (pruned["segments"], pruned["entries"], pruned["compressed"]) == (0, 0, 0)
    exported = [json.loads(line) for line in home.cli("audit", "export").stdout.splitlines()]
    issued = [entry for entry in exported if entry["event"] == "token_issued"]
    assert len(issued) == 30
    assert {entry["client_id"] for entry in issued} == {"alice"}
    assert "curl/1.2.3" not in json.dumps(exported)
    served.kill()
    assert home.json("audit", "verify")["intact"]
    home.serve().stop()
    verified = home.json("audit", "verify", "--checkpoint", str(kept))
    assert (verified["intact"], verified["unsigned"]) == (True, 0)


def test_the_checkpoint_is_for_auditors(home: Any, admin: Path, caller: Callable[..., Any]) -> None:
    served = home.serve()
    assert caller(served).ask("GET", "/audit/checkpoint").status == 401
    assert caller(served, home.client("bob")).ask("GET", "/audit/checkpoint").status == 403


def test_a_tampered_store_is_not_served(home: Any, admin: Path) -> None:
    home.serve().stop()
    path = home.folder / "persistence" / "audit.json"
    path.write_text(path.read_text().replace('"event":"admin_change"', '"event":"admin_chance"', 1))
    done = home.cli("serve", check=False)
    assert done.returncode == 1
    assert "audit.json" in done.stderr
    assert "ostiary restore" in done.stderr
