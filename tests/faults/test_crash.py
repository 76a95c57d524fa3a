"""A real process, killed under load: everything that it acknowledged is there when the store is opened again."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from persistence import JsonStores
from persistence.records import AuditQuery, AuditStatus

ROOT = Path(__file__).resolve().parent.parent.parent
NOW = 1_800_000_000.0
ROUNDS = 5

LOAD = """
import asyncio, os, sys
from pathlib import Path
from persistence import AuditEntry, AuditStatus, ClientRecord, JsonStores, TokenKind, TokenRecord

folder, round_ = Path(sys.argv[1]), sys.argv[2]
TIME = "2027-01-15T08:00:00.000Z"


def acknowledged(line):
    os.write(1, line.encode() + b"\\n")


def entry(target):
    return AuditEntry(timestamp=TIME, event="tool_call", status=AuditStatus.OK, target=target)


def token(token_id, revoked_at=None):
    return TokenRecord(token_id=token_id, client_id="c", kind=TokenKind.ACCESS, exp=1_900_000_000, created_at=TIME,
                       revoked_at=revoked_at, family_id=token_id)


async def work(stores, worker):
    number = 0
    while True:
        name = f"{round_}-{worker}-{number}"
        number += 1
        await stores.tokens.put(token(name), token(name + "-twin"))
        acknowledged(f"token {name}")
        await stores.audit.append(entry(name))
        acknowledged(f"entry {name}")
        intent = await stores.audit.begin(entry("call-" + name))
        acknowledged(f"intent {name}")
        await stores.tokens.put(token(name, TIME))
        acknowledged(f"revoked {name}")
        if number % 2:
            intent.finish(AuditStatus.DENIED, timestamp=TIME, duration_ms=1.0)
        if number % 20 == 0:
            await stores.clients.put(ClientRecord(client_id=name, username=name, user_id="u", certificate=name,
                                                  created_at=TIME, updated_at=TIME))
            acknowledged(f"client {name}")


async def main():
    stores = await JsonStores.open(folder, now=lambda: 1_800_000_000.0, pause=0.005, segment_bytes=60_000)
    acknowledged("ready")
    await asyncio.gather(*(work(stores, worker) for worker in range(16)))


asyncio.run(main())
"""


def run_and_kill(folder: Path, round_: int, seconds: float) -> list[list[str]]:
    """What the process acknowledged before it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(folder), str(round_)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        lines: list[str] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            lines.append(process.stdout.readline())
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -9
    return [line.split() for line in lines if line.endswith("\n")]


async def everything(stores: JsonStores):
    entries = []
    cursor = None
    while True:
        page = await stores.audit.query(AuditQuery(limit=1000, cursor=cursor))
        entries += page.entries
        cursor = page.next_cursor
        if cursor is None:
            return entries


@pytest.mark.parametrize("seed", [1])
async def test_every_acknowledged_write_survives_kill_9(tmp_path, seed):
    folder = tmp_path / "store"
    moments = random.Random(seed)
    seen: list[list[str]] = []
    checkpoints = 0
    for round_ in range(ROUNDS):
        seen += await asyncio.to_thread(run_and_kill, folder, round_, moments.uniform(0.05, 0.6))
        stores = await JsonStores.open(folder, now=lambda: NOW)
        try:
            entries = await everything(stores)
            checkpoints = stores.stats().journal_generation
            by_target: dict[str, list[AuditStatus]] = {}
            for entry in entries:
                by_target.setdefault(entry.target or entry.event, []).append(entry.status)
            for what, name in seen:
                match what:
                    case "token":
                        assert stores.tokens.get(name) is not None, name
                        assert stores.tokens.get(name + "-twin") is not None, name
                    case "revoked":
                        assert stores.tokens.get(name).revoked_at is not None, name
                    case "entry":
                        assert by_target[name] == [AuditStatus.OK], name
                    case "intent":
                        assert by_target["call-" + name] in ([AuditStatus.ERROR], [AuditStatus.DENIED]), name
                    case "client":
                        assert stores.clients.by_certificate(name).client_id == name
            twins = [record.token_id for record in stores.tokens if record.token_id.endswith("-twin")]
            assert all(stores.tokens.get(name.removesuffix("-twin")) for name in twins)
        finally:
            await stores.close()
    assert len(seen) > 100
    assert checkpoints > ROUNDS
    assert list((folder / "audit").glob("*.json"))
