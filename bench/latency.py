"""What a target adds to the latency of a direct call, over one connection, with nothing else to do."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.load import Load, Sample
from bench.rounds import alternate, print_table
from bench.targets import Target


def measure(load: Load, targets: Sequence[Target], *, rounds: int, seconds: int) -> None:
    """Measure and print; the first target is the direct call.

    Raises:
        Failed: A reply was wrong.
    """
    print(
        f"latency of a call, 1 connection, medians of {rounds} alternating rounds of {seconds} s\n",
        flush=True,
    )
    work = {target.name: (target.server, target.call()) for target in targets}
    samples = alternate(load, work, rounds=rounds, seconds=seconds, connections=1)
    direct = samples[targets[0].name]
    print_table(
        ["target", "p50 ms", "p99 ms", "p50 added", "p99 added"],
        [_row(name, taken, direct) for name, taken in samples.items()],
    )


def _row(name: str, taken: Sequence[Sample], direct: Sequence[Sample]) -> list[str]:
    """The additions are medians of the differences within each round."""
    pairs = list(zip(taken, direct, strict=True))
    seconds = (
        median(sample.p50 for sample in taken),
        median(sample.p99 for sample in taken),
        median(sample.p50 - base.p50 for sample, base in pairs),
        median(sample.p99 - base.p99 for sample, base in pairs),
    )
    return [name, *(f"{value * 1e3:.2f}" for value in seconds)]
