"""Carries a permitted request to its upstream and brings back what comes.

The intent is durable before anything is sent; the outcome is in the journal's hands before the reply's last byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import msgspec
from aiohttp import web

from gateway.audit import Audit, Pending
from gateway.edge.client_cert import CLIENT_CERT, client_cert
from gateway.edge.reply import JsonReply
from gateway.mcp.breakers import Breakers
from gateway.mcp.call_audit import CallAudit, finish
from gateway.mcp.catalogue import Catalogue, Entry
from gateway.mcp.eras import Era, as_legacy_request
from gateway.mcp.held_calls import HeldCall
from gateway.mcp.input_rounds import (
    MAX_ROUNDS,
    MISSES,
    NOT_OURS,
    CannotAsk,
    InputRounds,
    answer_in,
    ask_client,
    missing_capability,
    question_of,
    required_by,
)
from gateway.mcp.meanwhile import Meanwhile
from gateway.mcp.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MISSING_CAPABILITY,
    Params,
    Reply,
    Request,
    encode_reply,
)
from gateway.mcp.replies import checked, code_of, error_reply, for_legacy, for_modern, status_of
from gateway.mcp.request import RequestContext
from gateway.mcp.results import says
from gateway.mcp.running import Running
from gateway.mcp.sessions import Session, owner_of
from gateway.mcp.streams import EventStream, Watch
from gateway.mcp.target import SUBSCRIBE, SUBSCRIBING
from gateway.mcp.tasks import Tasks
from gateway.mcp.transit import Transit
from gateway.mcp.upstream import (
    CancelledByCaller,
    EraChangedError,
    Exchange,
    Fields,
    SessionKey,
    UpstreamError,
)
from gateway.mcp.upstream_call import OnReply, UpstreamCall, fields_of, for_modern_upstream
from gateway.model import Deny, Reason
from gateway.problems import json_rpc_error, seconds_to_wait
from persistence.records import AuditStatus

_UNAUDITED: Final = Deny(Reason.STORE_UNAVAILABLE, "It was done, but its outcome could not be audited.")


class Forwarder:
    """Asks upstreams for clients."""

    def __init__(
        self,
        catalogue: Catalogue,
        watch: Watch,
        audit: Audit,
        rounds: InputRounds,
        tasks: Tasks,
        *,
        breakers: Breakers,
        certified: Collection[str] = (),
    ) -> None:
        """``certified``: the upstreams that are told the client's certificate."""
        self._certified = frozenset(certified)
        self._catalogue = catalogue
        self._rounds = rounds
        self._tasks = tasks
        self._breakers = breakers
        self._transit = Transit()
        self._watch = watch
        self._audit = CallAudit(audit)

    async def run(
        self,
        request: RequestContext,
        entry: Entry,
        params: Params,
        event: str,
        on_reply: OnReply = lambda _reply: None,
    ) -> web.StreamResponse:
        """The answer to the client. ``on_reply`` is given what the upstream answered, as far as it did.

        Raises Refused where the intent cannot be audited or too much is on its way, Rejected for a bad requestState.
        """
        session, message_id = request.session, request.message.id
        if session is not None and message_id in session.in_flight:
            return request.error(INVALID_REQUEST, "A request with this id is under way.")
        parcel = self._transit.parcel(request.counted)
        state = self._rounds.opened(request, entry, params)
        call = UpstreamCall(entry, params, event, state, parcel, on_reply)
        breaker = self._breakers[entry.upstream]
        if breaker.is_open:
            return self._not_now(request, call, breaker.retry_after())
        running = Running() if session is not None else None
        if session is not None and running is not None:
            session.in_flight[message_id] = running
        pending: Pending | None = None
        stream = EventStream(
            request.http,
            recordings=None if session is None else session.recordings,
            primed=session is not None and session.primes_streams,
        )
        guard = self._watch.guard(
            request.http, request.client, request.inbound.peer, cancelled_by_disconnection=request.modern
        )
        try:
            pending = await self._audit.begin(request, call)
            with guard:
                return await self._exchange(request, call, pending, stream, running)
        except UpstreamError as error:
            status = AuditStatus.TIMEOUT if error.reason is Reason.UPSTREAM_TIMEOUT else AuditStatus.ERROR
            breaker.failed(error.reason)
            body = json_rpc_error(Deny(error.reason, error.detail), request.inbound.request_id, message_id)
            finish(pending, status, error.reason, stream.sent + len(body))
            return await stream.finish(body)
        except CancelledByCaller:
            finish(pending, AuditStatus.CANCELLED, None, stream.sent)
            return await stream.close()
        except asyncio.CancelledError:
            if running is not None and running.took_effect():
                finish(pending, AuditStatus.CANCELLED, None, stream.sent)
                return await stream.close()
            reason = None if guard.disconnected else Reason.INTERRUPTED
            finish(pending, AuditStatus.CANCELLED, reason, stream.sent)
            raise
        finally:
            parcel.delivered()
            finish(pending, AuditStatus.ERROR, Reason.INTERNAL_ERROR, stream.sent)
            stream.stop_recording()
            if session is not None:
                session.in_flight.pop(message_id, None)

    def _told(self, request: RequestContext, call: UpstreamCall) -> Fields:
        """The client's certificate, for an upstream that wants it; the anonymous share a session, so none of theirs."""
        peer = request.inbound.peer
        if peer is None or request.client.anonymous or call.entry.upstream not in self._certified:
            return ()
        return ((CLIENT_CERT, client_cert(peer)),)

    async def tell_level(self, key: SessionKey, name: str, level: str | None) -> None:
        """Pass a log level on to an upstream that knows of levels."""
        offers = self._catalogue.offers(name)
        if (
            level is None
            or self._breakers[name].is_open
            or not offers
            or "logging" not in offers[0].info.capabilities
        ):
            return
        try:
            await self._catalogue.upstream(name).set_level(key, level)
        except EraChangedError:
            raise
        except UpstreamError:
            return  # the call that follows says what is wrong

    def _not_now(self, request: RequestContext, call: UpstreamCall, seconds: float) -> web.Response:
        """The answer to a call of an upstream that does not answer any."""
        name = call.entry.upstream
        deny = Deny(
            Reason.UPSTREAM_UNAVAILABLE, f"Upstream {name} does not answer: try later.", retry_after=seconds
        )
        self._audit.not_sent(request, call, deny.reason)
        reply = JsonReply(json_rpc_error(deny, request.inbound.request_id, request.message.id))
        reply.headers["Retry-After"] = str(seconds_to_wait(seconds))
        return reply

    async def _exchange(
        self,
        request: RequestContext,
        call: UpstreamCall,
        pending: Pending,
        stream: EventStream,
        running: Running | None,
    ) -> web.StreamResponse:
        name = call.entry.upstream
        try:
            era, reply = await self._ask(request, call, stream, running)
        except EraChangedError:  # then nothing was done
            self._catalogue.invalidate(name)
            era, reply = await self._ask(request, call, stream, running)
        self._breakers[name].answered()
        call.on_reply(reply)
        reply = self._tasks.reply(owner_of(request.client), era, call.entry, reply)
        body, status = self._settled(request, call, reply, pending, stream.sent)
        del reply  # it may be large, and is in the body now
        return await stream.finish(body, status)

    async def _ask(
        self, request: RequestContext, call: UpstreamCall, stream: EventStream, running: Running | None
    ) -> tuple[Era, Reply]:
        """The reply for the client, and the era in which the upstream was asked."""
        name, state = call.entry.upstream, call.state
        upstream = self._catalogue.upstream(name)
        if state is not None and state.held is not None:
            era = Era.LEGACY
        elif request.era in upstream.eras:
            era = request.era
        else:
            era = await upstream.era_for(request.key_for(request.era))
        if request.session is not None and era is Era.LEGACY and name not in request.session.used:
            self._first_use(request.session, name)
        ask = self._ask_legacy if era is Era.LEGACY else self._ask_modern
        return era, await ask(request, call, stream, running)

    async def _ask_legacy(
        self, request: RequestContext, call: UpstreamCall, stream: EventStream, running: Running | None
    ) -> Reply:
        """The reply for the client; or what the upstream asks it, while its call is held."""
        name, rounds = call.entry.upstream, self._rounds
        upstream = self._catalogue.upstream(name)
        held = rounds.held(call.state)
        key = request.key if held is None else held.key  # where the call is, whatever this request declares
        if held is not None:
            context, exchange = held.context, held.exchange
        elif call.state is not None and call.state.held is not None:
            return error_reply(INVALID_PARAMS, NOT_OURS)
        else:
            wanting = request.metadata or request.session
            if wanting is not None:  # the upstream's session may be a new one, or not have taken the level
                await self.tell_level(key, name, wanting.log_level)
            params = as_legacy_request(call.params) if request.modern else call.params
            told = self._told(request, call)
            context = upstream.request(key, request.message.method, params, told, call.parcel)
            exchange = await context.__aenter__()
        kept = False
        try:
            with self._meanwhile(request, call, stream, key, exchange) as meanwhile:
                if running is not None:
                    running.exchange = exchange
                if held is not None:
                    answer = answer_in(call.params)
                    if answer is None:
                        kept = True
                        return rounds.hold(request, call.entry, call.params, held)
                    await exchange.resume(call.params)
                    await upstream.respond(key, held.question, answer)
                received = await exchange.receive()
                while not isinstance(received, Reply):
                    missing = missing_capability(request, received)
                    if missing is not None:
                        return error_reply(
                            MISSING_CAPABILITY, MISSES, {"requiredCapabilities": {missing: {}}}
                        )
                    if isinstance(received, Request) and rounds.can_hold(request, received):
                        asking = HeldCall(
                            request.counted, key, context, exchange, received.id, question_of(received)
                        )
                        kept = True
                        return rounds.hold(request, call.entry, call.params, asking)
                    await meanwhile.pass_on(received)
                    received = await exchange.receive()
        finally:
            if not kept:
                await context.__aexit__(None, None, None)
        reply = checked(received)
        return for_modern(request, reply, Era.LEGACY) if request.modern else reply

    async def _ask_modern(
        self, request: RequestContext, call: UpstreamCall, stream: EventStream, running: Running | None
    ) -> Reply:
        """The reply for the client, which is asked meanwhile what the upstream needs, if it is a legacy one."""
        upstream = self._catalogue.upstream(call.entry.upstream)
        subscribes = request.message.method == SUBSCRIBE
        if subscribes and request.session is not None and not request.session.outbox.closed:
            upstream.watch(call.entry.original)
            if await upstream.watched([call.entry.original]):
                return error_reply(
                    INTERNAL_ERROR, f"Upstream {upstream.name} does not tell of that resource."
                )
        if request.message.method in SUBSCRIBING:
            return Reply(None, result=msgspec.Raw(b"{}"))
        key, method, fields = (
            request.key_for(Era.MODERN),
            request.message.method,
            (*fields_of(call), *self._told(request, call)),
        )
        params = for_modern_upstream(request, call)
        for _round in range(MAX_ROUNDS):
            async with upstream.request(key, method, params, fields, call.parcel) as exchange:
                if running is not None:
                    running.exchange = exchange
                with self._meanwhile(request, call, stream, key, exchange) as meanwhile:
                    received = await exchange.receive()
                    while not isinstance(received, Reply):
                        await meanwhile.pass_on(received)
                        received = await exchange.receive()
            reply = checked(received)
            if request.modern:
                return self._sealed(request, call, for_modern(request, reply, Era.MODERN))
            required = required_by(reply)
            if required is None:
                return for_legacy(reply)
            if running is not None:
                running.exchange = None  # a cancellation now ends our own waiting
            reachable = request.accepts_stream and not stream.gone
            try:
                answers = await ask_client(request.session, stream if reachable else None, required)
            except CannotAsk as error:
                return error_reply(INVALID_REQUEST, str(error))
            params = {**params, "inputResponses": answers}
            params.pop("requestState", None)
            if required.request_state is not None:
                params["requestState"] = required.request_state
        return error_reply(INVALID_REQUEST, "The server asks back without end.")

    def _meanwhile(
        self,
        request: RequestContext,
        call: UpstreamCall,
        stream: EventStream,
        key: SessionKey,
        exchange: Exchange,
    ) -> Meanwhile:
        return Meanwhile(self._catalogue, self._tasks, request, call, stream, key=key, exchange=exchange)

    def _sealed(self, request: RequestContext, call: UpstreamCall, reply: Reply) -> Reply:
        if reply.result is None or not says(bytes(reply.result), "input_required"):
            return reply
        result = self._rounds.sealed(request, call.entry, call.params, bytes(reply.result))
        return Reply(reply.id, result=msgspec.Raw(result))

    def _first_use(self, session: Session, name: str) -> None:
        session.used.add(name)
        if session.outbox.reader is not None:
            self._catalogue.upstream(name).listen(session.key)

    def _settled(
        self, request: RequestContext, call: UpstreamCall, reply: Reply, pending: Pending, sent: int
    ) -> tuple[bytes, int]:
        """The reply for the client and its HTTP status, once its outcome is in the journal's hands.

        Raises UpstreamError where it is too large for now.
        """
        body = encode_reply(request.message.id, reply)
        call.parcel.grow_to(len(body))
        status, reason = status_of(reply)
        if not pending.finish(status, reason, sent + len(body)):
            body = json_rpc_error(_UNAUDITED, request.inbound.request_id, request.message.id)
        code = None if reply.error is None else code_of(reply.error)
        return body, 200 if code is None else request.dialect.statuses.get(code, 200)
