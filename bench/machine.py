"""The measured machine: two cores, the processes pinned to them, and what the kernel says of their CPU time and memory."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, NoReturn, Self

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 10.0
QUIET: Final = 0.25
"""Seconds with at most one tick of CPU time after which a server counts as at rest."""


class Unavailable(Exception):  # noqa: N818 - a fact about the machine, not a fault
    """Something cannot be measured here. The text says what is missing and how to get it."""


class Failed(Exception):  # noqa: N818 - the run's verdict
    """The run is void: a target gave a wrong reply, or a process ended."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The measured server has one core to itself; load and upstream share the other."""

    server: int
    load: int


def cores() -> Cores:
    """The first two cores that this process may use.

    Raises:
        Unavailable: There is only one: server and load would take it from each other.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise Unavailable("two cores are needed: one for the measured server, one for load and upstream")
    return Cores(server=usable[0], load=usable[1])


def run(measure: Callable[[Path, ExitStack], int]) -> int:
    """Measure in a temporary folder; whatever was started ends with it.

    0: as it should be; 1: not, or it could not be measured, which is said; 130: interrupted.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as folder, ExitStack() as running:
            return measure(Path(folder), running)
    except (Failed, Unavailable) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def require(program: str, package: str) -> str:
    """The path of a program.

    Raises:
        Unavailable: It is not installed; the text names the Debian package.
    """
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise Unavailable(f"{program} is missing: apt-get install -y {package}")
    return path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def facts(folder: Path) -> str:
    """One line about the machine: what a reader must know to compare figures."""
    return (
        f"{os.cpu_count()} cores, {platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}, "
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION.partition('  ')[0]}, files on {_file_system(folder)}"
    )


def _file_system(folder: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1]


class Server:
    """A process under measurement or behind it: pinned to a core, its output in a file, ended with all its children."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def line(self, start: str) -> str:
        """Wait for an output line that starts so; returns the rest of it.

        Raises:
            Unavailable: The process ended, or said nothing of the kind in time.
        """
        for _ in self._attempts():
            for text in self._log.read_text(errors="replace").splitlines():
                if text.startswith(start):
                    return text[len(start) :].strip()
        raise Unavailable(f"{self.name} did not start: {self._last_words()}")

    def listening(self, port: int) -> None:
        """Wait until the port of 127.0.0.1 accepts connections.

        Raises:
            Unavailable: The process ended, or did not listen in time.
        """
        for _ in self._attempts():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        raise Unavailable(f"{self.name} did not start: {self._last_words()}")

    def cpu_seconds(self) -> float:
        """User and system time of the process and its living children, in seconds.

        Raises:
            Failed: The process has ended.
        """
        return sum(int(stat[11]) + int(stat[12]) for stat in self._stats()) / TICKS

    def resident_bytes(self) -> int:
        """Memory that the process and its children hold, in bytes.

        Raises:
            Failed: The process has ended.
        """
        return sum(int(stat[21]) * PAGE for stat in self._stats())

    def descriptors(self) -> int:
        """How many files and sockets the process itself has open.

        Raises:
            Failed: The process has ended.
        """
        try:
            return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())
        except OSError:
            raise Failed(f"{self.name} ended: {self._last_words()}") from None

    def suspend(self) -> None:
        """Stop the process and its children where they are, until ``resume``."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def rest(self, limit: float = 5.0) -> None:
        """Wait until the server does nothing any more, at most ``limit`` seconds: what it put off belongs to its own sample."""
        deadline = time.monotonic() + limit
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(QUIET)
            now = self.cpu_seconds()
            if now - before <= 1 / TICKS:
                return
            before = now

    def _attempts(self) -> Iterator[None]:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            yield
            time.sleep(0.02)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "no output"

    def _stats(self) -> list[list[str]]:
        """The fields of ``/proc/PID/stat`` after the command, for the process and its descendants (proc(5))."""
        if self._process.poll() is not None:
            raise Failed(f"{self.name} ended with {self._process.returncode}: {self._last_words()}")
        stats: dict[int, list[str]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    stats[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
        family = {self._process.pid}
        while grown := {pid for pid, stat in stats.items() if int(stat[1]) in family} - family:
            family |= grown
        return [stats[pid] for pid in family if pid in stats]


@contextlib.contextmanager
def alone(server: Server, among: Iterable[Server]) -> Iterator[None]:
    """Suspend the others: what one of them has put off must not run in this one's time."""
    others = [other for other in among if other is not server]
    for other in others:
        other.suspend()
    try:
        yield
    finally:
        for other in others:
            other.resume()


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
