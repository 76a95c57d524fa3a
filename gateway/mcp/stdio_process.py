"""A child process that speaks in lines, the head of its own process group.

It ends with its whole group: standard input is closed, then SIGTERM and at last SIGKILL go to all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final, cast

from gateway.config.values import StdioUpstream
from gateway.mcp.confinement import confined
from gateway.mcp.exchange import MAX_MESSAGE
from gateway.mcp.sandbox import CANNOT_CONFINE, CANNOT_EXECUTE, NOT_FOUND
from gateway.mcp.stdio_host import GroupKeeper, ServerLog, StdioHost

MAX_LOGGED: Final = 2000
"""Characters of one line of a child's in the log."""
MAX_LINES_A_SECOND: Final = 100
MAX_TURN_SECONDS: Final = 0.01
"""After a turn that took longer the child's output waits as long, so that others have theirs."""
MAX_UNREAD: Final = 4 * MAX_MESSAGE
"""Bytes that may wait for a child to read them."""
LAST_WORDS_SECONDS: Final = 0.5
"""How long to wait for the end of the output after the exit, or for the exit after the end of the output."""
_STDIN: Final = 0
_STDOUT: Final = 1
_FATES: Final = {
    CANNOT_CONFINE: "could not be confined to its sandbox",
    CANNOT_EXECUTE: "has a command that cannot be executed",
    NOT_FOUND: "has a command that was not found",
}


class Rate:
    """How many lines the processes of one server may have logged in a second."""

    def __init__(self, log: ServerLog, clock: Callable[[], float]) -> None:
        self.log = log
        self._clock = clock
        self._since = clock()
        self._written = 0

    def allows(self) -> bool:
        """Whether one more line is logged; those that are not are counted."""
        now = self._clock()
        if now - self._since >= 1.0:
            if self._written > MAX_LINES_A_SECOND:
                self.log.write(f"{self._written - MAX_LINES_A_SECOND} lines were left out")
            self._since, self._written = now, 0
        self._written += 1
        return self._written <= MAX_LINES_A_SECOND


class LineLog:
    """Writes one child's lines to its server's log, bounded in length and number."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._rest = b""
        self.pid = 0

    def feed(self, data: bytes) -> None:
        """Log the lines that ``data`` completes; one that is too long is cut."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LOGGED]
        for line in lines:
            self.line("stderr", line)

    def last(self, words: str) -> None:
        """Log why the child is ended, however much was logged before."""
        self._rate.log.alarm(f"{words}: the process is ended")

    def line(self, where: str, line: bytes) -> None:
        """Log one line."""
        text = line[:MAX_LOGGED].decode("utf-8", "replace").rstrip()
        if text and self._rate.allows():
            printable = text if text.isprintable() else ascii(text)[1:-1]
            self._rate.log.write(f"[{self.pid}] {where}: {printable}")


class ChildProcess(asyncio.SubprocessProtocol):
    """One child process."""

    def __init__(
        self,
        log: LineLog,
        keeper: GroupKeeper,
        received: Callable[[bytes], bool],
        ended: Callable[[str], None],
    ) -> None:
        """``received`` gets each line of its output; False ends it. ``ended`` gets, once, what became of it."""
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._received = received
        self._ended = ended
        self._transport: asyncio.SubprocessTransport
        self._stdin: asyncio.WriteTransport
        self._pid = 0
        self._buffer = bytearray()
        self._searched = 0
        self._writable: asyncio.Future[None] | None = None
        self._exited = asyncio.Event()
        self._last_words: asyncio.TimerHandle | None = None
        self._silent = False
        """Whether its output is closed."""
        self._over = False
        self._fate: str | None = None
        """Why the gateway ended it."""

    def write(self, line: bytes) -> None:
        """Send a line; never waits. What is sent to a dead child is lost, and one that does not read is ended."""
        if self._stdin.is_closing():
            return
        self._stdin.write(line + b"\n")
        if self._stdin.get_write_buffer_size() > MAX_UNREAD + len(line):
            self._kill("does not read its input")

    async def drained(self) -> None:
        """Wait while the child reads too slowly."""
        if self._writable is not None:
            await self._writable

    async def end(self, grace: float) -> None:
        """See it off with its group: at most three times ``grace`` seconds."""
        try:
            self._stdin.close()
            for number in (signal.SIGTERM, signal.SIGKILL):
                if await self._gone_within(grace):
                    break
                self._signal_group(number)
            await self._gone_within(grace)
        finally:
            self._signal_group(signal.SIGKILL)
            self._transport.close()

    def fate(self) -> str:
        """What became of it, in words for the caller."""
        code = self._transport.get_returncode()
        if self._fate is not None:
            return self._fate
        if code is None:
            return "closed its output"
        return _FATES.get(code, "ended")

    def _kill(self, fate: str) -> None:
        """It did what no child may do: hear nothing more of it."""
        if self._fate is None:
            self._fate = fate
            self._log.last(fate)
        self._buffer.clear()
        self._searched = 0
        self._signal_group(signal.SIGKILL)

    async def _gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        except TimeoutError:
            return False
        return True

    def _signal_group(self, number: int) -> None:
        """To the child and all its descendants that stayed in the group. After its exit the number may be another's."""
        if self._exited.is_set():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    # -- asyncio.SubprocessProtocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It runs."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._pid = self._log.pid = self._transport.get_pid()
        self._keeper.care_for(self._pid)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(_STDIN))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It said something."""
        if fd != _STDOUT:
            self._log.feed(data)
            return
        if self._fate is not None:
            return
        began = self._loop.time()
        self._take(data)
        self._rest(self._loop.time() - began)

    def _take(self, data: bytes) -> None:
        self._buffer += data
        begin = 0
        while (end := self._buffer.find(b"\n", max(begin, self._searched))) >= 0:
            line = bytes(self._buffer[begin:end])
            begin = end + 1
            if line.strip() and not self._received(line):
                self._kill("flooded its output with what nobody asked for")
                return
        del self._buffer[:begin]
        self._searched = len(self._buffer)
        if self._searched > MAX_MESSAGE:
            self._kill("sent a line that is too long")

    def _rest(self, seconds: float) -> None:
        """Where a turn took that long, let as much time go by before the next."""
        if seconds < MAX_TURN_SECONDS:
            return
        output = self._output()
        if output is not None:
            output.pause_reading()
            self._loop.call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        output = self._output()
        if output is not None:
            output.resume_reading()

    def _output(self) -> asyncio.ReadTransport | None:
        """Its standard output, while that is open."""
        output = cast(asyncio.ReadTransport | None, self._transport.get_pipe_transport(_STDOUT))
        return None if output is None or output.is_closing() else output

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """One of its pipes is closed."""
        if fd == _STDOUT:
            self._silent = True
            self._finish_soon()
        elif fd == _STDIN:
            self.resume_writing()

    def pause_writing(self) -> None:
        """It reads too slowly."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has caught up, or will read no more."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def process_exited(self) -> None:
        """It has ended; what it left behind goes with it. Its last words may still be in the pipe."""
        self._signal_group(signal.SIGKILL)
        self._keeper.leave(self._pid)
        self._exited.set()
        self._finish_soon()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It has ended, and its pipes are closed."""
        self._finish()

    def _finish_soon(self) -> None:
        """Exit and end of output come in either order, and the second may be late."""
        if self._silent and self._exited.is_set():
            self._finish()
        elif self._last_words is None:
            self._last_words = self._loop.call_later(LAST_WORDS_SECONDS, self._finish)

    def _finish(self) -> None:
        if self._last_words is not None:
            self._last_words.cancel()
        if not self._over:
            self._over = True
            self.resume_writing()
            self._ended(self.fate())


async def start(
    settings: StdioUpstream,
    host: StdioHost,
    log: LineLog,
    received: Callable[[bytes], bool],
    ended: Callable[[str], None],
) -> ChildProcess:
    """Start the upstream's command, confined. Raises OSError."""
    environment = dict(settings.environment)
    loop = asyncio.get_running_loop()
    _, child = await loop.subprocess_exec(
        lambda: ChildProcess(log, host.keeper, received, ended),
        *confined(
            settings.command,
            settings.sandbox,
            environment,
            os.getpid(),
            hidden=host.hidden,
            read_only=host.read_only,
        ),
        env=environment,
        cwd=settings.folder,
        start_new_session=True,
        close_fds=True,
    )
    return child
