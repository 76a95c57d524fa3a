"""``python -m bench.soak``: many calls, sessions and cancellations in both eras; whether memory and descriptors stay flat.

The work is cut into laps. After each the gateway is let come to rest, and its memory and open descriptors are read. The
first lap also drops as many sessions as are kept of one client, so that every table is as full as it ever gets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

from bench.identities import create
from bench.machine import cores, facts, run
from bench.ostiary import check_audit, ostiary
from bench.rounds import print_table
from bench.soak_client import WAYS, Client
from bench.targets import Target, direct

KEPT_SESSIONS: Final = 1_000
"""How many dropped sessions the gateway keeps of one client before the oldest gives way."""
MORE: Final = """
[[upstreams]]
name = "new"
url = "http://127.0.0.1:{port}/mcp"
transport = "http"
prefix = "new_"
"""
MOST_GROWTH: Final = 0.05
"""Of the memory, from the second quarter of the laps to the last."""
MOST_DESCRIPTORS: Final = 5


@dataclass(frozen=True, slots=True)
class Work:
    """What is done, in one lap or in all."""

    calls: int
    sessions: int
    cancellations: int


@dataclass(frozen=True, slots=True)
class Lap:
    """What the gateway held after a lap."""

    rate: float
    memory: int
    """Resident bytes."""
    descriptors: int
    upstream_sessions: int


def main() -> int:
    """Run it and print. 0: flat; 1: not, or an answer was wrong; 130: interrupted."""
    arguments = _arguments()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    return run(lambda folder, running: _soak(arguments, folder, running))


def _soak(arguments: argparse.Namespace, folder: Path, running: ExitStack) -> int:
    core = cores()
    print(facts(folder), flush=True)
    identities = create(folder / "identities")
    old = running.enter_context(direct(folder, core.load, identities, name="legacy"))
    new = running.enter_context(direct(folder, core.load, identities, name="modern", modern=True))
    more = MORE.format(port=new.port)
    gateway = running.enter_context(ostiary(folder, core.server, identities, old.port, tools="*", more=more))
    every = Work(
        arguments.calls // arguments.laps,
        arguments.sessions // arguments.laps,
        arguments.cancellations // arguments.laps,
    )
    print(
        f"{arguments.laps} laps of {every.calls:,} calls, {every.sessions:,} sessions opened and dropped, "
        f"{every.cancellations:,} cancellations, over {arguments.connections} connections\n",
        flush=True,
    )
    laps = asyncio.run(_run(gateway, old, every, arguments))
    check_audit(gateway)
    return _report(laps, every, old, new)


async def _run(gateway: Target, old: Target, every: Work, arguments: argparse.Namespace) -> list[Lap]:
    first = Work(every.calls // 4, 2 * KEPT_SESSIONS, every.cancellations)
    print(f"{'lap':>5} {'calls/s':>8} {'MB':>7} {'descriptors':>12} {'upstream sessions':>18}", flush=True)
    laps: list[Lap] = []
    for number in range(arguments.laps + 1):
        work = every if number else first
        begun = time.monotonic()
        async with Client(gateway, arguments.connections) as client:
            await _work(client, work, arguments.connections)
        rate = work.calls / (time.monotonic() - begun)
        await asyncio.to_thread(gateway.server.rest, 30.0)
        upstream_sessions = (await asyncio.to_thread(_stats, old))["open"]
        lap = Lap(rate, gateway.server.resident_bytes(), gateway.server.descriptors(), upstream_sessions)
        print(
            f"{number or 'fill':>5} {lap.rate:>8,.0f} {lap.memory / 1e6:>7.1f} {lap.descriptors:>12} "
            f"{lap.upstream_sessions:>18}",
            flush=True,
        )
        laps.append(lap)
    return laps[1:]


async def _work(client: Client, work: Work, connections: int) -> None:
    """Do all of it, with as much at a time as there are connections; the kinds evenly mixed."""
    kinds: Sequence[tuple[int, Callable[[int], Awaitable[None]]]] = (
        (work.calls, lambda number: client.call(WAYS[number % len(WAYS)])),
        (work.sessions, client.open_and_drop),
        (work.cancellations, lambda number: client.cancel(WAYS[number % 4])),
    )
    jobs = sorted(
        ((number + 0.5) / count, kind, number)
        for kind, (count, _do) in enumerate(kinds)
        for number in range(count)
    )
    waiting = iter(jobs)

    async def work_on() -> None:
        for _when, kind, number in waiting:
            await kinds[kind][1](number)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work_on())


def _report(laps: list[Lap], every: Work, old: Target, new: Target) -> int:
    quarter = max(1, len(laps) // 4)
    early, late = laps[quarter : 2 * quarter] or laps, laps[-quarter:]
    before, after = (mean(lap.memory for lap in part) for part in (early, late))
    highest = max(lap.memory for lap in laps)
    descriptors = {lap.descriptors for lap in laps}
    print()
    print_table(
        ["", "second quarter", "last quarter", "highest"],
        [
            ["memory, MB", f"{before / 1e6:.1f}", f"{after / 1e6:.1f}", f"{highest / 1e6:.1f}"],
            [
                "descriptors",
                *(f"{mean(lap.descriptors for lap in part):.1f}" for part in (early, late)),
                str(max(descriptors)),
            ],
        ],
    )
    told = [_stats(upstream) for upstream in (old, new)]
    cancelled = sum(stats["left"] for stats in told)
    print(
        f"calls that the upstreams answered: {sum(stats['calls'] for stats in told):,}; waits that were ended: "
        f"{cancelled:,}, of them told of it: {told[0]['cancelled']:,}; still waiting: {sum(stats['waiting'] for stats in told)}"
    )
    flat = after <= before * (1 + MOST_GROWTH) and max(descriptors) - min(descriptors) <= MOST_DESCRIPTORS
    ended = cancelled == every.cancellations * (len(laps) + 1) and not any(stats["waiting"] for stats in told)
    print(
        "flat" if flat else "NOT flat",
        "every cancellation arrived" if ended else "NOT every cancellation arrived",
        sep="; ",
    )
    return 0 if flat and ended else 1


def _stats(upstream: Target) -> dict[str, int]:
    stats: dict[str, int] = json.loads(upstream.ask("GET", "/stats", {}, ""))
    return stats


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--sessions", type=int, default=2_000)
    parser.add_argument("--cancellations", type=int, default=500)
    parser.add_argument("--laps", type=int, default=20)
    parser.add_argument("--connections", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
