"""One request to a child process that is under way, from its place in the queue to its reply."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Protocol, Self

from gateway.mcp.exchange import Ticket
from gateway.mcp.held_exchange import HeldExchange
from gateway.mcp.messages import Message, Reply
from gateway.mcp.places import Place
from gateway.mcp.stdio_session import StdioSession
from gateway.mcp.time_limit import TimeLimit
from gateway.mcp.upstream import CancelledByCaller, SessionKey

MAX_WAITING: Final = 4 * 1024 * 1024
"""Bytes that may wait for one request's reader; beyond that everything but its reply is dropped."""


class Source(Protocol):
    """Where an exchange finds its session."""

    async def session(self, key: SessionKey) -> StdioSession:
        """The session of ``key``, opened where there is none. Raises UpstreamError."""


class StdioExchange(HeldExchange):
    """An ``Exchange``, and the context within which it lives."""

    def __init__(self, source: Source, name: str, place: Place, ticket: Ticket, timeout: float) -> None:
        """``timeout``: seconds for the whole of it, the wait for a place included."""
        self._loop = asyncio.get_running_loop()
        super().__init__(place, ticket, TimeLimit(self._loop, name, timeout))
        self._source = source
        self._session: StdioSession | None = None
        self._under_way = False
        self._messages: deque[Message] = deque()
        self._waiting = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    async def __aenter__(self) -> Self:
        self._time.begin()
        try:
            with self._time.within():
                await self._place.take()
                session = self._session = await self._source.session(self._ticket.key)
                session.begin(self, self._ticket)
                self._under_way = True
                session.process.write(self._ticket.encode())
                await session.process.drained()
        except TimeoutError:
            self._leave("timed out")
            raise self._time.passed() from None
        except BaseException:
            self._leave("abandoned")
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave("abandoned")

    async def receive(self) -> Message:
        """What comes next. Raises UpstreamError and CancelledByCaller."""
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            self._waiter = self._loop.create_future()
            try:
                with self._time.within():
                    await self._waiter
            except TimeoutError:
                self._leave("timed out")
                raise self._time.passed() from None
            finally:
                self._waiter = None
        self._waiting = 0
        return self._messages.popleft()

    async def cancel(self, reason: str) -> None:
        """Tell the upstream to stop; ``receive`` raises from now on."""
        if not self._under_way or self._session is None:
            return
        self._messages.clear()
        self.fail(CancelledByCaller())
        self._session.process.write(self._ticket.encode_cancellation(reason))

    def put(self, message: Message, size: int) -> None:
        """What belongs to it. Never waits: what nobody reads is dropped in the end, but for the reply."""
        if self._failure is not None:
            return
        if self._waiting > MAX_WAITING and not isinstance(message, Reply):
            return
        if isinstance(message, Reply):
            self._under_way = False
        self._waiting += size
        self._messages.append(message)
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come; what has come can still be received."""
        self._under_way = False
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _leave(self, reason: str) -> None:
        """Let go of everything, once; a child that may still be at work is told to stop."""
        self._place.leave()
        session = self._session
        if session is None:
            return
        session.finish(self._ticket)
        session.last_used = self._loop.time()
        if self._under_way:
            self._under_way = False
            session.process.write(self._ticket.encode_cancellation(reason))
