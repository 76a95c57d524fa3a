"""What all stdio upstreams share: who ends their processes if the gateway is killed, their logs, and what is kept from them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.clock import rfc3339
from gateway.mcp import keeper

log = logging.getLogger("ostiary.mcp")

LOG_BYTES: Final = 1024 * 1024
"""How large a server's log grows before it is put aside."""
LOGS_KEPT: Final = 3
"""How many that were put aside are kept."""
_END_SECONDS: Final = 5.0


class GroupKeeper:
    """Has the process groups of children ended when the gateway is no more (see ``keeper``)."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def care_for(self, group: int) -> None:
        """From now on that group ends with the gateway."""
        self._groups.add(group)
        self._say(f"+{group}\n")

    def leave(self, group: int) -> None:
        """It has ended; its number may be another's."""
        self._groups.discard(group)
        self._say(f"-{group}\n")

    async def close(self) -> None:
        """Let it go: what is left of the groups is ended."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            await asyncio.to_thread(process.wait, _END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _say(self, line: str) -> None:
        try:
            if self._process is None or self._process.poll() is not None:
                self._start()
            elif self._process.stdin is not None:
                os.write(self._process.stdin.fileno(), line.encode())
        except OSError as error:
            log.error("what stdio servers start would outlive a killed gateway: %s", error.strerror)

    def _start(self) -> None:
        """Start it anew, and tell it of all groups. Raises OSError."""
        if self._process is not None:
            log.warning("the keeper of stdio servers' process groups has ended; it is started again")
            if self._process.stdin is not None:
                self._process.stdin.close()
        command = [sys.executable, "-I", "-S", "-B", keeper.__file__]
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )
        if self._process.stdin is not None:
            descriptor = self._process.stdin.fileno()
            os.set_blocking(descriptor, False)
            os.write(descriptor, "".join(f"+{group}\n" for group in self._groups).encode())


class ServerLog:
    """The file with what one server says on its standard error, 0600; put aside when it is full.

    Where there is no folder, or it cannot be written, the lines go to the gateway's own log (INFO).
    """

    def __init__(self, name: str, folder: Path | None, now: Callable[[], float]) -> None:
        self._path = None if folder is None else folder / f"{name}.log"
        self._now = now
        self._logger = logging.getLogger(f"ostiary.mcp.{name}")
        self._size = -1
        """Bytes of the file; -1: not looked at yet."""

    def write(self, line: str) -> None:
        """Add a line, which must be printable."""
        if self._path is not None:
            try:
                self._append(self._path, f"{rfc3339(self._now())} {line}\n".encode())
                return
            except OSError as error:
                log.warning("%s cannot be written (%s): see [mcp] server_logs", self._path, error.strerror)
                self._path = None
        self._logger.info("%s", line)

    def alarm(self, line: str) -> None:
        """Add a line that somebody should read in the gateway's log, too."""
        self._logger.warning("%s", line)
        if self._path is not None:
            self.write(line)

    def _append(self, path: Path, data: bytes) -> None:
        if self._size < 0:
            with contextlib.suppress(FileNotFoundError):
                self._size = path.lstat().st_size
        if self._size + len(data) > LOG_BYTES:
            for number in range(LOGS_KEPT, 0, -1):
                older = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
                with contextlib.suppress(FileNotFoundError):
                    older.replace(path.with_name(f"{path.name}.{number}"))
            self._size = 0
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            self._size = max(self._size, 0) + os.write(descriptor, data)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StdioHost:
    """Where stdio servers run."""

    now: Callable[[], float]
    logs: Path | None = None
    """The folder of their logs; None: they go to the gateway's own."""
    hidden: tuple[Path, ...] = ()
    """Files and folders of the gateway that no server sees, as far as the system allows."""
    read_only: tuple[Path, ...] = ()
    """Those that none can write."""
    keeper: GroupKeeper = field(default_factory=GroupKeeper)

    def make_ready(self) -> None:
        """Make the folder of the logs before any server runs, from which it is hidden."""
        if self.logs is None:
            return
        try:
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            log.warning("%s cannot be made (%s): see [mcp] server_logs", self.logs, error.strerror)

    def log_of(self, name: str) -> ServerLog:
        """The log of the server of that name."""
        return ServerLog(name, self.logs, self.now)
