"""What an upstream sends during a call, before it replies: news for the client, and what it asks that."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Final, Self

import msgspec

from gateway.mcp.catalogue import Catalogue
from gateway.mcp.eras import LOG_MESSAGE, Era, at_least
from gateway.mcp.held_calls import HOLD_SECONDS
from gateway.mcp.listing import LISTS_OF
from gateway.mcp.messages import (
    METHOD_NOT_FOUND,
    Notification,
    Reply,
    Request,
    RequestId,
    encode,
    encode_notification,
    encode_request,
)
from gateway.mcp.request import RequestContext
from gateway.mcp.sessions import owner_of
from gateway.mcp.streams import EventStream
from gateway.mcp.tasks import STATUS_NEWS, Tasks, asks_of_tasks, without_task
from gateway.mcp.upstream import Exchange, SessionKey
from gateway.mcp.upstream_call import UpstreamCall

NOBODY_THERE: Final = Reply(
    None, error=msgspec.Raw(encode({"code": METHOD_NOT_FOUND, "message": "The client cannot be asked."}))
)


class Meanwhile:
    """Passes it on, for one call; used as a context, which ends with the call."""

    __slots__ = ("_asked", "_call", "_catalogue", "_exchange", "_key", "_request", "_stream", "_tasks")

    def __init__(
        self,
        catalogue: Catalogue,
        tasks: Tasks,
        request: RequestContext,
        call: UpstreamCall,
        stream: EventStream,
        *,
        key: SessionKey,
        exchange: Exchange,
    ) -> None:
        """``key``: of the session at the upstream in which the call is."""
        self._catalogue = catalogue
        self._tasks = tasks
        self._request = request
        self._call = call
        self._stream = stream
        self._key = key
        self._exchange = exchange
        self._asked: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Where there will be no reply, what the client was asked needs no answer any more."""
        session = self._request.session
        if error is not None and session is not None:
            for ours in self._asked:
                session.asked.pop(ours, None)

    async def pass_on(self, received: Notification | Request) -> None:
        """It goes to the client as it comes."""
        if isinstance(received, Request):
            await self._ask(received)
        elif received.method in LISTS_OF:
            self._catalogue.invalidate(self._call.entry.upstream)
        elif self._request.accepts_stream and self._wanted(received):
            params = self._tasks.params(
                owner_of(self._request.client), Era.LEGACY, self._call.entry, received.params
            )
            await self._stream.send(encode_notification(received.method, params))

    async def _ask(self, question: Request) -> None:
        session, stream = self._request.session, self._stream
        reachable = self._request.accepts_stream and not stream.gone and not asks_of_tasks(question)
        answered = partial(self._answered, question.id)
        ours = session.ask(answered) if session is not None and reachable else None
        if ours is None:
            await self._respond(question.id, NOBODY_THERE)
            return
        self._asked.append(ours)
        self._exchange.asked(HOLD_SECONDS)
        params = self._tasks.params(
            owner_of(self._request.client), Era.LEGACY, self._call.entry, question.params
        )
        await stream.send(encode_request(ours, question.method, without_task(params)))

    async def _answered(self, question: RequestId, reply: Reply) -> None:
        """Tell the upstream what the client answers it."""
        self._exchange.answered()
        owner = owner_of(self._request.client)
        await self._respond(question, self._tasks.answer(owner, Era.LEGACY, self._call.entry, reply))

    async def _respond(self, question: RequestId, reply: Reply) -> None:
        await self._catalogue.upstream(self._call.entry.upstream).respond(self._key, question, reply)

    def _wanted(self, notification: Notification) -> bool:
        """Whether the client is to get it: log messages only as far as it asked for them."""
        session, metadata = self._request.session, self._request.metadata
        if notification.method in STATUS_NEWS:
            return False
        if metadata is None:
            return session is None or session.wants(notification)
        if notification.method != LOG_MESSAGE:
            return True
        return at_least(notification.params.get("level"), metadata.log_level)
