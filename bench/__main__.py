"""``python -m bench``: start the targets, measure them in turn, print tables, leave nothing behind."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final

from bench import calls, handshakes, idle, latency
from bench.identities import Identities, create
from bench.load import Load
from bench.machine import Unavailable, cores, facts, run
from bench.ostiary import check_audit, ostiary
from bench.peers import envoy, nginx
from bench.targets import Target, direct

Start = Callable[[Path, int, Identities, int], AbstractContextManager[Target]]
PEERS: Final[dict[str, Start]] = {"nginx": nginx, "envoy": envoy}
LATENCY_ROUNDS: Final = 3
LATENCY_SECONDS: Final = 2


def main() -> int:
    """Run what the arguments ask for. 0: all measured; 1: the gateway could not be, or a reply was wrong; 130: interrupted."""
    arguments = _arguments()
    return run(lambda folder, running: _run(arguments, folder, running))


def _run(arguments: argparse.Namespace, folder: Path, running: ExitStack) -> int:
    core = cores()
    print(
        f"{facts(folder)}; measured server on core {core.server}, load and upstream on core {core.load}\n",
        flush=True,
    )
    identities = create(folder / "identities")
    behind = running.enter_context(direct(folder, core.load, identities, name="upstream"))
    targets = [running.enter_context(direct(folder, core.server, identities))]
    for start in [*(PEERS[name] for name in ("nginx", *arguments.peers)), ostiary]:
        try:
            target = running.enter_context(start(folder, core.server, identities, behind.port))
        except Unavailable as problem:
            print(f"bench: not measured: {problem}", file=sys.stderr)
        else:
            targets.append(target)

    _measure(arguments, targets, folder, core.load)

    gateway = next((target for target in targets if target.name == "ostiary"), None)
    if gateway is None:
        return 1
    check_audit(gateway)
    stats = json.loads(behind.ask("GET", "/stats", {}, ""))
    print(
        f"replies checked: all; the last call is in the audit; upstream: {stats['calls']:,} calls, {stats['sessions']} sessions"
    )
    return 0


def _measure(arguments: argparse.Namespace, targets: list[Target], folder: Path, core: int) -> None:
    """Each measurement that was asked for; those that need wrk are left out where it is missing, and the run fails."""
    everyday = not (arguments.calls or arguments.latency or arguments.handshakes or arguments.idle)
    if arguments.idle:
        idle.measure(targets, arguments.idle)
    if not (everyday or arguments.calls or arguments.latency or arguments.handshakes):
        return
    load = Load(folder, core)
    if everyday or arguments.calls:
        calls.measure(
            load,
            targets,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            connections=arguments.connections,
        )
    if everyday or arguments.latency:
        latency.measure(load, targets, rounds=LATENCY_ROUNDS, seconds=LATENCY_SECONDS)
    if arguments.handshakes:
        handshakes.measure(load, targets, rounds=arguments.rounds, seconds=arguments.seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures the gateway beside its peers, in alternating rounds on one core. "
        "With no measurement named: --calls --latency.",
    )
    parser.add_argument("--calls", action="store_true", help="tools/call per second and CPU time a call")
    parser.add_argument(
        "--latency", action="store_true", help="what is added to a direct call, over one connection"
    )
    parser.add_argument("--handshakes", action="store_true", help="full mutual-TLS handshakes per second")
    parser.add_argument(
        "--idle", type=int, nargs="?", const=1000, metavar="N", help="memory of N idle connections (1000)"
    )
    parser.add_argument("--peers", nargs="+", choices=["envoy"], default=[], help="peers beside nginx")
    parser.add_argument("--seconds", type=int, default=3, help="length of a sample (3)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="samples of each target, besides a discarded one (5)"
    )
    parser.add_argument("--connections", type=int, default=32, help="kept-alive connections under load (32)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
