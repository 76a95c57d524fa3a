"""Carries a permitted request to its upstream and brings back what comes.

The intent is durable before anything is sent; the outcome is in the journal's hands before the reply's last byte.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from gateway.audit import Audit, Pending
from gateway.mcp.catalogue import Catalogue, Entry, Kind
from gateway.mcp.eras import (
    CACHEABLE,
    Era,
    as_legacy_request,
    as_legacy_result,
    as_modern_request,
    as_modern_result,
    at_least,
    modern_capabilities,
)
from gateway.mcp.messages import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    RESOURCE_NOT_FOUND,
    Message,
    Notification,
    Params,
    Reply,
    Request,
    encode,
    encode_notification,
    encode_reply,
    encode_request,
)
from gateway.mcp.mirrored import argument_headers
from gateway.mcp.request import RequestContext
from gateway.mcp.sessions import Session
from gateway.mcp.streams import EventStream, Watch
from gateway.mcp.upstream import CancelledByCaller, Exchange, Fields, SessionKey, UpstreamError
from gateway.model import Deny, Reason
from gateway.problems import json_rpc_error
from persistence.records import AuditStatus

LIST_CHANGED: Final = {
    "notifications/tools/list_changed": Kind.TOOL,
    "notifications/prompts/list_changed": Kind.PROMPT,
    "notifications/resources/list_changed": Kind.RESOURCE,
}
_UNAUDITED: Final = Deny(Reason.STORE_UNAVAILABLE, "It was done, but its outcome could not be audited.")
NOBODY_THERE: Final = Reply(
    None, error=msgspec.Raw(encode({"code": METHOD_NOT_FOUND, "message": "The client cannot be asked."}))
)


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """What is asked of an upstream for a client, and under which name the audit knows it."""

    entry: Entry
    params: Params
    """As the client sent them, with the upstream's name."""
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
    """Asks upstreams for clients."""

    def __init__(self, catalogue: Catalogue, watch: Watch, audit: Audit) -> None:
        self._catalogue = catalogue
        self._watch = watch
        self._audit = audit

    async def run(
        self, request: RequestContext, entry: Entry, params: Params, event: str
    ) -> web.StreamResponse:
        """The answer to the client. Raises Refused where the intent cannot be audited."""
        session, message_id = request.session, request.message.id
        if session is not None and message_id in session.in_flight:
            return request.error(INVALID_REQUEST, "A request with this id is under way.")
        call = UpstreamCall(entry, params, event)
        running = Running() if session is not None else None
        if session is not None and running is not None:
            session.in_flight[message_id] = running
        pending: Pending | None = None
        stream = EventStream(request.http)
        guard = self._watch.guard(
            request.http, request.client, request.inbound.peer, cancelled_by_disconnection=request.modern
        )
        try:
            pending = await self._begin(request, call)
            with guard:
                return await self._exchange(request, call, pending, stream, running)
        except UpstreamError as error:
            status = AuditStatus.TIMEOUT if error.reason is Reason.UPSTREAM_TIMEOUT else AuditStatus.ERROR
            if error.reason is Reason.UPSTREAM_UNAVAILABLE:
                self._catalogue.invalidate(entry.upstream)
            body = json_rpc_error(Deny(error.reason, error.detail), request.inbound.request_id, message_id)
            _finish(pending, status, error.reason, stream.sent + len(body))
            return await stream.finish(body)
        except CancelledByCaller:
            _finish(pending, AuditStatus.CANCELLED, None, stream.sent)
            return await stream.close()
        except asyncio.CancelledError:
            if running is not None and running.took_effect():
                _finish(pending, AuditStatus.CANCELLED, None, stream.sent)
                return await stream.close()
            reason = None if guard.disconnected else Reason.INTERRUPTED
            _finish(pending, AuditStatus.CANCELLED, reason, stream.sent)
            raise
        finally:
            _finish(pending, AuditStatus.ERROR, Reason.INTERNAL_ERROR, stream.sent)
            if session is not None:
                session.in_flight.pop(message_id, None)

    async def tell_level(self, key: SessionKey, name: str, level: str | None) -> None:
        """Pass a log level on to an upstream that knows of levels."""
        offers = self._catalogue.offers(name)
        if level is None or not offers or "logging" not in offers[0].info.capabilities:
            return
        upstream = self._catalogue.upstream(name)
        try:
            async with upstream.request(key, "logging/setLevel", {"level": level}) as exchange:
                while not isinstance(await exchange.receive(), Reply):
                    pass
        except UpstreamError:
            return  # a level is a wish, and the call that follows says what is wrong

    def _begin(self, request: RequestContext, call: UpstreamCall) -> Awaitable[Pending]:
        entry = call.entry
        is_tool = entry.kind is Kind.TOOL
        intent = self._audit.entry(
            call.event,
            AuditStatus.OK,
            request.inbound,
            request.client,
            tool_name=entry.name if is_tool else None,
            target=None if is_tool else entry.name,
            upstream=entry.upstream,
            method=request.message.method,
            era=request.era,
            rule=entry.rule,
            arguments_digest=_digest(call) if call.event in _WITH_ARGUMENTS else msgspec.UNSET,
            request_bytes=request.size,
        )
        return self._audit.begin(intent, request.inbound.started)

    async def _exchange(
        self,
        request: RequestContext,
        call: UpstreamCall,
        pending: Pending,
        stream: EventStream,
        running: Running | None,
    ) -> web.StreamResponse:
        name = call.entry.upstream
        if request.session is not None and name not in request.session.used:
            await self._first_use(request.session, name)
        upstream = self._catalogue.upstream(name)
        era = (
            request.era
            if request.era in upstream.eras
            else await upstream.era_for(request.key_for(request.era))
        )
        if request.metadata is not None and era is Era.LEGACY:
            await self.tell_level(request.key, name, request.metadata.log_level)
        key, params, fields = request.key_for(era), _params(request, call, era), _fields(call, era)
        async with upstream.request(key, request.message.method, params, fields) as exchange:
            if running is not None:
                running.exchange = exchange
            received = await exchange.receive()
            while not isinstance(received, Reply):
                await self._pass_on(request, call, received, stream)
                received = await exchange.receive()
        return await self._answer(request, era, received, pending, stream)

    async def _first_use(self, session: Session, name: str) -> None:
        session.used.add(name)
        await self.tell_level(session.key, name, session.log_level)
        if session.outbox.reader is not None:
            self._catalogue.upstream(name).listen(session.key)

    async def _pass_on(
        self, request: RequestContext, call: UpstreamCall, received: Message, stream: EventStream
    ) -> None:
        """What comes before the reply goes to the client as it comes."""
        name = call.entry.upstream
        if isinstance(received, Request):
            on_answer = partial(self._catalogue.upstream(name).respond, request.key, received.id)
            reachable = request.session is not None and request.accepts_stream and not stream.gone
            ours = request.session.ask(on_answer) if request.session is not None and reachable else None
            if ours is None:
                await on_answer(NOBODY_THERE)
            else:
                await stream.send(encode_request(ours, received.method, received.params))
        elif isinstance(received, Reply):
            raise TypeError("a reply is not passed on, but finished with")
        elif received.method in LIST_CHANGED:
            self._catalogue.invalidate(name)
        elif request.accepts_stream and _wanted(request, received):
            await stream.send(encode_notification(received.method, received.params))

    async def _answer(
        self,
        request: RequestContext,
        era: Era,
        reply: Reply,
        pending: Pending,
        stream: EventStream,
    ) -> web.StreamResponse:
        """The reply for the client, once its outcome is in the journal's hands."""
        code = None if reply.error is None else _code(reply.error)
        if request.modern:
            reply = _modern(reply, code, era, cacheable=request.message.method in CACHEABLE)
        elif era is Era.MODERN and reply.result is not None:
            reply = Reply(reply.id, result=msgspec.Raw(as_legacy_result(bytes(reply.result))))
        body = encode_reply(request.message.id, reply)
        status, reason = _status(reply)
        if not pending.finish(status, reason, stream.sent + len(body)):
            body = json_rpc_error(_UNAUDITED, request.inbound.request_id, request.message.id)
        return await stream.finish(body, 200 if code is None else request.dialect.statuses.get(code, 200))


def _params(request: RequestContext, call: UpstreamCall, era: Era) -> Params:
    """The parameters of the call, in the upstream's era."""
    if request.era is era:
        return call.params
    if era is Era.LEGACY:
        return as_legacy_request(call.params)
    session = request.session
    if session is None:
        return as_modern_request(call.params, b"{}")
    capabilities = session.key.capabilities if request.accepts_stream else b"{}"
    return as_modern_request(call.params, modern_capabilities(capabilities), session.log_level)


def _fields(call: UpstreamCall, era: Era) -> Fields:
    """What the call's headers repeat of its arguments."""
    if era is Era.LEGACY or not call.entry.mirrored:
        return ()
    return argument_headers(call.entry.mirrored, call.params.get("arguments"))


def _wanted(request: RequestContext, notification: Notification) -> bool:
    """Whether the client is to get it: in the modern era, log messages only as far as it asked for them."""
    if request.metadata is None or notification.method != "notifications/message":
        return True
    return at_least(notification.params.get("level"), request.metadata.log_level)


def _modern(reply: Reply, code: int | None, upstream: Era, *, cacheable: bool) -> Reply:
    """An upstream's reply for a modern client."""
    if reply.result is not None:
        result = as_modern_result(bytes(reply.result), upstream=upstream, cacheable=cacheable)
        return Reply(reply.id, result=msgspec.Raw(result))
    if code == RESOURCE_NOT_FOUND and reply.error is not None:
        error = msgspec.json.decode(reply.error, type=dict[str, msgspec.Raw])
        return Reply(reply.id, error=msgspec.Raw(encode({**error, "code": INVALID_PARAMS})))
    return reply


_WITH_ARGUMENTS: Final = frozenset({"tool_call", "prompt_get"})
_sorted = msgspec.json.Encoder(order="sorted").encode


def _digest(call: UpstreamCall) -> str:
    """SHA-256 of the arguments, in hex."""
    return hashlib.sha256(_sorted(call.params.get("arguments") or {})).hexdigest()


def _finish(pending: Pending | None, status: AuditStatus, reason: str | None, sent: int) -> None:
    if pending is not None:
        pending.finish(status, reason, sent)


class _Error(msgspec.Struct):
    code: int


_ERROR: Final = msgspec.json.Decoder(_Error)


def _code(error: msgspec.Raw) -> int | None:
    """The JSON-RPC code of an upstream's error; None: it has none."""
    try:
        return _ERROR.decode(error).code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


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
