"""Carries a permitted request to its upstream and brings back what comes.

The intent is durable before anything is sent; the outcome is in the journal's hands before the reply's last byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from gateway.audit import Audit, Pending
from gateway.mcp.call import Call, json_response
from gateway.mcp.catalogue import Catalogue, Entry, Kind
from gateway.mcp.messages import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Message,
    Params,
    Reply,
    Request,
    encode,
    encode_error,
    encode_notification,
    encode_reply,
    encode_request,
)
from gateway.mcp.sessions import Session
from gateway.mcp.streams import EventStream, Watch
from gateway.mcp.upstream import CancelledByCaller, Exchange, UpstreamError
from gateway.model import Deny, Reason
from gateway.problems import json_rpc_error
from persistence.records import AuditStatus

LIST_CHANGED: Final = {
    "notifications/tools/list_changed": Kind.TOOL,
    "notifications/prompts/list_changed": Kind.PROMPT,
    "notifications/resources/list_changed": Kind.RESOURCE,
}
_UNAUDITED: Final = Deny(Reason.STORE_UNAVAILABLE, "It was done, but its outcome could not be audited.")
_NOBODY_THERE: Final = Reply(
    None, error=msgspec.Raw(encode({"code": METHOD_NOT_FOUND, "message": "The client cannot be asked."}))
)


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done upstream, and under which name the audit knows it."""

    message: Request
    entry: Entry
    params: Params
    event: str


class Running:
    """A request of a session that is under way: what its cancellation gets hold of, from the first moment on."""

    __slots__ = ("_cancelled", "_task", "exchange")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._cancelled = False
        self.exchange: Exchange | None = None
        """Set once the upstream has begun to answer."""

    async def cancel(self, reason: str) -> None:
        """The client wants no answer any more."""
        if self.exchange is not None:
            await self.exchange.cancel(reason)
        elif self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()  # leaving the upstream's context tells it

    def took_effect(self) -> bool:
        """Whether it was this cancellation that ended the task's waiting, and no other."""
        return self._cancelled and self._task is not None and self._task.uncancel() == 0


class Forwarder:
    """Runs errands."""

    def __init__(self, catalogue: Catalogue, watch: Watch, audit: Audit) -> None:
        self._catalogue = catalogue
        self._watch = watch
        self._audit = audit

    async def run(self, call: Call, errand: Errand) -> web.StreamResponse:
        """The answer to the client. Raises Refused where the intent cannot be audited."""
        session, message_id = call.session, errand.message.id
        if session is not None and message_id in session.in_flight:
            return json_response(
                encode_error(message_id, INVALID_REQUEST, "A request with this id is under way.")
            )
        running = Running() if session is not None else None
        if session is not None and running is not None:
            session.in_flight[message_id] = running
        pending: Pending | None = None
        stream = EventStream(call.http)
        try:
            pending = await self._begin(call, errand)
            with self._watch.guard(call.http, call.context, call.inbound.peer):
                return await self._exchange(call, errand, pending, stream, running)
        except UpstreamError as error:
            status = AuditStatus.TIMEOUT if error.reason is Reason.UPSTREAM_TIMEOUT else AuditStatus.ERROR
            _finish(pending, status, error.reason)
            if error.reason is Reason.UPSTREAM_UNAVAILABLE:
                self._catalogue.invalidate(errand.entry.upstream)
            body = json_rpc_error(Deny(error.reason, error.detail), call.inbound.request_id, message_id)
            return await stream.finish(body)
        except CancelledByCaller:
            _finish(pending, AuditStatus.CANCELLED)
            return await stream.close()
        except asyncio.CancelledError:
            if running is not None and running.took_effect():
                _finish(pending, AuditStatus.CANCELLED)
                return await stream.close()
            _finish(pending, AuditStatus.CANCELLED, Reason.INTERRUPTED)
            raise
        finally:
            _finish(pending, AuditStatus.ERROR, Reason.INTERNAL_ERROR)
            if session is not None:
                session.in_flight.pop(message_id, None)

    async def tell_level(self, session: Session, name: str) -> None:
        """Pass the session's log level on to an upstream that knows of levels."""
        offers = self._catalogue.offers(name)
        if session.log_level is None or not offers or "logging" not in offers[0].info.capabilities:
            return
        upstream = self._catalogue.upstream(name)
        try:
            async with upstream.request(
                session.key, "logging/setLevel", {"level": session.log_level}
            ) as exchange:
                while not isinstance(await exchange.receive(), Reply):
                    pass
        except UpstreamError:
            return  # a level is a wish, and the call that follows says what is wrong

    def _begin(self, call: Call, errand: Errand) -> Awaitable[Pending]:
        is_tool = errand.entry.kind is Kind.TOOL
        intent = self._audit.entry(
            errand.event,
            AuditStatus.OK,
            call.inbound,
            call.context,
            tool_name=errand.entry.name if is_tool else None,
            target=None if is_tool else errand.entry.name,
            upstream=errand.entry.upstream,
            method=errand.message.method,
        )
        return self._audit.begin(intent, call.inbound.started)

    async def _exchange(
        self,
        call: Call,
        errand: Errand,
        pending: Pending,
        stream: EventStream,
        running: Running | None,
    ) -> web.StreamResponse:
        name = errand.entry.upstream
        if call.session is not None and name not in call.session.used:
            await self._first_use(call.session, name)
        upstream = self._catalogue.upstream(name)
        async with upstream.request(call.key, errand.message.method, errand.params) as exchange:
            if running is not None:
                running.exchange = exchange
            received = await exchange.receive()
            while not isinstance(received, Reply):
                await self._pass_on(call, errand, received, stream)
                received = await exchange.receive()
        return await stream.finish(self._outcome(call, errand, received, pending))

    async def _first_use(self, session: Session, name: str) -> None:
        session.used.add(name)
        await self.tell_level(session, name)
        if session.outbox.reader is not None:
            self._catalogue.upstream(name).listen(session.key)

    async def _pass_on(self, call: Call, errand: Errand, received: Message, stream: EventStream) -> None:
        """What comes before the reply goes to the client as it comes."""
        name = errand.entry.upstream
        if isinstance(received, Request):
            if call.session is None or not call.accepts_stream or stream.gone:
                await self._catalogue.upstream(name).respond(call.key, received.id, _NOBODY_THERE)
                return
            ours = call.session.ask(name, received.id)
            await stream.send(encode_request(ours, received.method, received.params))
        elif isinstance(received, Reply):
            raise TypeError("a reply is not passed on, but finished with")
        elif received.method in LIST_CHANGED:
            self._catalogue.invalidate(name)
        elif call.accepts_stream:
            await stream.send(encode_notification(received.method, received.params))

    def _outcome(self, call: Call, errand: Errand, reply: Reply, pending: Pending) -> bytes:
        """The reply for the client, once its outcome is in the journal's hands."""
        status, reason = _status(reply)
        if not pending.finish(status, reason):
            return json_rpc_error(_UNAUDITED, call.inbound.request_id, errand.message.id)
        return encode_reply(errand.message.id, reply)


def _finish(pending: Pending | None, status: AuditStatus, reason: str | None = None) -> None:
    if pending is not None:
        pending.finish(status, reason)


class _ToolResult(msgspec.Struct):
    isError: bool = False  # noqa: N815 - the protocol's name


_TOOL_RESULT: Final = msgspec.json.Decoder(_ToolResult)


def _status(reply: Reply) -> tuple[AuditStatus, str | None]:
    """How the call ended, for the audit."""
    if reply.result is None:
        return AuditStatus.ERROR, "upstream_error"
    raw = bytes(reply.result)
    if b'"isError"' not in raw:
        return AuditStatus.OK, None
    try:
        failed = _TOOL_RESULT.decode(raw).isError
    except msgspec.MsgspecError:
        failed = False
    return (AuditStatus.ERROR, "tool_error") if failed else (AuditStatus.OK, None)
