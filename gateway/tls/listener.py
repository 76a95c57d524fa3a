"""The listener: accepts connections, sees each TLS handshake to its end, and hands what comes through to aiohttp.

The accepting is ours, not asyncio's, because a refused handshake must be seen: asyncio's server drops it without a word.
A connection that does not finish its handshake in time is closed, and so is one too many, before any handshake: a
place is taken from the moment it is accepted until the socket is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol

from gateway.config.values import LimitSettings
from gateway.limits import network_of
from gateway.tls.places import Place, Places
from gateway.tls.witness import witness

log = logging.getLogger("ostiary.tls")

SHUTDOWN_SECONDS: Final = 3.0
BACKLOG: Final = 1024
ACCEPT_AT_ONCE: Final = 64
"""How many connections are accepted before others have their turn."""
PAUSE_SECONDS: Final = 0.2
"""How long accepting rests when the process has no descriptors left."""
READ_AT_ONCE: Final = 64 * 1024
MAX_READS: Final = 4
"""So many times, at most, something is read from a client that was refused."""

_DER: Final = 2
"""``_ssl.ENCODING_DER``."""

ConnectionFactory = Callable[[str, Callable[[], None]], asyncio.Protocol]
"""Makes the HTTP side of a connection from the peer's address; it calls the other one once it is over."""


class TlsRefused(Protocol):
    """Gets the address and the reason of a handshake that failed, and the certificate (DER) where it is known."""

    def __call__(self, address: str, reason: str, certificate: bytes | None = None) -> None:
        """Somebody was refused."""


class TlsListener:
    """One listening address."""

    def __init__(
        self,
        context: ssl.SSLContext,
        connection: ConnectionFactory,
        refused: TlsRefused,
        limits: LimitSettings,
    ) -> None:
        self._context = witness(context)
        self._places = Places(limits.connections, limits.connections_per_address)
        self._handshake_seconds = limits.handshake_timeout
        self._connection = connection
        self._refused = refused
        self._handshakes: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._resume: asyncio.TimerHandle | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """Used for handshakes to come; may be replaced at any time."""
        return self._context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self._context = witness(context)

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; the address that was taken. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)  # noqa: FBT003 - the socket's own interface
            listening.bind(address)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        self._socket = listening
        self._listen()
        name = listening.getsockname()
        return str(name[0]), int(name[1])

    async def stop(self) -> None:
        """Accept no more; connections that came through go on."""
        if self._socket is None:
            return
        if self._resume is not None:
            self._resume.cancel()
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _listen(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPT_AT_ONCE):
            if self._socket is None:
                return
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    raise
                log.error("no more connections can be accepted now: %s", error)
                loop.remove_reader(self._socket.fileno())
                self._resume = loop.call_later(PAUSE_SECONDS, self._listen)
                return
            accepted.setblocking(False)  # noqa: FBT003
            place = self._places.take(network_of(str(address[0])))
            if isinstance(place, str):
                accepted.close()
                self._refused(str(address[0]), place)
                continue
            task = loop.create_task(self._handshake(accepted, str(address[0]), place))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, accepted: socket.socket, address: str, place: Place) -> None:
        spare = _duplicate(accepted)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(address, place.leave),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except BaseException as error:
            place.leave()
            if isinstance(error, ssl.SSLError):
                _send_alert(spare, getattr(error, "alert", b""))
                self._refused(address, _handshake_reason(error), getattr(error, "presented", None))
            elif isinstance(error, ConnectionAbortedError | TimeoutError):
                self._refused(address, "handshake_timeout")
            elif isinstance(error, OSError):  # gone: nobody was refused for who it is
                log.debug("a handshake from %s did not finish: %s", address, error)
            else:
                raise
        finally:
            if spare is not None:
                spare.close()


def _duplicate(accepted: socket.socket) -> socket.socket | None:
    """The same connection once more: the event loop closes its own before anybody hears of a failed handshake."""
    try:
        return accepted.dup()
    except OSError:  # no descriptor is left: then nobody is told why
        return None


def _send_alert(connection: socket.socket | None, alert: bytes) -> None:
    """Tell the client why its handshake failed (RFC 8446 section 6.2)."""
    if connection is None or not alert:
        return
    with contextlib.suppress(OSError):
        connection.send(alert)
        connection.shutdown(socket.SHUT_WR)
        for _ in range(MAX_READS):  # what is left unread would make it a reset, and the alert be lost
            if not connection.recv(READ_AT_ONCE):
                return


def sent_with(secured: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates that the client sent beside its own, in DER."""
    # Public from Python 3.13 on.
    chain = secured._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]  # noqa: SLF001
    return tuple(each.public_bytes(_DER) for each in chain)[1:]


def _handshake_reason(error: ssl.SSLError) -> str:
    """One stable line: OpenSSL's reason, and why a certificate was refused."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate_verify_failed: {error.verify_message}"
    return (error.reason or "handshake_failed").lower()
