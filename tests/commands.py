"""Runs the command ``ostiary`` without the price of its start.

Each command is a process of its own, forked from one that has imported what commands need: Python's start and the imports
are paid once for each of pytest's workers, not a thousand times. The forked process runs ``gateway.cli.main`` as
``python -m gateway`` does; how that starts is tested where starts are (``tests/test_cli_words.py``).
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
_LENGTH = 8


def ostiary(
    *words: str,
    stdin: str | None = None,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    seconds: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run ``ostiary WORDS``, with an empty input where none is given. Raises TimeoutError."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write((stdin or "").encode())
        given.seek(0)
        started = {"words": words, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
        message = json.dumps(started).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds)
            connection.connect(_parent())
            files = [given.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(connection, [len(message).to_bytes(_LENGTH)], files)
            connection.sendall(message)
            code = int.from_bytes(connection.recv(_LENGTH), signed=True)
        return subprocess.CompletedProcess(("ostiary", *words), code, _text(out), _text(err))


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
    import select

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
    _, status = os.waitpid(process, 0)
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
