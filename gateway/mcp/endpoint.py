"""The MCP endpoint: ``/mcp`` for all upstreams merged, ``/mcp/{upstream}`` for one (streamable HTTP, both eras).

A legacy request that carries a session must be its owner's. One without is served, too, for callers that keep no
session: it has no stream for what an upstream might ask back. A modern request has none by definition.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import hdrs, web

from gateway.audit import MAX_TEXT, Audit
from gateway.config.values import Anonymous, McpSettings
from gateway.description import described
from gateway.edge.handler import GatewayRequest, read_body
from gateway.edge.reply import JsonReply
from gateway.mcp import description
from gateway.mcp.access import Access
from gateway.mcp.catalogue import Catalogue, Entry, Kind
from gateway.mcp.eras import LEGACY, LISTEN, MODERN
from gateway.mcp.forwarding import Forwarder
from gateway.mcp.messages import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Message,
    Notification,
    Rejected,
    Reply,
    Request,
    encode_error,
    parse_client_message,
)
from gateway.mcp.mirrored import check_arguments, check_repeated
from gateway.mcp.negotiation import dialect_of, read_modern
from gateway.mcp.own_answers import OwnAnswers
from gateway.mcp.recordings import Recording
from gateway.mcp.request import RequestContext
from gateway.mcp.sessions import Session, Sessions, owner_of
from gateway.mcp.streams import EventStream, Watch, pour
from gateway.mcp.subscriptions import Subscriptions
from gateway.mcp.target import (
    COMPLETE,
    METHODS,
    SUBSCRIBING,
    TASKS,
    UNKNOWN_TASK,
    UNSUBSCRIBE,
    Target,
    target_of,
)
from gateway.mcp.tasks import Tasks, require_extension
from gateway.mcp.upstream_call import OnReply
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from gateway.problems import Problems

MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes of a message from a client."""

_ACCEPTS_JSON: Final = re.compile(r"application/json|application/\*|\*/\*")

Answer = Callable[[RequestContext], Awaitable[web.StreamResponse]]


class McpEndpoint:
    """Answers POST, GET and DELETE."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        sessions: Sessions,
        forwarder: Forwarder,
        access: Access,
        own: OwnAnswers,
        subscriptions: Subscriptions,
        tasks: Tasks,
        watch: Watch,
        audit: Audit,
        problems: Problems,
        settings: McpSettings,
    ) -> None:
        self._catalogue = catalogue
        self._forwarder = forwarder
        self._access = access
        self._sessions = sessions
        self._watch = watch
        self._audit = audit
        self._problems = problems
        self._settings = settings
        self._subscriptions = subscriptions
        self._tasks = tasks
        self._answers: dict[str, Answer] = {
            **own.by_method,
            LISTEN: subscriptions.listen,
            **dict.fromkeys((*METHODS, COMPLETE), self._forward),
            **dict.fromkeys(TASKS, self._ask_of_task),
        }

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    @described(description.POST)
    async def post(
        self, http: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        """A message from the client."""
        only = self._only(inbound, context)
        if http.content_type != "application/json":
            raise Refused(Deny(Reason.CONTENT_TYPE, "Send the message as application/json."))
        accept = http.headers.get(hdrs.ACCEPT, "*/*")
        if not _ACCEPTS_JSON.search(accept):
            raise Refused(
                Deny(Reason.NOT_ACCEPTABLE, "Accept must name application/json and text/event-stream.")
            )
        body = await read_body(http, MAX_BODY)
        message: Message | None = None
        try:
            message = parse_client_message(body)
            dialect = dialect_of(message, http.headers)
            if dialect is MODERN:
                metadata = read_modern(message, http.headers)
                if not isinstance(message, Request):
                    return web.Response(status=202)
                request = RequestContext(
                    http, inbound, context, only, message, MODERN, metadata=metadata, size=len(body)
                )
                return await self._answer(request)
            if isinstance(message, Request):
                check_repeated(http.headers, message.method, message.params, message.id)
            session = self._session(http, context, only)
            if not isinstance(message, Request):
                await self._told(session, message)
                return web.Response(status=202)
            request = RequestContext(http, inbound, context, only, message, LEGACY, session, size=len(body))
            return await self._answer(request)
        except Rejected as rejected:
            self._audit.refused(inbound, Deny(Reason.BAD_REQUEST, rejected.message), context)
            status = 404 if rejected.code == METHOD_NOT_FOUND else 400
            error = encode_error(rejected.id, rejected.code, rejected.message, rejected.data)
            return JsonReply(error, status)
        except Refused as refused:
            if not isinstance(message, Request):
                raise
            self._audit.refused(inbound, refused.deny, context)
            return self._problems.json_rpc(refused.deny, inbound.request_id, message.id)

    async def _answer(self, request: RequestContext) -> web.StreamResponse:
        method = request.message.method
        if method not in request.dialect.methods:
            return request.error(METHOD_NOT_FOUND, f"Unknown method: {method}")
        return await self._answers[method](request)

    @described(description.GET)
    async def get(self, http: GatewayRequest, inbound: Inbound, context: ClientContext) -> web.StreamResponse:
        """The session's stream for what belongs to no request."""
        only = self._only(inbound, context)
        if "text/event-stream" not in http.headers.get(hdrs.ACCEPT, ""):
            raise Refused(Deny(Reason.NOT_ACCEPTABLE, "Accept must name text/event-stream."))
        session = self._session(http, context, only)
        if session is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "Mcp-Session-Id is missing: send initialize first."))
        last_id = http.headers.get("Last-Event-ID")
        broken = None if last_id is None else session.recordings.find(last_id)
        if broken is not None and not broken[0].of_session:
            return await self._resume(http, inbound, context, session, broken)
        outbox = session.outbox
        if outbox.reader is not None:
            outbox.reader.cancel()  # the client has come back: its newest stream is the one
        reader = asyncio.current_task()
        outbox.reader = reader
        for name in session.used:
            self._catalogue.upstream(name).listen(session.key)
        stream = EventStream(
            http, session_id=session.id, recordings=session.recordings, primed=session.primes_streams
        )
        try:
            with self._watch.guard(http, context, inbound.peer):
                await stream.open()
                if stream.recording is not None:
                    stream.recording.of_session = True
                if broken is not None:
                    await stream.replay(*broken)
                await pour(session.outbox, stream)
        finally:
            stream.stop_recording()
            if outbox.reader is reader:
                outbox.reader = None
        return await stream.close()

    async def _resume(
        self,
        http: GatewayRequest,
        inbound: Inbound,
        context: ClientContext,
        session: Session,
        broken: tuple[Recording, int],
    ) -> web.StreamResponse:
        """The rest of a stream that broke off, to its end."""
        stream = EventStream(http, session_id=session.id)
        with self._watch.guard(http, context, inbound.peer):
            await stream.open()
            await stream.replay(*broken)
        return await stream.close()

    @described(description.DELETE)
    async def delete(
        self, http: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        """The client ends its session."""
        session = self._session(http, context, self._only(inbound, context))
        if session is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "Mcp-Session-Id is missing."))
        self._sessions.end(session)
        running = tuple(session.in_flight.values())
        await asyncio.gather(*(request.cancel("The session has ended.") for request in running))
        return web.Response(status=204)

    def _only(self, inbound: Inbound, context: ClientContext) -> str | None:
        if context.anonymous and self._settings.anonymous is Anonymous.CHALLENGE:
            raise Refused(Deny(Reason.AUTHENTICATION_REQUIRED, "Sign in, or present a client certificate."))
        name = inbound.path.removeprefix("/mcp").removeprefix("/")
        if not name:
            return None
        if name not in self._catalogue:
            raise Refused(Deny(Reason.NOT_FOUND, "There is no upstream of that name."))
        return name

    def _session(self, http: GatewayRequest, context: ClientContext, only: str | None) -> Session | None:
        session_id = http.headers.get("Mcp-Session-Id")
        if session_id is None:
            return None
        session = self._sessions.get(session_id, context, only)
        if isinstance(session, Deny):
            raise Refused(session)
        return session

    # -- messages -----------------------------------------------------------------------------------------------------

    async def _told(self, session: Session | None, message: Notification | Reply) -> None:
        """What wants no answer."""
        if session is None:
            return
        if isinstance(message, Reply):
            on_answer = session.asked.pop(str(message.id), None)
            if on_answer is not None:
                await on_answer(message)
        elif message.method == "notifications/cancelled":
            request_id = message.params.get("requestId")
            running = session.in_flight.get(request_id) if isinstance(request_id, int | str) else None
            if running is not None:
                await running.cancel(str(message.params.get("reason", ""))[:MAX_TEXT])
        elif message.method == "notifications/roots/list_changed":
            for name in session.used:
                await self._catalogue.upstream(name).notify(session.key, message.method, message.params)

    async def _forward(self, request: RequestContext) -> web.StreamResponse:
        """What an upstream is to answer, if the caller may have it."""
        message = request.message
        try:
            target = target_of(message)
        except Rejected as rejected:
            return request.error(rejected.code, rejected.message)
        entry = await self._access.admit(request, target)
        if not isinstance(entry, Entry):
            return entry
        if entry.mirrored:
            headers, arguments = request.http.headers, message.params.get("arguments")
            check_arguments(headers, entry.mirrored, arguments, message.id, needed=request.modern)
        if message.method in SUBSCRIBING:
            return await self._subscribe(request, target, entry)
        return await self._ask(request, target, entry)

    async def _ask(
        self,
        request: RequestContext,
        target: Target,
        entry: Entry,
        on_reply: OnReply = lambda _reply: None,
    ) -> web.StreamResponse:
        """The upstream's answer to a client that may have it."""
        params = self._tasks.opened(owner_of(request.client), request.era, entry, request.message.params)
        if params is None:
            return self._unknown_task(request, target)
        params = target.params_for(params, entry.original)
        return await self._forwarder.run(request, entry, params, target.event, on_reply)

    async def _ask_of_task(self, request: RequestContext) -> web.StreamResponse:
        """What a task's upstream is to answer, if the task is the caller's, and the caller may have its tool now."""
        message = request.message
        require_extension(request.metadata, message.id)
        task = self._tasks.open(owner_of(request.client), message.params.get("taskId"))
        target = None
        if task is not None and task.era is request.era:
            target = self._tasks.target(task, request.only, message.method)
        if task is None or target is None:
            return self._unknown_task(request, Target(Kind.TOOL, "", TASKS[message.method]))
        entry = await self._access.admit(request, target)
        if not isinstance(entry, Entry):
            return entry
        params = self._tasks.opened(owner_of(request.client), request.era, entry, message.params)
        if params is None:
            return self._unknown_task(request, target)
        params = {**params, "taskId": task.id}
        return await self._forwarder.run(request, entry, params, target.event)

    def _unknown_task(self, request: RequestContext, target: Target) -> web.Response:
        self._access.refused(request, target, None, Deny(Reason.NOT_FOUND, "unknown"))
        return request.error(INVALID_PARAMS, UNKNOWN_TASK)

    async def _subscribe(self, request: RequestContext, target: Target, entry: Entry) -> web.StreamResponse:
        """Remember who wants to hear of what, unless the upstream does not grant it.

        Sessions may share an upstream session: the last of them to leave a resource is the one that ends it.
        """
        session = request.session
        if session is None:
            return request.error(
                INVALID_REQUEST, "Send initialize first: changes are told in a session alone."
            )
        resource = (entry.upstream, entry.original)
        if request.message.method == UNSUBSCRIBE:
            self._subscriptions.unsubscribed(session, resource)
            if self._subscriptions.wanted(resource, session.key):
                return request.result({})
            return await self._ask(request, target, entry)
        granted = resource in session.subscribed
        refusal = self._subscriptions.subscribed(session, resource)
        if refusal is not None:
            return request.error(INVALID_REQUEST, refusal)

        def replied(reply: Reply) -> None:
            nonlocal granted
            granted = granted or reply.error is None

        try:
            return await self._ask(request, target, entry, replied)
        finally:
            if not granted:
                self._subscriptions.unsubscribed(session, resource)
