"""Server-sent event streams to clients, and the watch that ends those whose caller may no longer have them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web

from certs.identity import PeerIdentity
from gateway.model import ClientContext

WATCH_SECONDS: Final = 0.5
"""How often open streams are checked against revocation and expiry."""


class EventStream:
    """One reply of type text/event-stream. A client that has gone away is noticed, not an error."""

    def __init__(self, request: web.BaseRequest, *, session_id: str | None = None) -> None:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform"}
        if session_id is not None:
            headers["Mcp-Session-Id"] = session_id
        self._request = request
        self.response = web.StreamResponse(headers=headers)
        self.opened = False
        self.gone = False

    async def open(self) -> None:
        """Send the headers, once."""
        if not self.opened:
            self.opened = True
            await self._quietly(self.response.prepare(self._request))

    async def send(self, message: bytes) -> None:
        """One JSON-RPC message as one event."""
        await self.open()
        if not self.gone:
            await self._quietly(self.response.write(b"event: message\ndata: %b\n\n" % message))

    async def heartbeat(self) -> None:
        """A comment, so that the next hop does not take the stream for dead."""
        if not self.gone:
            await self._quietly(self.response.write(b": \n\n"))

    async def finish(self, message: bytes) -> web.StreamResponse:
        """The last message: as an event where the stream is open, else as the whole answer, in JSON."""
        if not self.opened:
            return web.Response(body=message, headers={"Content-Type": "application/json"})
        await self.send(message)
        return await self.close()

    async def close(self) -> web.StreamResponse:
        """The end of the stream."""
        if not self.gone:
            await self._quietly(self.response.write_eof())
        return self.response

    async def _quietly(self, sending: object) -> None:
        try:
            await sending  # type: ignore[misc]
        except ConnectionError:
            self.gone = True


class Watch:
    """Cancels the task of a stream whose caller's token, client or certificate has become invalid."""

    def __init__(self, still_valid: Callable[[ClientContext, PeerIdentity | None], bool]) -> None:
        self._still_valid = still_valid
        self._guarded: dict[asyncio.Task[object], tuple[ClientContext, PeerIdentity | None]] = {}

    def guard(self, context: ClientContext, peer: PeerIdentity | None) -> _Guard:
        """While inside, the current task is cancelled once the caller is no longer valid."""
        return _Guard(self._guarded, context, peer)

    def sweep(self) -> None:
        """Check every open stream once."""
        for task, (context, peer) in tuple(self._guarded.items()):
            if not self._still_valid(context, peer):
                task.cancel()


class _Guard:
    """One entry of the watch. A class, for it is on the path of every call."""

    __slots__ = ("_caller", "_guarded", "_task")

    def __init__(
        self,
        guarded: dict[asyncio.Task[object], tuple[ClientContext, PeerIdentity | None]],
        context: ClientContext,
        peer: PeerIdentity | None,
    ) -> None:
        self._guarded = guarded
        self._caller = (context, peer)
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("a stream is served by a task")
        self._guarded[self._task] = self._caller

    def __exit__(self, *_error: object) -> None:
        if self._task is not None:
            del self._guarded[self._task]
