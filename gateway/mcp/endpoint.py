"""The MCP endpoint: ``/mcp`` for all upstreams merged, ``/mcp/{upstream}`` for one (streamable HTTP, 2025-11-25).

A request that carries a session must be its owner's. One without is served, too, for callers that keep no session:
it has no stream for what an upstream might ask back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from aiohttp import hdrs, web

from gateway import __version__
from gateway.audit import MAX_TEXT, Audit
from gateway.config import Anonymous, Denied, McpSettings
from gateway.edge import GatewayRequest, read_body
from gateway.mcp.call import Call, json_response
from gateway.mcp.catalogue import LISTINGS, Catalogue, Entry, Kind, decide
from gateway.mcp.forwarding import Errand, Forwarder
from gateway.mcp.lists import Lists
from gateway.mcp.messages import (
    INVALID_PARAMS,
    LEGACY_VERSIONS,
    METHOD_NOT_FOUND,
    RESOURCE_NOT_FOUND,
    Message,
    Notification,
    Rejected,
    Reply,
    Request,
    encode,
    encode_error,
    encode_result,
    parse_client_message,
)
from gateway.mcp.sessions import Session, Sessions
from gateway.mcp.streams import EventStream, Watch
from gateway.model import ClientContext, Deny, Inbound, Reason, Refused
from gateway.problems import Problems
from persistence.records import AuditStatus

MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes of a message from a client."""
HEARTBEAT_SECONDS: Final = 15.0

_ACCEPTS_JSON: Final = re.compile(r"application/json|application/\*|\*/\*")
_LISTS: Final = {listing.method: kind for kind, listing in LISTINGS.items()}
_EVENTS: Final = {Kind.TOOL: "tool_call", Kind.PROMPT: "prompt_get"}


class McpEndpoint:
    """Answers POST, GET and DELETE."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        sessions: Sessions,
        forwarder: Forwarder,
        lists: Lists,
        watch: Watch,
        audit: Audit,
        problems: Problems,
        settings: McpSettings,
    ) -> None:
        self._catalogue = catalogue
        self._lists = lists
        self._forwarder = forwarder
        self._sessions = sessions
        self._watch = watch
        self._audit = audit
        self._problems = problems
        self._settings = settings
        self._methods: dict[str, Callable[[Call, Request], Awaitable[web.StreamResponse]]] = {
            "ping": self._ping,
            "logging/setLevel": self._set_level,
            "tools/call": partial(self._named, kind=Kind.TOOL),
            "prompts/get": partial(self._named, kind=Kind.PROMPT),
            "resources/read": self._resource,
            "resources/subscribe": self._resource,
            "resources/unsubscribe": self._resource,
            "completion/complete": self._complete,
            **dict.fromkeys(_LISTS, self._list),
        }

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    async def post(
        self, http: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        """A message from the client."""
        scope = self._scope(inbound, context)
        if http.content_type != "application/json":
            raise Refused(Deny(Reason.CONTENT_TYPE, "Send the message as application/json."))
        accept = http.headers.get(hdrs.ACCEPT, "*/*")
        if not _ACCEPTS_JSON.search(accept):
            raise Refused(
                Deny(Reason.NOT_ACCEPTABLE, "Accept must name application/json and text/event-stream.")
            )
        try:
            message = parse_client_message(await read_body(http, MAX_BODY))
        except Rejected as rejected:
            self._audit.refused(inbound, Deny(Reason.BAD_REQUEST, rejected.message), context)
            return json_response(encode_error(rejected.id, rejected.code, rejected.message), status=400)
        try:
            return await self._received(http, inbound, context, scope, message)
        except Refused as refused:
            if not isinstance(message, Request):
                raise
            self._audit.refused(inbound, refused.deny, context)
            return self._problems.json_rpc(refused.deny, inbound.request_id, message.id)

    async def _received(
        self,
        http: GatewayRequest,
        inbound: Inbound,
        context: ClientContext,
        scope: str | None,
        message: Message,
    ) -> web.StreamResponse:
        version = http.headers.get("MCP-Protocol-Version")
        modern = isinstance(message, Request) and message.method == "server/discover"
        if modern or (version is not None and version not in LEGACY_VERSIONS):
            supported = ", ".join(LEGACY_VERSIONS)
            detail = f"This gateway speaks MCP {supported}: send initialize."
            raise Refused(Deny(Reason.PROTOCOL_VERSION, detail))
        if isinstance(message, Request) and message.method == "initialize":
            return await self._initialize(inbound, context, scope, message)
        call = Call(http, inbound, context, scope, self._session(http, context, scope))
        if isinstance(message, Notification):
            await self._notified(call, message)
            return web.Response(status=202)
        if isinstance(message, Reply):
            await self._answered(call, message)
            return web.Response(status=202)
        handler = self._methods.get(message.method)
        if handler is None:
            return json_response(
                encode_error(message.id, METHOD_NOT_FOUND, f"Unknown method: {message.method}")
            )
        return await handler(call, message)

    async def get(self, http: GatewayRequest, inbound: Inbound, context: ClientContext) -> web.StreamResponse:
        """The session's stream for what belongs to no request."""
        scope = self._scope(inbound, context)
        if "text/event-stream" not in http.headers.get(hdrs.ACCEPT, ""):
            raise Refused(Deny(Reason.NOT_ACCEPTABLE, "Accept must name text/event-stream."))
        session = self._session(http, context, scope)
        if session is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "Mcp-Session-Id is missing: send initialize first."))
        outbox = session.outbox
        if outbox.reader is not None:
            outbox.reader.cancel()  # the client has come back: its newest stream is the one
        reader = asyncio.current_task()
        outbox.reader = reader
        for name in session.used:
            self._catalogue.upstream(name).listen(session.key)
        stream = EventStream(http, session_id=session.id)
        try:
            with self._watch.guard(http, context, inbound.peer):
                await stream.open()
                await _pour(session, stream)
        finally:
            if outbox.reader is reader:
                outbox.reader = None
        return await stream.close()

    async def delete(
        self, http: GatewayRequest, inbound: Inbound, context: ClientContext
    ) -> web.StreamResponse:
        """The client ends its session."""
        session = self._session(http, context, self._scope(inbound, context))
        if session is None:
            raise Refused(Deny(Reason.BAD_REQUEST, "Mcp-Session-Id is missing."))
        self._sessions.end(session)
        return web.Response(status=204)

    def _scope(self, inbound: Inbound, context: ClientContext) -> str | None:
        if context.anonymous and self._settings.anonymous is Anonymous.CHALLENGE:
            raise Refused(Deny(Reason.AUTHENTICATION_REQUIRED, "Sign in, or present a client certificate."))
        name = inbound.path.removeprefix("/mcp").removeprefix("/")
        if not name:
            return None
        if name not in self._catalogue:
            raise Refused(Deny(Reason.NOT_FOUND, "There is no upstream of that name."))
        return name

    def _session(self, http: GatewayRequest, context: ClientContext, scope: str | None) -> Session | None:
        session_id = http.headers.get("Mcp-Session-Id")
        if session_id is None:
            return None
        session = self._sessions.get(session_id, context, scope)
        if isinstance(session, Deny):
            raise Refused(session)
        return session

    # -- what the gateway answers itself ------------------------------------------------------------------------------

    async def _initialize(
        self, inbound: Inbound, context: ClientContext, scope: str | None, message: Request
    ) -> web.StreamResponse:
        asked = message.params.get("protocolVersion")
        version = asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[0]
        capabilities = message.params.get("capabilities")
        await self._catalogue.refresh(scope)
        session = self._sessions.open(context, scope, str(version), capabilities, inbound.address)
        offers = self._catalogue.offers(scope)
        result: dict[str, Any] = {
            "protocolVersion": version,
            "capabilities": _capabilities([offer.info.capabilities for offer in offers]),
            "serverInfo": {"name": "ostiary", "title": "Ostiary", "version": __version__},
        }
        if scope is not None and offers and offers[0].info.instructions:
            result["instructions"] = offers[0].info.instructions
        response = json_response(encode_result(message.id, result))
        response.headers["Mcp-Session-Id"] = session.id
        return response

    async def _ping(self, _call: Call, message: Request) -> web.StreamResponse:
        return json_response(encode_result(message.id, {}))

    async def _list(self, call: Call, message: Request) -> web.StreamResponse:
        if message.params.get("cursor") is not None:
            return json_response(
                encode_error(message.id, INVALID_PARAMS, "Unknown cursor: the list has one page.")
            )
        await self._catalogue.refresh(call.scope)
        kind = _LISTS[message.method]
        result = self._lists.visible(kind, call.scope, call.context)
        if call.session is not None:
            call.session.listed[kind] = hash(result)
        return json_response(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (encode(message.id), result))

    async def _set_level(self, call: Call, message: Request) -> web.StreamResponse:
        level = message.params.get("level")
        if not isinstance(level, str):
            return json_response(encode_error(message.id, INVALID_PARAMS, "level must be a string."))
        if call.session is not None:
            call.session.log_level = level
            for name in call.session.used:
                await self._forwarder.tell_level(call.session, name)
        return json_response(encode_result(message.id, {}))

    async def _notified(self, call: Call, message: Notification) -> None:
        session = call.session
        if session is None:
            return
        if message.method == "notifications/cancelled":
            request_id = message.params.get("requestId")
            running = session.in_flight.get(request_id) if isinstance(request_id, int | str) else None
            if running is not None:
                await running.cancel(str(message.params.get("reason", ""))[:MAX_TEXT])
        elif message.method == "notifications/roots/list_changed":
            for name in session.used:
                await self._catalogue.upstream(name).notify(session.key, message.method, message.params)

    async def _answered(self, call: Call, message: Reply) -> None:
        """The client answers what an upstream asked."""
        asked = call.session.asked.pop(str(message.id), None) if call.session is not None else None
        if asked is not None:
            await self._catalogue.upstream(asked.upstream).respond(asked.key, asked.id, message)

    # -- what is forwarded --------------------------------------------------------------------------------------------

    async def _named(self, call: Call, message: Request, kind: Kind) -> web.StreamResponse:
        name = message.params.get("name")
        if not isinstance(name, str):
            return json_response(encode_error(message.id, INVALID_PARAMS, "name must be a string."))
        find = partial(self._catalogue.find, kind, name, call.scope)
        entry = find() or await self._find_again(call, find)
        public_name = self._catalogue.prefixed(name, call.scope)
        event = _EVENTS[kind]
        unknown = partial(encode_error, message.id, INVALID_PARAMS, f"Unknown {kind}: {name}")
        refusal = self._refusal(call, message, entry, event=event, target=public_name, unknown=unknown)
        if refusal is not None or entry is None:
            return refusal or json_response(unknown())
        params = {**message.params, "name": entry.original}
        return await self._forwarder.run(call, Errand(message, entry, params, event))

    async def _resource(self, call: Call, message: Request) -> web.StreamResponse:
        uri = message.params.get("uri")
        if not isinstance(uri, str):
            return json_response(encode_error(message.id, INVALID_PARAMS, "uri must be a string."))
        find = partial(self._catalogue.find_resource, uri, call.scope)
        entry = find() or await self._find_again(call, find)
        event = f"resource_{message.method.partition('/')[2]}"
        unknown = partial(
            encode_error, message.id, RESOURCE_NOT_FOUND, f"Unknown resource: {uri}", {"uri": uri}
        )
        refusal = self._refusal(call, message, entry, event=event, target=uri, unknown=unknown)
        if refusal is not None or entry is None:
            return refusal or json_response(unknown())
        if self._subscribe(call, message.method, (entry.upstream, uri)):
            return json_response(encode_result(message.id, {}))
        return await self._forwarder.run(call, Errand(message, entry, message.params, event))

    def _subscribe(self, call: Call, method: str, resource: tuple[str, str]) -> bool:
        """Remember who wants to hear of what; whether an unsubscription must not reach the upstream.

        Sessions may share an upstream session: the last of them to leave a resource is the one that ends it.
        """
        if call.session is None or method == "resources/read":
            return False
        if method == "resources/subscribe":
            call.session.subscribed.add(resource)
            return False
        call.session.subscribed.discard(resource)
        return self._sessions.want(resource, call.session.key)

    async def _complete(self, call: Call, message: Request) -> web.StreamResponse:
        reference = message.params.get("ref")
        reference = reference if isinstance(reference, dict) else {}
        name, uri = reference.get("name"), reference.get("uri")
        if reference.get("type") == "ref/prompt" and isinstance(name, str):
            find = partial(self._catalogue.find, Kind.PROMPT, name, call.scope)
        elif reference.get("type") == "ref/resource" and isinstance(uri, str):
            find = partial(self._catalogue.find_template, uri, call.scope)
        else:
            return json_response(
                encode_error(message.id, INVALID_PARAMS, "ref must name a prompt or a resource.")
            )
        entry = find() or await self._find_again(call, find)
        unknown = partial(encode_error, message.id, INVALID_PARAMS, f"Unknown reference: {name or uri}")
        refusal = self._refusal(
            call, message, entry, event="completion", target=str(name or uri), unknown=unknown
        )
        if refusal is not None or entry is None:
            return refusal or json_response(unknown())
        renamed = reference if entry.kind is not Kind.PROMPT else {**reference, "name": entry.original}
        params = {**message.params, "ref": renamed}
        return await self._forwarder.run(call, Errand(message, entry, params, "completion"))

    async def _find_again(self, call: Call, find: Callable[[], Entry | None]) -> Entry | None:
        """What the catalogue knows after asking the upstreams again."""
        await self._catalogue.refresh(call.scope)
        return find()

    def _refusal(
        self,
        call: Call,
        message: Request,
        entry: Entry | None,
        *,
        event: str,
        target: str,
        unknown: Callable[[], bytes],
    ) -> web.StreamResponse | None:
        """The answer to who may not have it, or None. What is hidden is answered like what does not exist."""
        decision = Deny(Reason.NOT_FOUND, "unknown") if entry is None else decide(entry, call.context)
        if not isinstance(decision, Deny):
            return None
        self._audit.denied(
            self._audit.entry(
                event,
                AuditStatus.DENIED,
                call.inbound,
                call.context,
                reason=decision.reason,
                tool_name=target if event == "tool_call" else None,
                target=None if event == "tool_call" else target,
                upstream=entry.upstream if entry is not None else call.scope,
                method=message.method,
                duration_ms=self._audit.since(call.inbound),
            )
        )
        if entry is None or self._settings.denied is Denied.HIDE:
            return json_response(unknown())
        shown = Deny(Reason.PERMISSION_DENIED, decision.detail, permissions=entry.permissions)
        return self._problems.json_rpc(shown, call.inbound.request_id, message.id)


async def _pour(session: Session, stream: EventStream) -> None:
    """Send what comes into the outbox, until the client goes away or the task is cancelled."""
    while not stream.gone:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                message = await session.outbox.take()
        except TimeoutError:
            await stream.heartbeat()
        else:
            await stream.send(message)


def _capabilities(offered: list[dict[str, Any]]) -> dict[str, Any]:
    """What the gateway can do for the client: what any of its upstreams can, and telling of changed lists."""
    names = {name for capabilities in offered for name in capabilities}
    result: dict[str, Any] = {"tools": {"listChanged": True}}
    if "prompts" in names:
        result["prompts"] = {"listChanged": True}
    if "resources" in names:
        subscribe = any(
            isinstance(capabilities.get("resources"), dict) and capabilities["resources"].get("subscribe")
            for capabilities in offered
        )
        result["resources"] = {"listChanged": True, **({"subscribe": True} if subscribe else {})}
    for name in ("completions", "logging"):
        if name in names:
            result[name] = {}
    return result
