"""Full mutual-TLS handshakes per second: each request on a connection of its own, none resumed.

In TLS 1.3 the server checks the client's certificate after the client believes to be connected; the request on each
connection makes that check part of the measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from bench.load import Load, Sample
from bench.rounds import alternate, print_table, ratio, spread
from bench.targets import Target

CONNECTIONS: Final = 16
"""At a time."""


def measure(load: Load, targets: Sequence[Target], *, rounds: int, seconds: int) -> None:
    """Measure and print; targets without TLS are left out, and the ratios are to the first that is left.

    Raises:
        Failed: A reply was wrong.
    """
    print(
        f"full handshakes, {CONNECTIONS} at a time, {rounds} alternating rounds of {seconds} s\n", flush=True
    )
    work = {
        target.name: (target.server, target.greeting()) for target in targets if target.identities is not None
    }
    samples = alternate(load, work, rounds=rounds, seconds=seconds, connections=CONNECTIONS)
    first = next(iter(samples), "")
    print_table(
        ["target", "handshakes/s", "spread", "CPU µs each", f"handshakes/s of {first}'s"],
        [_row(name, taken, samples[first]) for name, taken in samples.items()],
    )


def _row(name: str, taken: Sequence[Sample], first: Sequence[Sample]) -> list[str]:
    rates = [sample.rate for sample in taken]
    cost = median(sample.cpu_per_reply for sample in taken) * 1e6
    share = ratio(rates, [sample.rate for sample in first])
    return [name, f"{median(rates):,.0f}", spread(rates), f"{cost:,.0f}", share]
