"""Server-sent event streams to clients, and the watch that ends those whose caller may no longer have them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from certs.identity import PeerIdentity
from gateway.edge.handler import GatewayRequest
from gateway.edge.reply import JsonReply
from gateway.mcp.recordings import Recording, Recordings
from gateway.mcp.sessions import Outbox
from gateway.model import ClientContext
from gateway.tls.connection import Connection

SEND_SECONDS: Final = 10.0
"""How long a client may leave what was sent to it unread, before it holds up its upstream no more."""
HEARTBEAT_SECONDS: Final = 15.0
PIECE: Final = 64 * 1024
"""Bytes of a message that are sent at a time."""
WATCH_SECONDS: Final = 0.5
"""How often open streams are checked against revocation and expiry."""


class EventStream:
    """One reply of type text/event-stream. A client that has gone away is noticed, not an error."""

    def __init__(
        self,
        request: GatewayRequest,
        *,
        session_id: str | None = None,
        recordings: Recordings | None = None,
        primed: bool = False,
    ) -> None:
        """``recordings``: it can be taken up again; ``primed``: even if it breaks off before its first message."""
        self._request = request
        self._recordings = recordings
        self.recording: Recording | None = None
        self._primed = primed
        self._session_id = session_id
        self._response: web.StreamResponse | None = None
        """Set once the headers were sent."""
        self.gone = False
        self.sent = 0
        """Bytes of the messages that were sent."""

    async def open(self) -> web.StreamResponse:
        """Send the headers, once; the response that was begun."""
        if self._response is None:
            headers = {
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache, no-transform",
                "X-Accel-Buffering": "no",
            }
            if self._session_id is not None:
                headers["Mcp-Session-Id"] = self._session_id
            self._response = web.StreamResponse(headers=headers)
            await self._quietly(self._response.prepare(self._request))
            if self._recordings is not None:
                self.recording = self._recordings.begin()
                if self._primed and not self.gone:
                    first = self.recording.first_id().encode()
                    await self._quietly(self._response.write(b"id: %b\nretry: 1000\ndata: \n\n" % first))
        return self._response

    async def send(self, message: bytes, event_id: str | None = None) -> None:
        """One JSON-RPC message as one event; ``event_id``: it was one before, on a stream that broke off."""
        response = await self.open()
        if b"\n" in message or b"\r" in message:
            message = msgspec.json.format(message, indent=-1)  # a line break would end the event's data
        if self.recording is not None and event_id is None:
            event_id = self.recording.add(message)
        if not self.gone:
            self.sent += len(message)
            head = b"" if event_id is None else b"id: %b\n" % event_id.encode()
            if len(message) <= PIECE:
                await self._quietly(response.write(b"%bevent: message\ndata: %b\n\n" % (head, message)))
                return
            await self._quietly(response.write(b"%bevent: message\ndata: " % head))
            await self._write_in_pieces(response, message, SEND_SECONDS)
            if not self.gone:
                await self._quietly(response.write(b"\n\n"))

    async def heartbeat(self) -> None:
        """A comment, so that the next hop does not take the stream for dead."""
        response = await self.open()
        if not self.gone:
            await self._quietly(response.write(b": \n\n"))

    async def finish(self, message: bytes, status: int = 200) -> web.StreamResponse:
        """The last message: as an event where the stream is open, else as the whole answer, in JSON."""
        if self._response is None:
            if len(message) <= PIECE:
                return JsonReply(message, status)
            return await self._answer_in_pieces(message, status)
        await self.send(message)
        return await self.close()

    async def close(self) -> web.StreamResponse:
        """The end of the stream."""
        response = await self.open()
        self.stop_recording()
        if not self.gone:
            await self._quietly(response.write_eof())
        return response

    async def replay(self, recording: Recording, number: int) -> None:
        """What was sent on another stream after that message, or still is."""
        async for event_id, message in recording.after(number):
            await self.send(message, event_id)
            if self.gone:
                return

    def stop_recording(self) -> None:
        """Nothing more will be sent."""
        if self.recording is not None:
            self.recording.close()

    async def _answer_in_pieces(self, message: bytes, status: int) -> web.StreamResponse:
        """A whole answer that is large, until it has left; for as long as the client reads (``[limits] send_timeout``)."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(message))}
        response = self._response = web.StreamResponse(status=status, headers=headers)
        try:
            await self._quietly(response.prepare(self._request), None)
            await self._write_in_pieces(response, message, None)
            if not self.gone:
                await self._quietly(response.write_eof(), None)
        except asyncio.CancelledError:
            self._abort()  # the rest of it will never come
            raise
        return response

    async def _write_in_pieces(
        self, response: web.StreamResponse, message: bytes, seconds: float | None
    ) -> None:
        """So that no more than a piece waits in buffers, and the time is that of a piece."""
        view = memoryview(message)
        for begin in range(0, len(message), PIECE):
            if self.gone:
                return
            await self._quietly(response.write(view[begin : begin + PIECE]), seconds)

    async def _quietly(self, sending: Awaitable[object], seconds: float | None = SEND_SECONDS) -> None:
        """Send, unless the client does not read what was sent before: then it is taken for gone."""
        try:
            async with asyncio.timeout(seconds):
                await sending
        except (ConnectionError, TimeoutError):
            self._abort()

    def _abort(self) -> None:
        self.gone = True
        if self._request.transport is not None:
            self._request.transport.abort()


async def pour(outbox: Outbox, stream: EventStream) -> None:
    """Send what comes into the outbox, until there is no more, the client goes away or the task is cancelled."""
    while not stream.gone:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                message = await outbox.take()
        except TimeoutError:
            await stream.heartbeat()
        else:
            if message is None:
                return
            await stream.send(message)


class Watch:
    """Cancels the task of a stream whose caller's token, client or certificate has become invalid."""

    def __init__(
        self,
        still_valid: Callable[[ClientContext, PeerIdentity | None], bool],
        may_hand_over: Callable[[PeerIdentity], bool],
    ) -> None:
        """``may_hand_over``: whether that certificate is of a terminator that may speak for others."""
        self._still_valid = still_valid
        self._may_hand_over = may_hand_over
        self._guarded: set[_Guard] = set()

    def guard(
        self,
        request: GatewayRequest,
        context: ClientContext,
        peer: PeerIdentity | None,
        *,
        cancelled_by_disconnection: bool = False,
    ) -> _Guard:
        """While inside, the request's task is cancelled once the caller is no longer valid.

        ``cancelled_by_disconnection``: or has gone away.
        """
        connection = request.protocol
        own = connection.peer if isinstance(connection, Connection) else None
        return _Guard(
            self._guarded,
            request.task,
            context,
            peer,
            connection=connection if cancelled_by_disconnection else None,
            via=None if own is peer else own,
        )

    def sweep(self) -> None:
        """Check every open stream once."""
        for guard in tuple(self._guarded):
            via = guard.via
            if not self._still_valid(guard.context, guard.peer) or (via and not self._may_hand_over(via)):
                guard.task.cancel()


class _Guard:
    """One entry of the watch. A class, for it is on the path of every call."""

    __slots__ = ("_connection", "_guarded", "context", "disconnected", "peer", "task", "via")

    def __init__(
        self,
        guarded: set[_Guard],
        task: asyncio.Task[None],
        context: ClientContext,
        peer: PeerIdentity | None,
        *,
        connection: object,
        via: PeerIdentity | None,
    ) -> None:
        """``via``: the certificate of the terminator by way of which the caller came."""
        self._guarded = guarded
        self._connection = connection if isinstance(connection, Connection) else None
        self.disconnected = False
        self.task = task
        self.context = context
        self.peer = peer
        self.via = via

    def __enter__(self) -> None:
        self._guarded.add(self)
        if self._connection is not None:
            self._connection.on_lost = self._lost
            if self._connection.transport is None:
                self._lost()  # it has gone before anybody could notice

    def __exit__(self, *_error: object) -> None:
        self._guarded.discard(self)
        if self._connection is not None:
            self._connection.on_lost = None

    def _lost(self) -> None:
        self.disconnected = True
        self.task.cancel()
