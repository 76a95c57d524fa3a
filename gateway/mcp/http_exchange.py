"""One request that is under way over streamable HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from gateway.mcp.exchange import Ticket, invalid, unavailable
from gateway.mcp.held_exchange import HeldExchange
from gateway.mcp.http_answer import Answer
from gateway.mcp.http_error import refusal, refused
from gateway.mcp.http_session import HttpSession
from gateway.mcp.http_sessions import HttpSessions
from gateway.mcp.messages import Message, Reply
from gateway.mcp.places import Place
from gateway.mcp.time_limit import TimeLimit
from gateway.mcp.upstream import CancelledByCaller, EraChangedError, Load, UpstreamError
from gateway.model import Reason
from gateway.outbound.client import OutboundError, ResponseError

RETRY_SECONDS: Final = 1.0
"""How long to wait before a broken stream is taken up again, where the server does not say."""


class HttpExchange(HeldExchange):
    """An ``Exchange``, and the context within which it lives."""

    __slots__ = (
        "_answer",
        "_cancelled",
        "_era_changed",
        "_load",
        "_loop",
        "_refusal",
        "_session",
        "_sessions",
        "_under_way",
    )

    def __init__(
        self,
        sessions: HttpSessions,
        place: Place,
        ticket: Ticket,
        timeout: float,
        era_changed: Callable[[], Awaitable[bool]],
        *,
        load: Load | None = None,
    ) -> None:
        """``timeout``: seconds for the whole of it, the wait for a place included.

        ``era_changed`` is asked where the server refuses the request as it would one of an era that it does not speak.
        """
        super().__init__(place, ticket, TimeLimit(sessions.loop, sessions.name, timeout))
        self._era_changed = era_changed
        self._sessions = sessions
        self._load = load
        self._loop = sessions.loop
        self._session: HttpSession | None = None
        self._answer: Answer | None = None
        self._refusal: Reply | None = None
        """The JSON-RPC error with which the server refused the request."""
        self._under_way = False
        """Whether the server may be at work on it."""
        self._cancelled = False

    async def __aenter__(self) -> Self:
        self._time.begin()
        try:
            with self._time.within():
                await self._place.take()
                await self._send()
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
        if self._cancelled:
            raise CancelledByCaller
        if self._refusal is not None:
            return self._refusal
        if self._answer is None:
            raise RuntimeError("the exchange has not been entered")
        message: Message | None = None
        try:
            if self._answer.at_hand:  # nothing to wait for, so no deadline to set
                message = self._sorted(await self._answer.next())
            if message is None:
                with self._time.within():
                    while message is None:
                        message = self._sorted(await self._read_on())
        except TimeoutError:
            self._leave("timed out")
            raise self._time.passed() from None
        except UpstreamError:
            if self._was_cancelled():
                raise CancelledByCaller from None
            raise
        return message

    async def cancel(self, reason: str) -> None:
        """Tell the upstream to stop; ``receive`` raises from now on."""
        if not self._under_way or self._session is None:
            return
        self._cancelled, self._under_way = True, False
        if self._answer is not None:
            self._answer.response.close()
        await self._sessions.tell(self._session, self._ticket.encode_cancellation(reason))

    def _was_cancelled(self) -> bool:
        return self._cancelled

    # -- sending ------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Send the request, twice where the server has forgotten the session. Raises UpstreamError."""
        name = self._sessions.name
        try:
            if not await self._attempt(last=False):
                await self._attempt(last=True)
        except ResponseError:
            raise invalid(name, "answered with something that is not HTTP") from None
        except OutboundError as error:
            self._under_way = error.sent
            raise unavailable(
                name, "broke off the connection" if error.sent else "cannot be reached"
            ) from None

    async def _attempt(self, *, last: bool) -> bool:
        """Send it once; whether the server knew the session. Raises OutboundError and UpstreamError."""
        session = self._session = await self._opened()
        session.in_flight[self._ticket.id] = self._ticket
        self._under_way = True
        response = await self._sessions.send(session, self._ticket)
        if response.status == 200:
            self._answer = Answer(self._sessions.name, response, load=self._load)
            return True
        error = await refused(response, self._ticket.id)
        self._under_way = False
        if not last and session.id is not None and error.forgets_session():
            session.in_flight.pop(self._ticket.id, None)
            self._sessions.forget(session)
            return False
        if error.doubts_era(modern=session.modern) and await self._era_changed():
            raise EraChangedError(self._sessions.name)
        if error.reply is None:
            raise refusal(self._sessions.name, error.status)
        self._refusal = error.reply
        return True

    async def _opened(self) -> HttpSession:
        """The session for it. Raises UpstreamError."""
        session = self._sessions.known(self._ticket.key)
        if session is not None:
            return session
        try:
            return await self._sessions.session(self._ticket.key)
        except UpstreamError as error:
            if error.reason is Reason.UPSTREAM_INVALID and await self._era_changed():
                raise EraChangedError(self._sessions.name) from None
            raise

    # -- receiving ----------------------------------------------------------------------------------------------------

    def _sorted(self, message: Message | None) -> Message | None:
        """What belongs to this request; None: read on. Raises UpstreamError."""
        if message is None or self._session is None or self._answer is None:
            return None
        if not isinstance(message, Reply):
            return self._sessions.heard(self._session, message, self._ticket, self._answer)
        if message.id != self._ticket.id:
            raise invalid(self._sessions.name, "answered another request than it was sent")
        self._under_way = False
        return message

    async def _read_on(self) -> Message | None:
        """The next message of the answer; of the rest of it, where it broke off and can be taken up again."""
        answer, session = self._answer, self._session
        if answer is None or session is None:
            raise RuntimeError("the exchange has not been entered")
        try:
            message = await answer.next()
        except UpstreamError as error:
            broken = error.reason is Reason.UPSTREAM_UNAVAILABLE
            if answer.last_id is None or session.modern or self._cancelled or not broken:
                raise
            message = None
        if message is not None:
            return message
        if answer.last_id is None or session.modern:
            raise invalid(self._sessions.name, "ended its answer without a reply")
        await asyncio.sleep(RETRY_SECONDS if answer.retry is None else max(answer.retry, 0.1))
        if self._cancelled:
            raise CancelledByCaller
        self._answer = await self._sessions.resume(session, answer.last_id, self._load)
        if self._was_cancelled():  # meanwhile
            self._answer.response.close()
            raise CancelledByCaller
        return None

    # -- the end ------------------------------------------------------------------------------------------------------

    def _leave(self, reason: str) -> None:
        """Let go of everything, once; an upstream that may still be at work is told to stop."""
        self._place.leave()
        session = self._session
        if session is not None:
            session.in_flight.pop(self._ticket.id, None)
            session.last_used = self._loop.time()
        if self._answer is not None:
            if self._under_way:
                self._answer.response.close()
            else:
                self._answer.response.drain()
        if self._under_way and session is not None:
            self._under_way = False
            self._sessions.errands.run(self._sessions.tell(session, self._ticket.encode_cancellation(reason)))
