"""``ostiary bridge``: a stdio MCP server in front of a gateway, for hosts that cannot present a certificate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from gateway.cli.remote import (
    absolute,
    credential_of_environment,
    identities_of_user,
    identity_options,
    origin_of_words,
)
from gateway.cli.session import now

if TYPE_CHECKING:
    from gateway.client.session import Session

_STDIN, _STDOUT = 0, 1


@click.command()
@click.argument("url", metavar="URL")
@identity_options
def bridge(url: str, ca: Path | None, certificate: Path | None, private_key: Path | None) -> None:
    """Be a stdio MCP server that speaks to the gateway URL.

    For hosts that cannot present a certificate, in whose configuration this is the command to start. URL may end in
    /mcp/NAME, for one upstream alone. What `ostiary login` has stored for the gateway is presented; a certificate is enough
    by itself, and so is a token in OSTIARY_TOKEN.
    """
    from gateway.client.errors import LoginRequiredError
    from gateway.client.identities import Identity
    from gateway.client.session import Session

    origin = origin_of_words(url)
    path = urlsplit(url).path.rstrip("/")
    identities = identities_of_user()
    known = identities.identity(origin) or Identity()
    identity = known.presenting(absolute(ca), absolute(certificate), absolute(private_key))
    given = credential_of_environment()
    if given is None and identity.certificate is None and identities.tokens(origin) is None:
        raise LoginRequiredError(origin, "nobody is signed in")

    async def run() -> None:
        session = Session(origin, identity, identities, now=now, certificate_alone=True, given=given)
        try:
            await _run(session, path or "/mcp")
        finally:
            await session.close()

    asyncio.run(run())


async def _run(session: Session, endpoint: str) -> None:
    """Until the host closes its end, or a signal says to stop."""
    from gateway.client.bridge import Bridge

    loop = asyncio.get_running_loop()
    # One thread: a line that has been begun is ended before the next one, also where its sender is cancelled.
    writer = ThreadPoolExecutor(1, "standard output")

    async def write(message: bytes) -> None:
        await loop.run_in_executor(writer, _write_line, message)

    running = loop.create_task(Bridge(session, endpoint, write).run(_lines(loop)))
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # not on every system
            loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        return
    except BaseExceptionGroup as group:
        if group.split(BrokenPipeError)[1] is not None:
            raise  # the host has gone is no fault; anything else is


async def _lines(loop: asyncio.AbstractEventLoop) -> AsyncIterator[bytes]:
    """What comes on standard input, a line at a time; read in a thread, for it may be a pipe, a file or a terminal."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def read() -> None:
        # Unbuffered and not sys.stdin: at exit nobody waits for this thread.
        buffer = bytearray()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            while piece := os.read(_STDIN, 1 << 16):
                buffer += piece
                if b"\n" in piece:
                    *whole, rest = bytes(buffer).split(b"\n")
                    buffer = bytearray(rest)
                    for line in whole:
                        loop.call_soon_threadsafe(queue.put_nowait, line)
            if buffer:
                loop.call_soon_threadsafe(queue.put_nowait, bytes(buffer))
            loop.call_soon_threadsafe(queue.put_nowait, None)

    threading.Thread(target=read, name="standard input", daemon=True).start()
    while (line := await queue.get()) is not None:
        yield line


def _write_line(message: bytes) -> None:
    rest = memoryview(message + b"\n")
    while rest:
        rest = rest[os.write(_STDOUT, rest) :]
