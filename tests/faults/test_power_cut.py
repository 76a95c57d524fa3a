"""The power is cut at any system call: whatever was not fsynced may be gone, and the acknowledged state is there.

``kill -9`` leaves the kernel's page cache, so it cannot show that an fsync is missing. Here a disk is simulated that keeps
of the bytes and of the names only what was made durable, or all, in every combination.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence import JsonStores
from persistence.files import LOCK, System
from persistence.records import AuditEntry, AuditQuery, AuditStatus, ClientRecord, TokenKind, TokenRecord

NOW = 1_800_000_000.0
TIME = "2027-01-15T08:00:00.000Z"


@dataclass
class File:
    """One file, whatever it is called."""

    bytes: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass(frozen=True)
class State:
    """What a store holds."""

    clients: frozenset[str] = frozenset()
    tokens: frozenset[tuple[str, bool]] = frozenset()
    entries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """A disk after the power was cut, and the states that it may hold."""

    files: dict[str, bytes]
    allowed: tuple[State, ...]


class Volatile(System):
    """Does everything really, and knows what of it is durable."""

    def __init__(self, cuts: set[int]) -> None:
        self._cuts = cuts
        self._turn = threading.Lock()
        self._files: dict[int, File] = {}
        """By inode, as they are now."""
        self._names: dict[str, dict[str, File]] = {}
        """By folder and name, as they are durable."""
        self.claims: tuple[State, ...] | None = None
        """What is acknowledged, and what is under way."""
        self.images: list[Image] = []
        self._calls = itertools.count()

    def _before(self) -> None:
        if next(self._calls) in self._cuts and self.claims is not None:
            for all_bytes, all_names in itertools.product((False, True), repeat=2):
                self.images.append(Image(dict(self._left(all_bytes, all_names)), self.claims))

    def _left(self, all_bytes: bool, all_names: bool) -> Iterator[tuple[str, bytes]]:
        for folder, durable in self._names.items():
            names = self._now(folder) if all_names else durable
            for name, file in names.items():
                start = "audit/" if folder.endswith("/audit") else ""
                yield start + name, bytes(file.bytes) if all_bytes else file.durable

    def _now(self, folder: str) -> dict[str, File]:
        with os.scandir(folder) as entries:
            return {e.name: self._files[e.inode()] for e in entries if e.is_file() and e.name != LOCK}

    def open(self, name: str, flags: int, mode: int, folder: int) -> int:
        with self._turn:
            self._before()
            descriptor = super().open(name, flags, mode, folder)
            if flags & os.O_EXCL:
                self._files[os.fstat(descriptor).st_ino] = File()
            return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        with self._turn:
            self._before()
            taken = super().write(descriptor, data)
            self._files[os.fstat(descriptor).st_ino].bytes += data[:taken]
            return taken

    def fdatasync(self, descriptor: int) -> None:
        self.fsync(descriptor)

    def fsync(self, descriptor: int) -> None:
        with self._turn:
            self._before()
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                folder = str(Path(f"/proc/self/fd/{descriptor}").readlink())
                self._names[folder] = self._now(folder)
            else:
                file = self._files[status.st_ino]
                file.durable = bytes(file.bytes)

    def truncate(self, descriptor: int, length: int) -> None:
        with self._turn:
            self._before()
            super().truncate(descriptor, length)
            del self._files[os.fstat(descriptor).st_ino].bytes[length:]

    def rename(self, source: str, target: str, folder: int) -> None:
        with self._turn:
            self._before()
            super().rename(source, target, folder)

    def unlink(self, name: str, folder: int) -> None:
        with self._turn:
            self._before()
            super().unlink(name, folder)


def client(client_id: str) -> ClientRecord:
    return ClientRecord(
        client_id=client_id, username=client_id, user_id="u", created_at=TIME, updated_at=TIME
    )


def token(token_id: str, *, revoked: bool) -> TokenRecord:
    return TokenRecord(
        token_id=token_id,
        client_id="a",
        kind=TokenKind.ACCESS,
        exp=int(NOW) + 60,
        created_at=TIME,
        revoked_at=TIME if revoked else None,
    )


def entry(target: str) -> AuditEntry:
    return AuditEntry(timestamp=TIME, event="tool_call", status=AuditStatus.OK, target=target)


async def perform(stores: JsonStores, system: Volatile, state: State, operation: tuple[str, str]) -> State:
    """One write, and the state after it."""
    name, what = operation
    if name == "client":
        after = State(state.clients | {what}, state.tokens, state.entries)
        write: Any = stores.clients.put(client(what))
    elif name == "entry":
        after = State(state.clients, state.tokens, (*state.entries, what))
        write = stores.audit.append(entry(what))
    else:
        others = frozenset(one for one in state.tokens if one[0] != what)
        after = State(state.clients, others | {(what, name == "revoke")}, state.entries)
        write = stores.tokens.put(token(what, revoked=name == "revoke"))
    system.claims = (state, after)
    await write
    system.claims = (after,)
    return after


async def held(folder: Path) -> State:
    """What the store in that folder holds."""
    stores = await JsonStores.open(folder, now=lambda: NOW, pause=3600.0)
    try:
        page = await stores.audit.query(AuditQuery(limit=1000))
        return State(
            frozenset(c.client_id for c in stores.clients),
            frozenset((t.token_id, t.revoked_at is not None) for t in stores.tokens),
            tuple(str(e.target) for e in page.entries if e.event == "tool_call")[::-1],
        )
    finally:
        await stores.close()


names = st.sampled_from("abc")
operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["client", "entry", "issue", "revoke"]), names),
        st.just(("checkpoint", "")),
    ),
    min_size=3,
    max_size=20,
)


@given(operations=operations, cuts=st.sets(st.integers(0, 120), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_acknowledged_state_survives_a_power_cut_at_any_call(operations, cuts):
    async def run(folder: Path) -> None:
        system = Volatile(cuts)
        stores = await JsonStores.open(
            folder / "s", now=lambda: NOW, system=system, pause=0.0, segment_bytes=1000
        )
        state = State()
        system.claims = (state,)
        for operation in operations:
            if operation[0] != "checkpoint":
                state = await perform(stores, system, state, operation)
                continue
            before = stores.stats().checkpoints
            async with asyncio.timeout(60):
                while stores.stats().checkpoints == before and any(  # noqa: ASYNC110 - it comes by itself
                    part.changed for part in (stores.clients, stores.tokens, stores.audit)
                ):
                    await asyncio.sleep(0)
        await stores.close()
        for number, image in enumerate(system.images):
            copy = folder / str(number)
            (copy / "audit").mkdir(parents=True)
            for path in (copy, copy / "audit"):
                path.chmod(0o700)
            for name, content in image.files.items():
                (copy / name).write_bytes(content)
                (copy / name).chmod(0o600)
            assert await held(copy) in image.allowed

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
