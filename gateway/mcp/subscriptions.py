"""Subscriptions of clients of both eras, at upstreams of both.

A legacy upstream is subscribed to in the client's session, a modern one for all clients at once. Either way only those
are told who may read the resource at that moment, and of a changed list only those whose own list changed.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from gateway.audit import Audit
from gateway.mcp.access import Access
from gateway.mcp.catalogue import Catalogue, Entry
from gateway.mcp.eras import ACKNOWLEDGED, Era, own_result
from gateway.mcp.listeners import Listener, Listeners
from gateway.mcp.listing import Kind
from gateway.mcp.lists import Lists
from gateway.mcp.messages import INVALID_PARAMS, INVALID_REQUEST, Reply, encode_notification, encode_result
from gateway.mcp.request import RequestContext
from gateway.mcp.sessions import Session, Sessions
from gateway.mcp.streams import EventStream, Watch, pour
from gateway.mcp.target import Target
from gateway.mcp.tasks import require_extension
from gateway.mcp.upstream import UpstreamError
from gateway.model import Deny, Reason, Refused
from persistence.records import AuditStatus

MAX_RESOURCES: Final = 256
"""Resources of one subscription, or of one legacy session."""
_FILTERS: Final = {
    "toolsListChanged": (Kind.TOOL,),
    "promptsListChanged": (Kind.PROMPT,),
    "resourcesListChanged": (Kind.RESOURCE, Kind.TEMPLATE),
}


class Subscriptions:
    """Answers ``subscriptions/listen``, and keeps the upstreams subscribed to what clients want to hear."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        sessions: Sessions,
        listeners: Listeners,
        lists: Lists,
        access: Access,
        watch: Watch,
        audit: Audit,
    ) -> None:
        self._catalogue = catalogue
        self._sessions = sessions
        self._listeners = listeners
        self._lists = lists
        self._access = access
        self._watch = watch
        self._audit = audit

    async def listen(self, request: RequestContext) -> web.StreamResponse:
        """The stream of what the client asked to hear of, as far as it may."""
        wanted = request.message.params.get("notifications")
        if not isinstance(wanted, dict):
            return request.error(INVALID_PARAMS, "notifications must be an object.")
        if "taskIds" in wanted:
            require_extension(request.metadata, request.message.id)
        if not request.accepts_stream:
            raise Refused(Deny(Reason.NOT_ACCEPTABLE, "Accept must name text/event-stream."))
        if not self._listeners.room_for(request.counted):
            return request.error(INVALID_REQUEST, "You have too many subscriptions open: close some.")
        listener = Listener(request.message.id, request.key, request.only, request.client, request.counted)
        stream = EventStream(request.http)
        guard = self._watch.guard(
            request.http, request.client, request.inbound.peer, cancelled_by_disconnection=True
        )
        try:
            with guard:
                self._listeners.add(listener)  # before anything is waited for, so that it counts
                agreed = await self._agree(request, listener, wanted)
                await stream.send(_acknowledgement(listener, agreed))
                await pour(listener.outbox, stream)
                await stream.send(encode_result(listener.id, own_result(listener.marked({}))))
        finally:
            self._listeners.remove(listener)
            await self._leave(listener)
        return await stream.close()

    def session_ended(self, session: Session) -> None:
        """What nobody else wants to hear of is no longer watched."""
        self._unwatch(session.subscribed)

    def unsubscribed(self, resource: tuple[str, str]) -> None:
        """A session wants to hear of it no more."""
        self._unwatch({resource})

    def wanted(self, resource: tuple[str, str], session: Session) -> bool:
        """Whether anybody else still uses the subscription that this session has at a legacy upstream."""
        if self._sessions.want(resource, session.key):
            return True
        shared = self._sessions.shares(resource[0])
        return self._listeners.want(resource, None if shared else session.key)

    # -- opening ------------------------------------------------------------------------------------------------------

    async def _agree(
        self, request: RequestContext, listener: Listener, wanted: dict[str, Any]
    ) -> dict[str, Any]:
        """Take up what the client may hear of; which that is."""
        agreed: dict[str, Any] = {}
        await self._catalogue.refresh(request.only)
        for name, kinds in _FILTERS.items():
            if wanted.get(name) is True:
                agreed[name] = True
                for kind in kinds:
                    listener.listed[kind] = hash(self._lists.visible(kind, request.only, request.client))
        uris = wanted.get("resourceSubscriptions")
        if isinstance(uris, list):
            taken = [uri for uri in uris[:MAX_RESOURCES] if await self._subscribe(request, listener, uri)]
            agreed["resourceSubscriptions"] = taken
        return agreed

    async def _subscribe(self, request: RequestContext, listener: Listener, uri: object) -> bool:
        """Subscribe to one resource, if the client may read it; whether that was done."""
        if not isinstance(uri, str):
            return False
        entry = await self._access.admit(request, Target(Kind.RESOURCE, uri, "resource_subscribe"))
        if not isinstance(entry, Entry):
            return False
        upstream = self._catalogue.upstream(entry.upstream)
        intent = self._audit.entry(
            "resource_subscribe",
            AuditStatus.OK,
            request.inbound,
            request.client,
            target=entry.name,
            upstream=entry.upstream,
            method=request.message.method,
            era=request.era,
            rule=entry.rule,
            request_bytes=request.size,
        )
        pending = await self._audit.begin(intent, request.inbound.started)
        try:
            if await upstream.era_for(request.key_for(Era.MODERN)) is Era.MODERN:
                upstream.watch(entry.original)
                done = True
            else:
                done = await self._tell(listener, "resources/subscribe", entry.upstream, entry.original)
        except UpstreamError as error:
            pending.finish(AuditStatus.ERROR, error.reason)
            return False
        pending.finish(AuditStatus.OK if done else AuditStatus.ERROR, None if done else "upstream_error")
        if done:
            listener.subscribed.add((entry.upstream, entry.original))
        return done

    async def _tell(self, listener: Listener, method: str, name: str, uri: str) -> bool:
        """Have a legacy upstream begin, or end, telling of a resource; whether it does."""
        upstream = self._catalogue.upstream(name)
        upstream.listen(listener.key)
        async with upstream.request(listener.key, method, {"uri": uri}) as exchange:
            received = await exchange.receive()
            while not isinstance(received, Reply):
                received = await exchange.receive()
        return received.result is not None

    # -- ending -------------------------------------------------------------------------------------------------------

    async def _leave(self, listener: Listener) -> None:
        self._unwatch(listener.subscribed)
        for name, uri in listener.subscribed:
            upstream = self._catalogue.upstream(name)
            shared = self._sessions.shares(name)
            heard = self._listeners.want((name, uri), None if shared else listener.key)
            if Era.MODERN in upstream.eras or heard or self._sessions.want((name, uri), listener.key):
                continue
            try:
                await self._tell(listener, "resources/unsubscribe", name, uri)
            except UpstreamError:
                continue  # it is gone, and its subscriptions with it
        if listener.subscribed and not any(other.key == listener.key for other in self._listeners):
            self._sessions.depart(listener.key)

    def _unwatch(self, resources: set[tuple[str, str]]) -> None:
        for name, uri in resources:
            subscribed = any((name, uri) in session.subscribed for session in self._sessions)
            if not subscribed and not self._listeners.want((name, uri)):
                self._catalogue.upstream(name).unwatch(uri)


def _acknowledgement(listener: Listener, agreed: dict[str, Any]) -> bytes:
    return encode_notification(ACKNOWLEDGED, listener.marked({"notifications": agreed}))
