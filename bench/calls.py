"""The main table: MCP ``tools/call`` per second and CPU time for each, through every target in turn."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.load import Load, Sample
from bench.rounds import alternate, print_table, ratio, spread
from bench.targets import Target


def measure(load: Load, targets: Sequence[Target], *, rounds: int, seconds: int, connections: int) -> None:
    """Measure and print.

    Raises:
        Failed: A reply was wrong.
    """
    print(
        f"tools/call, {connections} connections, medians of {rounds} alternating rounds of {seconds} s\n",
        flush=True,
    )
    work = {target.name: (target.server, target.call()) for target in targets}
    samples = alternate(load, work, rounds=rounds, seconds=seconds, connections=connections)
    peers = [name for name in samples if name != "ostiary"]
    print_table(
        ["target", "calls/s", "spread", "CPU µs a call", "spread", "p50 ms", "p99 ms"]
        + [f"calls/s of {peer}'s" for peer in peers],
        [_row(name, samples, peers) for name in samples],
    )


def _row(name: str, samples: dict[str, list[Sample]], peers: Sequence[str]) -> list[str]:
    taken = samples[name]
    rates = [sample.rate for sample in taken]
    costs = [sample.cpu_per_reply * 1e6 for sample in taken]
    return [
        name,
        f"{median(rates):,.0f}",
        spread(rates),
        f"{median(costs):.1f}",
        spread(costs),
        f"{median(sample.p50 for sample in taken) * 1e3:.2f}",
        f"{median(sample.p99 for sample in taken) * 1e3:.2f}",
        *(ratio(rates, [sample.rate for sample in samples[peer]]) for peer in peers),
    ]
