"""Alternating rounds, their medians, and ratios within a round: absolute figures drift over minutes, ratios do not."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bench.load import Load, Request, Sample
from bench.machine import Server, alone

WARM_UP: Final = 1
"""Seconds of each sample of the first round, which is thrown away."""


def alternate(
    load: Load, work: Mapping[str, tuple[Server, Request]], *, rounds: int, seconds: int, connections: int
) -> dict[str, list[Sample]]:
    """Sample each target in turn, so many times (A B A B …), after one round that warms them up; by the targets' names.

    Raises:
        Failed: A reply was wrong.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in work}
    servers = [server for server, _ in work.values()]
    for number in range(rounds + 1):
        for name, (server, request) in work.items():
            length = seconds if number else WARM_UP
            with alone(server, servers):
                sample = load.run(server, request, connections=connections, seconds=length)
            if number:
                samples[name].append(sample)
    return samples


def spread(values: Iterable[float]) -> str:
    """The distance between the lowest and the highest value, as a share of the median."""
    ordered = sorted(values)
    return f"{(ordered[-1] - ordered[0]) / statistics.median(ordered):.0%}"


def ratio(values: Iterable[float], others: Iterable[float]) -> str:
    """The median of the ratios within each round, and the lowest and highest of them."""
    ratios = sorted(value / other for value, other in zip(values, others, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table with its columns in line."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join(cells)} |")
    print(flush=True)
