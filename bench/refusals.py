"""``python -m bench.refusals``: what 20,000 failed handshakes leave behind, and what slow clients do to a good one."""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import ssl
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from bench.identities import create
from bench.machine import Failed, Unavailable, cores, facts
from bench.ostiary import ostiary
from bench.targets import Target, direct

WARM_UP: Final = 2_000
"""Failed handshakes before the first look: what a server allocates once is not charged to them."""
HEAD: Final = b"POST /mcp HTTP/1.1\r\nHost: lo"
BODY: Final = (
    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)


def main() -> int:
    """Measure and print. 0: done; 1: the gateway could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--handshakes", type=int, default=20_000)
    parser.add_argument("--slow", type=int, default=2_000)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as folder, ExitStack() as running:
            core = cores()
            print(facts(Path(folder)), flush=True)
            identities = create(Path(folder) / "identities")
            behind = running.enter_context(direct(Path(folder), core.load, identities, name="upstream"))
            target = running.enter_context(ostiary(Path(folder), core.server, identities, behind.port))
            _memory(target, arguments.handshakes)
            _latency(target, arguments.slow)
    except (Failed, Unavailable) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    return 0


def _memory(target: Target, handshakes: int) -> None:
    _fail(target, WARM_UP)
    target.server.rest()
    before = target.server.resident_bytes()
    _fail(target, handshakes)
    target.server.rest()
    grown = target.server.resident_bytes() - before
    print(
        f"{handshakes:,} failed handshakes: {before / 1e6:.1f} MB before, {grown / 1e6:+.1f} MB after",
        flush=True,
    )


def _fail(target: Target, times: int) -> None:
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", target.port), timeout=20) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(OSError):
                plain.recv(100)


def _latency(target: Target, slow: int) -> None:
    alone = _median(target)
    with ExitStack() as opened:
        for number in range(slow):
            client = opened.enter_context(contextlib.closing(target.connect()))
            client.connect()
            if not isinstance(client.sock, ssl.SSLSocket):
                raise Failed("a connection without TLS")
            client.sock.sendall(BODY if number % 2 else HEAD)
        beside = _median(target)
    print(
        f"a call's median: {1000 * alone:.2f} ms alone, {1000 * beside:.2f} ms beside {slow:,} slow clients",
        flush=True,
    )


def _median(target: Target) -> float:
    request = target.call()
    times = []
    with contextlib.closing(target.connect()) as client:
        for _ in range(500):
            begun = time.perf_counter()
            client.request(request.method, "/" + request.url.split("/", 3)[3], request.body, request.headers)
            if client.getresponse().read().decode() != request.expected:
                raise Failed("a wrong answer")
            times.append(time.perf_counter() - begun)
    return median(times)


if __name__ == "__main__":
    sys.exit(main())
