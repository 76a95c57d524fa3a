"""``python -m bench.login``: what time tells of names: unknown, disabled, wrong and locked, side by side."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from bench.machine import Failed, Server, Unavailable, cores, facts, python_module
from bench.ostiary import READY

PASSWORD: Final = "Purple-Kettle-81-Moor\n"
WRONG: Final = {"wrong": "alice", "disabled": "bob", "unknown": "zoe"}
"""Who is tried with a wrong password, in each case."""
LOCKED: Final = {"locked": "alice", "locked, unknown": "zoe"}


def main() -> int:
    """Measure and print. 0: done; 1: the gateway could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    samples = parser.parse_args().samples
    try:
        with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as folder:
            print(facts(Path(folder)), flush=True)
            home = Path(folder) / "gateway"
            _prepare(home)
            with _gateway(home, lockout_after=1000) as port:
                times = _measure(home, port, WRONG, 401, samples)
            with _gateway(home, lockout_after=1) as port:
                _measure(home, port, LOCKED, 401, 1)
                times |= _measure(home, port, LOCKED, 429, samples)
    except (Failed, Unavailable) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    _print(times)
    return 0


def _prepare(home: Path) -> None:
    _run(home, "init", str(home), "--admin", "root", "--password-stdin", configured=False)
    for name in ("alice", "bob"):
        _run(home, "clients", "add", name, "--password-stdin")
    _run(home, "clients", "disable", "bob")


@contextlib.contextmanager
def _gateway(home: Path, *, lockout_after: int) -> Iterator[int]:
    """Its port."""
    environment = {
        "OSTIARY_SERVER_PORT": "0",
        "OSTIARY_LIMITS_LOGIN_PER_MINUTE": "100000",
        "OSTIARY_ACCOUNTS_LOCKOUT_AFTER": str(lockout_after),
    }
    words = [f"{name}={value}" for name, value in environment.items()]
    command = ["env", *words, *python_module("gateway", "serve", "--config", str(home / "ostiary.toml"))]
    with Server("ostiary", command, core=cores().server, log=home / "log") as server:
        yield int(server.line(READY).rpartition(":")[2])


def _measure(
    home: Path, port: int, names: dict[str, str], expected: int, samples: int
) -> dict[str, list[float]]:
    """Milliseconds of each answer; the cases alternate."""
    context = ssl.create_default_context(cafile=str(home / "certs" / "ca.pem"))
    times: dict[str, list[float]] = {case: [] for case in names}
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    with contextlib.closing(connection):
        for _ in range(samples):
            for case, name in names.items():
                body = json.dumps({"username": name, "password": "Wrong-Password-1!"})
                begun = time.perf_counter()
                connection.request("POST", "/auth/login", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                times[case].append(1000 * (time.perf_counter() - begun))
                if response.status != expected:
                    raise Failed(f"{case}: {response.status} {answer[:200]!r}")
    return times


def _print(times: dict[str, list[float]]) -> None:
    base = median(times["wrong"])
    print(f"{'':16}{'median ms':>12}{'to wrong':>12}{'quartiles':>20}")
    for case, measured in times.items():
        low, middle, high = quantiles(measured, n=4) if len(measured) > 1 else measured * 3
        print(f"{case:16}{middle:12.2f}{middle - base:+12.2f}{f'{low:.2f} to {high:.2f}':>20}")


def _run(home: Path, *words: str, configured: bool = True) -> None:
    config = ("--config", str(home / "ostiary.toml")) if configured else ()
    command = python_module("gateway", *words, *config)
    done = subprocess.run(command, input=PASSWORD, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"ostiary {words[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")


if __name__ == "__main__":
    sys.exit(main())
