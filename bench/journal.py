"""Durable appends a second with 1, 8, 64 and 512 callers waiting, beside what the disk can do in the same run.

    python -m bench.journal [--seconds S] [--folder DIR]

The limit is one thread that writes and fdatasyncs the same bytes, as many records at a time as callers wait.
Both are measured by turns, and the medians are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from persistence import AuditEntry, AuditStatus, JsonStores, open_stores
from persistence.audit_chain import START, Salts, new_line

WAITING = (1, 8, 64, 512)
TURNS = 3
ENTRY = AuditEntry(
    timestamp="2026-01-02T03:04:05.678Z",
    event="tool_call",
    status=AuditStatus.OK,
    client_id="reports-service",
    tenant_id="default",
    tool_name="files_read",
    duration_ms=1.234,
    request_id="0f8fad5bd9cb469fa16570867728950e",
    address="127.0.0.1",
    user_agent="bench",
    upstream="files",
    method="tools/call",
)


@dataclass(frozen=True)
class Rate:
    """One measurement."""

    records_per_second: float
    cpu_per_record: float
    """Microseconds."""
    records_per_batch: float


def raw(folder: Path, waiting: int, seconds: float) -> Rate:
    """What one thread reaches with write and fdatasync."""
    line, _ = new_line(1, START, ENTRY, Salts())
    data = (line + b"\n") * waiting
    descriptor = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    written = 0
    started, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        written += waiting
    elapsed, used = time.perf_counter() - started, time.process_time() - cpu
    os.close(descriptor)
    return Rate(written / elapsed, 1e6 * used / written, waiting)


async def appended(
    stores: JsonStores, waiting: int, seconds: float, write: Callable[[], Awaitable[object]]
) -> Rate:
    """What so many callers reach that each await their writes, one after the other."""
    before = stores.stats()
    started, cpu = time.perf_counter(), time.process_time()
    end = started + seconds

    async def caller() -> int:
        written = 0
        while time.perf_counter() < end:
            await write()
            written += 1
        return written

    written = sum(await asyncio.gather(*(caller() for _ in range(waiting))))
    elapsed, used = time.perf_counter() - started, time.process_time() - cpu
    batches = stores.stats().journal_batches - before.journal_batches
    return Rate(written / elapsed, 1e6 * used / written, written / batches)


def median(rates: list[Rate]) -> Rate:
    return Rate(
        statistics.median(rate.records_per_second for rate in rates),
        statistics.median(rate.cpu_per_record for rate in rates),
        statistics.median(rate.records_per_batch for rate in rates),
    )


async def measure(folder: Path, seconds: float) -> Table:
    """Each number of callers by turns with the raw limit."""
    table = Table(
        "waiting", "raw records/s", "appends/s", "raw ÷ appends", "records a batch", "CPU µs an append"
    )
    for column in table.columns:
        column.justify = "right"
    stores = await open_stores(folder / "store", now=time.time)
    try:
        for waiting in WAITING:
            limits, rates = [], []
            for _ in range(TURNS):
                limits.append(await asyncio.to_thread(raw, folder, waiting, seconds))
                rates.append(await appended(stores, waiting, seconds, lambda: stores.audit.append(ENTRY)))
            limit, rate = median(limits), median(rates)
            table.add_row(
                str(waiting),
                f"{limit.records_per_second:,.0f}",
                f"{rate.records_per_second:,.0f}",
                f"{limit.records_per_second / rate.records_per_second:.2f}",
                f"{rate.records_per_batch:,.1f}",
                f"{rate.cpu_per_record:.1f}",
            )
    finally:
        await stores.close()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument(
        "--folder", type=Path, help="on the disk that is to be measured; a temporary one by default"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        Console().print(uvloop.run(measure(Path(folder), arguments.seconds)))


if __name__ == "__main__":
    main()
