"""Runs the command ``ostiary``, the gateway among them, without the price of its start.

Each command is a process of its own, forked from one that has imported what commands need: Python's start and the imports
are paid once for each of pytest's workers, not a thousand times. The forked process runs ``gateway.cli.main`` as
``python -m gateway`` does; how that starts is tested where starts are (``tests/test_cli_words.py``).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, Self

ROOT = Path(__file__).resolve().parent.parent
_LENGTH = 8


def ostiary(
    *words: str,
    stdin: str | None = None,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    seconds: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run ``ostiary WORDS``, with an empty input where none is given. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write((stdin or "").encode())
        given.seek(0)
        with Command(words, given, out, err, cwd=cwd, env=env) as command:
            code = command.wait(seconds)
        return subprocess.CompletedProcess(("ostiary", *words), code, _text(out), _text(err))


class Command:
    """A process that runs ``ostiary WORDS``; it is handled as a Popen is."""

    def __init__(
        self,
        words: Sequence[str],
        stdin: IO[Any],
        stdout: IO[Any],
        stderr: IO[Any],
        *,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.words = words
        self.returncode: int | None = None
        self._turn = threading.Lock()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_parent())
        started = {"words": words, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
        message = json.dumps(started).encode()
        files = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
        socket.send_fds(self._connection, [len(message).to_bytes(_LENGTH)], files)
        self._connection.sendall(message)
        self.pid = self._number()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for it no more."""
        self._connection.close()

    def poll(self) -> int | None:
        """The exit code; None: it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended; several threads may wait. Raises subprocess.TimeoutExpired."""
        expired = subprocess.TimeoutExpired(list(self.words), timeout or 0.0)
        if not self._turn.acquire(timeout=-1 if timeout is None else timeout):
            raise expired
        try:
            if self.returncode is None:
                self._connection.settimeout(timeout)
                self.returncode = self._number()
            return self.returncode
        except (TimeoutError, BlockingIOError):
            raise expired from None
        finally:
            self._turn.release()

    def send_signal(self, number: int) -> None:
        """Where it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _number(self) -> int:
        return int.from_bytes(self._connection.recv(_LENGTH), signed=True)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@functools.cache
def _parent() -> str:
    """The address of the process that commands are forked from; started when it is first asked for."""
    folder = tempfile.TemporaryDirectory(prefix="ostiary-")
    address = f"{folder.name}/socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.commands", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def stop() -> None:
        process.communicate()  # closes its input: it ends
        folder.cleanup()

    atexit.register(stop)
    return address


def _listen(address: str) -> None:
    """Fork a process for each connection, until the input ends."""
    import gc

    _import_commands()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _answer(connection)


def _import_commands() -> None:
    import importlib
    import pkgutil

    import certs
    import gateway
    import persistence

    for package in (certs, gateway, persistence):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)


def _answer(connection: socket.socket) -> NoReturn:
    """Run one command in a process of its own, and tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, _LENGTH, 3)
    message = bytearray()
    while len(message) < int.from_bytes(length):
        message += connection.recv(65536)
    process = os.fork()
    if process == 0:
        connection.close()
        _run(json.loads(message), files)
    for file in files:
        os.close(file)
    connection.sendall(process.to_bytes(_LENGTH, signed=True))
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(_LENGTH, signed=True))
    os._exit(0)


def _run(started: dict[str, Any], files: list[int]) -> NoReturn:
    from gateway.cli import main

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(started["cwd"])
    os.environ.clear()
    os.environ.update(started["env"])
    sys.argv[:] = ["ostiary", *started["words"]]
    sys.path[:0] = [path for path in started["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    code: int | str | None = 1
    try:
        code = main(started["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _listen(sys.argv[1])
