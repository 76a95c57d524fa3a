"""Each system call of the store made to fail once, wherever it is made: what was acknowledged is there, nothing else is.

The same run is made again and again; in the k-th one, the k-th call fails. The store recovers by itself. The folder as a
crash would have left it when a write was refused, and the folder as it is in the end, are opened and compared with what
was acknowledged, and their audit is verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import itertools
import os
import shutil
import threading
from pathlib import Path

import pytest

from persistence import JsonStores, StoreError
from persistence.audit_verify import verify
from persistence.files import System
from persistence.records import (
    KINDS,
    REVOKED_CERTIFICATES,
    AuditEntry,
    AuditQuery,
    AuditStatus,
    ClientRecord,
    RevokedCertificate,
    TokenKind,
    TokenRecord,
)

NEVER = 3600.0
NOW = 1_800_000_000.0
TIME = "2027-01-15T08:00:00.000Z"
SHORT = 0
"""As an error: a write takes a part only."""
ALIKE = tuple(f"{kind.name}.json" for kind in KINDS if kind is not REVOKED_CERTIFICATES)
"""The files of the other collections: written by the same lines, so their calls need not fail one by one, too."""
TURNS = 4
"""So many tests share the calls: each takes every fourth one, with the errors by turns."""


class Failing(System):
    """Counts the calls (writes alone, where these are to be short); the one numbered ``at`` fails.

    None is made while ``gate`` is held.
    """

    def __init__(self, at: int, error: int) -> None:
        self.at = at
        self.error = error
        self.calls: list[str] = []
        self.failed: str | None = None
        self.gate = threading.Lock()
        self._alike: set[int] = set()
        """Descriptors of files whose calls do not count."""

    def _enter(self, call: str, name: str = "", descriptor: int = -1) -> bool:
        """Whether a write is to be a short one. Raises OSError."""
        if name.startswith(ALIKE) or descriptor in self._alike:
            return False
        if self.error == SHORT and call != "write":
            return False
        self.calls.append(call)
        if len(self.calls) != self.at:
            return False
        self.failed = call
        if self.error == SHORT:
            return True
        raise OSError(self.error, os.strerror(self.error))

    def open(self, name: str, flags: int, mode: int, folder: int) -> int:
        with self.gate:
            self._enter("open", name)
            descriptor = super().open(name, flags, mode, folder)
            self._alike.discard(descriptor)
            if name.startswith(ALIKE):
                self._alike.add(descriptor)
            return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        with self.gate:
            short = self._enter("write", descriptor=descriptor)
            return super().write(descriptor, data[: len(data) // 2 or 1] if short else data)

    def fdatasync(self, descriptor: int) -> None:
        with self.gate:
            super().fdatasync(descriptor)  # the bytes may be there although it says that they are not
            self._enter("fdatasync", descriptor=descriptor)

    def fsync(self, descriptor: int) -> None:
        with self.gate:
            self._enter("fsync", descriptor=descriptor)
            super().fsync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        with self.gate:
            self._enter("truncate")
            super().truncate(descriptor, length)

    def rename(self, source: str, target: str, folder: int) -> None:
        with self.gate:
            self._enter("rename", target)
            super().rename(source, target, folder)

    def unlink(self, name: str, folder: int) -> None:
        with self.gate:
            self._enter("unlink", name)
            super().unlink(name, folder)


class Acknowledged:
    """What the store said is done."""

    def __init__(self) -> None:
        self.clients: dict[str, ClientRecord] = {}
        self.tokens: dict[str, TokenRecord] = {}
        self.revoked: dict[str, RevokedCertificate] = {}
        self.entries: list[str] = []
        self.intents: list[str] = []


def token(token_id: str, revoked_at: str | None = None) -> TokenRecord:
    return TokenRecord(
        token_id=token_id,
        client_id="a",
        kind=TokenKind.ACCESS,
        exp=int(NOW) + 60,
        created_at=TIME,
        revoked_at=revoked_at,
    )


def client(client_id: str) -> ClientRecord:
    return ClientRecord(
        client_id=client_id, username=client_id, user_id="u", created_at=TIME, updated_at=TIME
    )


def entry(target: str) -> AuditEntry:
    return AuditEntry(timestamp=TIME, event="tool_call", status=AuditStatus.OK, target=target)


async def opened(folder: Path, system: System, pause: float = NEVER) -> JsonStores:
    return await JsonStores.open(
        folder, now=lambda: NOW, system=system, pause=pause, segment_bytes=1200, recovery_pause=0.001
    )


async def until_healthy(stores: JsonStores) -> None:
    async with asyncio.timeout(20):
        while not stores.healthy:  # noqa: ASYNC110 - it recovers by itself
            await asyncio.sleep(0.002)


async def work(
    stores: JsonStores, system: Failing, done: Acknowledged, round_: int, crashed: Path
) -> Acknowledged | None:
    """Writes of every kind. What is refused is tried once more when the store is healthy, and must be taken then.

    Where something was refused: what was acknowledged before, of which ``crashed`` is a copy.
    """
    refused: Acknowledged | None = None

    async def put(record: TokenRecord) -> None:
        await stores.tokens.put(record)
        done.tokens[record.token_id] = record

    async def change(record: ClientRecord) -> None:
        await stores.clients.put(record)
        done.clients[record.client_id] = record

    async def keep(number: int) -> None:
        kept = stores.collection(REVOKED_CERTIFICATES)
        record = RevokedCertificate(revocation_id=f"r{number}", fingerprint="f", revoked_at=TIME)
        await kept.put(record)
        done.revoked[record.revocation_id] = record

    async def drop(number: int) -> None:
        await stores.collection(REVOKED_CERTIFICATES).remove(f"r{number}")
        done.revoked.pop(f"r{number}", None)

    async def add(target: str) -> None:
        await stores.audit.append(entry(target))
        done.entries.append(target)

    async def call(target: str) -> None:
        intent = await stores.audit.begin(entry(target))
        done.intents.append(target)
        with contextlib.suppress(StoreError):
            intent.finish(AuditStatus.OK, timestamp=TIME, duration_ms=1.0)

    for write in (
        lambda: put(token(f"t{round_}")),
        lambda: add(f"e{round_}"),
        lambda: put(token(f"t{round_}", revoked_at=TIME)),
        lambda: change(client(f"c{round_}")),
        lambda: keep(round_),
        lambda: drop(round_ - 1),
        lambda: call(f"i{round_}"),
        lambda: add(f"f{round_}"),
    ):
        try:
            await write()
        except StoreError:
            refused = copy.deepcopy(done)
            with system.gate:  # one instant: what a checkpoint's thread is about to do is done or is not
                shutil.copytree(stores.path, crashed)
            await until_healthy(stores)
            await write()
    return refused


async def run(folder: Path, system: Failing, done: Acknowledged, *, pause: float = NEVER) -> None:
    """Open it (again where that failed), work, write checkpoints, close and open it once more."""
    crashed = folder.with_name("crashed")
    for round_ in range(2):
        try:
            stores = await opened(folder, system, pause)
        except StoreError:
            stores = await opened(folder, system, pause)
        try:
            for number in range(2):
                refused = await work(stores, system, done, 10 * round_ + number, crashed)
                if refused is not None:
                    await check(crashed, refused)
        finally:
            await stores.close()


async def check(folder: Path, done: Acknowledged) -> None:
    assert (await verify(folder)).problems == []
    stores = await opened(folder, System())
    try:
        assert {record.client_id: record for record in stores.clients} == done.clients
        assert {record.token_id: record for record in stores.tokens} == done.tokens
        kept = stores.collection(REVOKED_CERTIFICATES)
        assert {record.revocation_id: record for record in kept} == done.revoked
        assert {each.revocation_id for each in kept.where("fingerprint", "f")} == done.revoked.keys()
        page = await stores.audit.query(AuditQuery(limit=1000))
        found = [e.target for e in page.entries if e.event == "tool_call"][::-1]
        assert [target for target in found if target in done.entries] == done.entries
        assert sorted(found) == sorted(done.entries + done.intents)
    finally:
        await stores.close()


async def test_the_run_makes_calls_of_every_kind(tmp_path):
    system = Failing(0, errno.EIO)
    done = Acknowledged()
    await run(tmp_path / "s", system, done)
    await check(tmp_path / "s", done)
    assert set(system.calls) == {"open", "write", "fdatasync", "fsync", "rename", "unlink"}
    assert list((tmp_path / "s" / "audit").glob("0*.json"))


@pytest.mark.parametrize("turn", range(1, TURNS + 1))
@pytest.mark.parametrize("pause", [NEVER, 0.002])
@pytest.mark.parametrize("errors", [(errno.EIO, errno.ENOSPC, errno.EINTR), (SHORT,)])
async def test_wherever_a_call_fails_the_state_is_what_was_acknowledged(tmp_path, errors, pause, turn):
    failed: set[str] = set()
    for at in itertools.count(turn, TURNS):
        folder = tmp_path / str(at) / "s"
        folder.parent.mkdir()
        system, done = Failing(at, errors[at % len(errors)]), Acknowledged()
        await run(folder, system, done, pause=pause)
        if system.failed is None:
            break
        failed.add(system.failed)
        await check(folder, done)
        shutil.rmtree(folder.parent)
    if errors == (SHORT,):
        assert failed == {"write"}
    else:
        assert {"open", "write", "fsync"} <= failed  # which others, depends on the turn
