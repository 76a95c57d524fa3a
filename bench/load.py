"""The load: wrk with a client certificate and a script that checks every reply.

wrk has no option for a client certificate; a small library, compiled for each run and preloaded, gives it one.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.identities import KeyPair
from bench.machine import Failed, Server, Unavailable, require

HERE: Final = Path(__file__).parent
REPLY_TIMEOUT: Final = "10s"
LATENCY: Final = slice(7, 9)


@dataclass(frozen=True, slots=True)
class Request:
    """The request that is sent over and over, and the exact body that each 200 must have."""

    url: str
    method: str
    headers: dict[str, str] = field(repr=False)
    body: str
    expected: str
    client: KeyPair | None
    """The client certificate; None: plain HTTP."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of the load saw. Times in seconds."""

    replies: int
    duration: float
    cpu: float
    """What the server and its children spent, the work that they put off until after the run included."""
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Replies per second."""
        return self.replies / self.duration

    @property
    def cpu_per_reply(self) -> float:
        """Seconds of the server's CPU time for one reply."""
        return self.cpu / self.replies


class Load:
    """wrk on one core."""

    def __init__(self, folder: Path, core: int) -> None:
        """Find wrk and compile what gives it a certificate into the folder.

        Raises:
            Unavailable: wrk or a C compiler is missing.
        """
        self._wrk = require("wrk", "wrk")
        self._core = core
        self._preload = folder / "client_certificate.so"
        compiler = require("gcc", "gcc libc6-dev")
        source = str(HERE / "client_certificate.c")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self._preload), source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"gcc cannot compile {source}: {done.stderr.strip().splitlines()[0]}")

    def run(self, server: Server, request: Request, *, connections: int, seconds: float) -> Sample:
        """Send the request over so many kept-alive connections; the server's CPU time is read around it.

        Raises:
            Failed: A reply was wrong or missing.
        """
        before = server.cpu_seconds()
        line = self._drive(request, connections, seconds)
        server.rest()
        spent = server.cpu_seconds() - before

        numbers = [int(word) for word in line.split(" ", 9)[:9]]
        duration, replies, wrong = numbers[:3]
        unanswered = sum(numbers[3:7])
        if wrong or unanswered or not replies:
            first = line.split(" ", 9)[9]
            raise Failed(
                f"{server.name}: {wrong} of {replies} replies were wrong, {unanswered} missing. {first}".strip()
            )
        p50, p99 = (microseconds / 1e6 for microseconds in numbers[LATENCY])
        return Sample(replies, duration / 1e6, spent, p50, p99)

    def _drive(self, request: Request, connections: int, seconds: float) -> str:
        """Run wrk; returns the line that the script printed, without its first word."""
        command = [
            "taskset",
            "-c",
            str(self._core),
            self._wrk,
            "-t1",
            f"-c{connections}",
            f"-d{round(seconds)}s",
        ]
        command += ["--timeout", REPLY_TIMEOUT, "-s", str(HERE / "request.lua"), request.url]
        environment = {
            **os.environ,
            "BENCH_METHOD": request.method,
            "BENCH_HEADERS": "\n".join(f"{name}: {value}" for name, value in request.headers.items()),
            "BENCH_BODY": request.body,
            "BENCH_EXPECTED": request.expected,
        }
        if request.client is not None:
            environment |= {
                "LD_PRELOAD": str(self._preload),
                "BENCH_CERTIFICATE": str(request.client.certificate),
                "BENCH_PRIVATE_KEY": str(request.client.private_key),
            }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            if line.startswith("BENCH "):
                return line.removeprefix("BENCH ")
        raise Failed(f"wrk: {(done.stderr or done.stdout).strip()[-300:]}")
