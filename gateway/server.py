"""A gateway that is open: how it starts to listen, reloads and drains."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.api.health import Health
from gateway.config.values import ServerSettings
from gateway.mcp.listeners import Listeners
from gateway.mcp.sessions import Sessions
from gateway.tls.listener import TlsListener

log = logging.getLogger("ostiary.errors")


class Gateway:
    """The listener, and what must be told when the gateway stops."""

    def __init__(
        self,
        settings: ServerSettings,
        server: web.Server,
        listener: TlsListener,
        *,
        sessions: Sessions,
        listeners: Listeners,
        health: Health,
        reload: Callable[[], Awaitable[object]],
    ) -> None:
        """``reload`` is called on SIGHUP."""
        self._reload = reload
        self._settings = settings
        self._server = server
        self._listener = listener
        self._sessions = sessions
        self._listeners = listeners
        self._health = health

    async def serve(self, announce: Callable[[str, int], None]) -> None:
        """Accept connections until SIGTERM or SIGINT. Raises OSError with the remedy.

        ``announce`` gets the address once connections are accepted. SIGHUP reloads.
        """
        loop = asyncio.get_running_loop()
        stop, hang_up = asyncio.Event(), asyncio.Event()
        ending = (signal.SIGTERM, signal.SIGINT)
        for number in ending:
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
        announce(*await self._listen())
        reloading = loop.create_task(_on_each(hang_up, self._reload), name="reload")
        try:
            await stop.wait()
        finally:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
        for number in ending:  # a second one ends it at once
            loop.remove_signal_handler(number)

    async def drain(self) -> None:
        """Accept no more, end the idle streams, and let the requests that are under way come to their end."""
        self._health.draining = True
        await self._listener.stop()
        for session in self._sessions:
            self._sessions.end(session)
        self._listeners.end()
        self._server.pre_shutdown()
        await self._server.shutdown(self._settings.drain)

    async def _listen(self) -> tuple[str, int]:
        host, port = self._settings.host, self._settings.port
        try:
            return await self._listener.start(host, port)
        except OSError as error:
            raise OSError(
                f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}; "
                "stop what uses it, or set [server] host and port (port 0 takes a free one)"
            ) from error


async def _on_each(signalled: asyncio.Event, reload: Callable[[], Awaitable[object]]) -> None:
    while True:
        await signalled.wait()
        signalled.clear()
        try:
            await reload()
        except Exception:
            log.exception("the reload failed; the old state stays in force")
