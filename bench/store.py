"""The store with many live tokens beside the store with few: start, memory, writes, checkpoints, purge.

    python -m bench.store [--tokens N] [--runs N] [--folder DIR]

Both are measured by turns, each time in a process of its own that spares the garbage collector as the gateway does, and the
medians are shown: a longest wait of one run is mostly that of a machine which does something else, too. Waits are of one
write after the other, as a caller sees them; pauses are of the event loop, as a task sees them that only wants its turn. What
the loop does in one turn is given as CPU time, too: on a busy machine that alone is the store's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from persistence import JsonStores, TokenKind, TokenRecord

FEW = 1000
WRITES = 2000
CLIENTS = 1000
SLICE = 100
NOW = 1_800_000_000.0
TIME = "2027-01-15T08:00:00.000Z"


class Figures(msgspec.Struct, frozen=True):
    """One store; seconds, and bytes."""

    start: float
    memory: float
    issue: float
    revoke: float
    put_at_rest: float
    put_in_checkpoint: float
    pause_at_rest: float
    pause_in_checkpoint: float
    turn_in_checkpoint: float
    checkpoint: float
    file: float
    journal: float
    collection: float
    collection_frozen: float
    purge: float
    pause_in_purge: float
    turn_in_purge: float


ROWS = {
    "start": ("start", "s", 1),
    "memory": ("resident memory", "MB", 1e-6),
    "issue": ("issue a token, median", "µs", 1e6),
    "revoke": ("revoke a token, median", "µs", 1e6),
    "put_at_rest": ("longest wait of a write, no checkpoint", "ms", 1e3),
    "put_in_checkpoint": ("longest wait of a write, in checkpoints", "ms", 1e3),
    "pause_at_rest": ("longest pause of the loop, no checkpoint", "ms", 1e3),
    "pause_in_checkpoint": ("longest pause of the loop, in checkpoints", "ms", 1e3),
    "turn_in_checkpoint": ("longest turn of the loop, CPU, in checkpoints", "ms", 1e3),
    "checkpoint": ("a checkpoint", "s", 1),
    "file": ("tokens.json", "MB", 1e-6),
    "journal": ("journal after a checkpoint", "MB", 1e-6),
    "collection": ("full garbage collection", "ms", 1e3),
    "collection_frozen": ("full garbage collection after gc.freeze()", "ms", 1e3),
    "purge": ("purge of all tokens, in slices", "s", 1),
    "pause_in_purge": ("longest pause of the loop in it", "ms", 1e3),
    "turn_in_purge": ("longest turn of the loop, CPU, in it", "ms", 1e3),
}


def token(number: int, revoked_at: str | None = None) -> TokenRecord:
    return TokenRecord(
        token_id=f"{number:032x}",
        client_id=f"client-{number % CLIENTS}",
        kind=TokenKind.ACCESS,
        exp=int(NOW) + 60 + number % 3600,
        created_at=TIME,
        revoked_at=revoked_at,
        family_id=f"{number // 2:032x}",
        certificate_thumbprint=f"{number % CLIENTS:043x}",
    )


async def opened(folder: Path, pause: float) -> JsonStores:
    return await JsonStores.open(folder, now=lambda: NOW, pause=pause)


async def fill(folder: Path, count: int) -> None:
    """A store with that many live tokens."""
    stores = await opened(folder, 3600.0)
    for start in range(0, count, 10_000):
        await stores.tokens.put(*map(token, range(start, min(start + 10_000, count))))
    await stores.close()


@contextlib.asynccontextmanager
async def pauses() -> AsyncIterator[list[float]]:
    """The longest time between two turns of a task, and the most CPU time of the loop's thread, in the list at the end."""
    found = [0.0, 0.0]

    async def tick() -> None:
        before, used = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, using = time.perf_counter(), time.thread_time()
            found[0], found[1] = max(found[0], now - before), max(found[1], using - used)
            before, used = now, using

    ticking = asyncio.get_running_loop().create_task(tick())
    try:
        yield found
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


async def timed(stores: JsonStores, records: list[TokenRecord]) -> list[float]:
    """How long each write took, one after the other."""
    waits = []
    for record in records:
        started = time.perf_counter()
        await stores.tokens.put(record)
        waits.append(time.perf_counter() - started)
    return waits


async def in_checkpoints(stores: JsonStores, first: int, checkpoints: int) -> list[float]:
    """The same until that many checkpoints were written."""
    waits: list[float] = []
    end = stores.stats().checkpoints + checkpoints
    while stores.stats().checkpoints < end:
        waits += await timed(stores, [token(first + len(waits))])
        await asyncio.sleep(0)
    return waits


def resident() -> float:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.partition("VmRSS:")[2].split()[0])


def collection() -> float:
    """Seconds of a full collection."""
    started = time.perf_counter()
    gc.collect()
    return time.perf_counter() - started


async def measure(folder: Path, count: int) -> Figures:
    """Everything about a store that holds that many tokens."""
    started = time.perf_counter()
    stores = await opened(folder, 3600.0)
    start = time.perf_counter() - started
    memory = resident()
    plain = statistics.median(collection() for _ in range(5))
    gc.freeze()
    frozen = statistics.median(collection() for _ in range(5))
    gc.unfreeze()
    issued = [token(count + number) for number in range(WRITES)]
    issues = await timed(stores, issued)
    revokes = await timed(stores, [msgspec.structs.replace(record, revoked_at=TIME) for record in issued])
    async with pauses() as at_rest:
        await timed(stores, issued)
    await stores.close()
    stores = await opened(folder, 0.01)
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    async with pauses() as in_checkpoint:
        waits = await in_checkpoints(stores, count + WRITES, 3)
    stats = stores.stats()
    size = (folder / "tokens.json").stat().st_size
    started = time.perf_counter()
    async with pauses() as in_purge:
        while stores.tokens.purge(NOW + 10_000, SLICE) == SLICE:
            await asyncio.sleep(0)
        purge = time.perf_counter() - started
    await stores.close()
    return Figures(
        start=start,
        memory=memory,
        issue=statistics.median(issues),
        revoke=statistics.median(revokes),
        put_at_rest=max(issues + revokes),
        put_in_checkpoint=max(waits),
        pause_at_rest=at_rest[0],
        pause_in_checkpoint=in_checkpoint[0],
        turn_in_checkpoint=in_checkpoint[1],
        checkpoint=stats.last_checkpoint_seconds,
        file=size,
        journal=stats.journal_bytes,
        collection=plain,
        collection_frozen=frozen,
        purge=purge,
        pause_in_purge=in_purge[0],
        turn_in_purge=in_purge[1],
    )


def run(what: str, folder: Path, count: int) -> bytes:
    """A part of this in a process of its own."""
    words = ["-m", "bench.store", what, str(count), "--folder", str(folder)]
    return subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, check=True).stdout


def measured(filled: Path, count: int) -> Figures:
    """A copy of that store."""
    with tempfile.TemporaryDirectory(dir=filled.parent) as folder:
        copy = Path(shutil.copytree(filled, Path(folder) / "store"))
        os.sync()
        return msgspec.json.decode(run("--measure", copy, count), type=Figures)


def report(folder: Path, count: int, runs: int) -> Table:
    """Both stores, side by side."""
    filled = {number: folder / str(number) for number in (FEW, count)}
    for number, store in filled.items():
        run("--fill", store, number)
    found: dict[int, list[Figures]] = {number: [] for number in filled}
    for _ in range(runs):
        for number, store in filled.items():
            found[number].append(measured(store, number))
    table = Table("", f"{FEW:,} tokens", f"{count:,} tokens", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, (label, unit, scale) in ROWS.items():
        few, many = (statistics.median(getattr(each, name) for each in found[n]) for n in (FEW, count))
        table.add_row(
            label,
            f"{few * scale:,.2f} {unit}",
            f"{many * scale:,.2f} {unit}",
            f"{many / few:.2f}" if few else "",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="on the disk that is to be measured; a temporary one by default"
    )
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fill is not None:
        uvloop.run(fill(arguments.folder, arguments.fill))
    elif arguments.measure is not None:
        sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(measure(arguments.folder, arguments.measure))))
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            Console().print(report(Path(folder), arguments.tokens, arguments.runs))


if __name__ == "__main__":
    main()
