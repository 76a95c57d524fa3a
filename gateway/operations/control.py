"""The control socket: how commands reach the server that owns the store.

``control.sock`` in the store's folder, mode 0600; the peer must be the owner of this process or root, which the kernel
vouches for (SO_PEERCRED), and its first line must be what ``control.key`` (0600, made anew at each start) holds: a child
process that is confined runs as the same user and may connect to any socket, but cannot read that file. One JSON object a line, ``{"operation": …, "parameters": {…}}``, is answered by one line,
``{"result": …}`` or ``{"error": "…"}``. Whatever comes in, the server goes on.

Unix socket paths end at 107 bytes, so both sides go through a descriptor of the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import os
import pwd
import secrets
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.operations.administration import OperationError
from persistence.records import StoreError

log = logging.getLogger("ostiary.admin")

SOCKET_NAME: Final = "control.sock"
KEY_NAME: Final = "control.key"
MAX_REQUEST_BYTES: Final = 64 << 10
MAX_ANSWER_BYTES: Final = 16 << 20
MAX_CONNECTIONS: Final = 16
IDLE_SECONDS: Final = 30.0
"""How long a peer may take to send a request, or to take its answer."""
ANSWER_SECONDS: Final = 60.0
"""How long an operation may take."""

_PEER_CREDENTIALS: Final = struct.Struct("3i")

Perform = Callable[[str, object, str], Awaitable[dict[str, Any]]]
"""Performs an operation by name, with its parameters, for an operating-system user."""


class NoServer(Exception):  # noqa: N818 - not a fault: nobody is there
    """No server listens on the control socket."""


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operation: str
    parameters: dict[str, Any] = {}


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    result: dict[str, Any] | None = None
    error: str | None = None


class ControlServer:
    """Listens on the control socket of one store, from ``start`` to ``close``."""

    def __init__(self, folder: Path, perform: Perform) -> None:
        """``folder``: the store's. Only for the process that holds the store's lock: an old socket is replaced."""
        self._folder = folder
        self._perform = perform
        self._server: asyncio.Server | None = None
        self._descriptor = -1
        self._inode = -1
        self._key = secrets.token_urlsafe(32).encode()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._remove_stale()
            self._write_key()
            os.fchmod(listener.fileno(), 0o600)  # before bind: the file is never wider, whatever the umask
            listener.bind(f"/proc/self/fd/{self._descriptor}/{SOCKET_NAME}")
            self._inode = os.stat(SOCKET_NAME, dir_fd=self._descriptor).st_ino
            self._server = await asyncio.start_unix_server(
                self._connected, sock=listener, limit=MAX_REQUEST_BYTES
            )
        except BaseException:
            listener.close()
            os.close(self._descriptor)
            raise

    async def close(self) -> None:
        """Stop listening, end what is under way, and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(SOCKET_NAME, dir_fd=self._descriptor).st_ino == self._inode:
                os.unlink(SOCKET_NAME, dir_fd=self._descriptor)
                os.unlink(KEY_NAME, dir_fd=self._descriptor)
        os.close(self._descriptor)

    def _write_key(self) -> None:
        """Nobody has connected yet. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(KEY_NAME, dir_fd=self._descriptor)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(KEY_NAME, flags, 0o600, dir_fd=self._descriptor)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(self._key)

    def _remove_stale(self) -> None:
        """What a server that was killed left behind; anything but a socket stays, and bind fails on it."""
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(SOCKET_NAME, dir_fd=self._descriptor, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                os.unlink(SOCKET_NAME, dir_fd=self._descriptor)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - a coroutine always runs in one
            return
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError) as error:
            log.debug("a control connection ended: %s", error)
        except asyncio.CancelledError:
            # Only ``close`` cancels, and it waits for us: ending here is what it wants.
            log.debug("a control connection was closed with the server")
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer)
        if uid not in {0, os.geteuid()}:
            log.warning("user %s was refused at the control socket", user_name(uid))
            await _send(writer, _Answer(error="only the gateway's own user and root may do this"))
            return
        if len(self._tasks) > MAX_CONNECTIONS:
            await _send(writer, _Answer(error="too many commands at once; try again"))
            return
        key = await _line(reader, writer)
        if key is None:
            return
        if not hmac.compare_digest(key.rstrip(b"\n"), self._key):
            log.warning("somebody without the key was refused at the control socket")
            await _send(
                writer, _Answer(error=f"the first line must be what {KEY_NAME} beside the socket holds")
            )
            return
        while (line := await _line(reader, writer)) is not None:
            await _send(writer, await self._answer(line, user_name(uid)))

    async def _answer(self, line: bytes, actor: str) -> _Answer:
        try:
            request = msgspec.json.decode(line, type=_Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _Answer(error='a request is a line of JSON: {"operation": …, "parameters": {…}}')
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return _Answer(result=await self._perform(request.operation, request.parameters, actor))
        except (OperationError, StoreError) as error:
            return _Answer(error=str(error))
        except TimeoutError:
            return _Answer(error="that took too long; look whether it was done before you try again")
        except Exception:
            log.exception("the operation %s failed", request.operation[:80])
            return _Answer(error="that failed in the server; its log says why")


async def ask(folder: Path, operation: str, parameters: object) -> dict[str, Any]:
    """Have the server that owns the store in ``folder`` perform an operation.

    Raises NoServer, OperationError with the server's own words, or OSError where it went away in the middle.
    """
    line = msgspec.json.encode({"operation": operation, "parameters": parameters}) + b"\n"
    if len(line) > MAX_REQUEST_BYTES:
        raise OperationError("that is too much for one command; give it less at a time")
    with _through_descriptor(folder) as path:
        try:
            key = Path(path).with_name(KEY_NAME).read_bytes()
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
                raise NoServer(str(folder)) from None
            raise
    try:
        async with asyncio.timeout(ANSWER_SECONDS + IDLE_SECONDS):
            writer.write(key + b"\n" + line)
            await writer.drain()
            answer = msgspec.json.decode(await reader.readuntil(b"\n"), type=_Answer)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, msgspec.DecodeError) as error:
        raise ConnectionError("the server went away before it answered; look whether it was done") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if answer.error is not None:
        raise OperationError(answer.error)
    return answer.result or {}


async def _line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """The next line; None: there is none, or it is too long, which the peer was told. Raises TimeoutError."""
    async with asyncio.timeout(IDLE_SECONDS):
        try:
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            await _send(writer, _Answer(error=f"a request has at most {MAX_REQUEST_BYTES} bytes"))
            return None


def user_name(uid: int) -> str:
    """The name of an operating-system user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextlib.contextmanager
def _through_descriptor(folder: Path) -> Iterator[str]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoServer(str(folder)) from None
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    connection = writer.get_extra_info("socket")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _pid, uid, _gid = _PEER_CREDENTIALS.unpack(raw)
    return int(uid)


async def _send(writer: asyncio.StreamWriter, answer: _Answer) -> None:
    line = msgspec.json.encode(answer) + b"\n"
    if len(line) > MAX_ANSWER_BYTES:
        line = msgspec.json.encode(_Answer(error="the answer is too large; ask for less")) + b"\n"
    async with asyncio.timeout(IDLE_SECONDS):
        writer.write(line)
        await writer.drain()
