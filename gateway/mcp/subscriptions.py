"""Subscriptions of clients of both eras, at upstreams of both.

A legacy upstream is subscribed to in the client's session, a modern one for all clients at once. Either way only those
are told who may read the resource at that moment, and of a changed list only those whose own list changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from gateway.audit import Audit
from gateway.mcp.access import Access
from gateway.mcp.breakers import Breakers
from gateway.mcp.catalogue import Catalogue, Entry
from gateway.mcp.eras import ACKNOWLEDGED, Era, own_result
from gateway.mcp.exchange import Errands, unavailable
from gateway.mcp.interests import MAX_RESOURCES, Interests, Resource
from gateway.mcp.listeners import Listener, Listeners
from gateway.mcp.listing import Kind
from gateway.mcp.lists import Lists
from gateway.mcp.meanwhile import NOBODY_THERE
from gateway.mcp.messages import INVALID_PARAMS, INVALID_REQUEST, Reply, encode_notification, encode_result
from gateway.mcp.request import RequestContext
from gateway.mcp.sessions import Session, Sessions
from gateway.mcp.streams import EventStream, Watch, pour
from gateway.mcp.target import Target
from gateway.mcp.tasks import require_extension
from gateway.mcp.upstream import GATEWAY, SessionKey, UpstreamError
from gateway.model import Deny, Reason, Refused
from persistence.records import AuditStatus

log = logging.getLogger("ostiary.mcp")

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
MAX_ENDING: Final = 4_096
"""How many subscriptions may wait to be ended at one upstream."""
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
        interests: Interests,
        lists: Lists,
        access: Access,
        breakers: Breakers,
        watch: Watch,
        audit: Audit,
    ) -> None:
        self._catalogue = catalogue
        self._sessions = sessions
        self._listeners = listeners
        self._lists = lists
        self._access = access
        self._breakers = breakers
        self._watch = watch
        self._audit = audit
        self._interests = interests
        self._errands = Errands()
        self._ending: dict[str, dict[tuple[Resource, SessionKey], None]] = {}
        """By upstream, while any are ended there: the subscriptions that are still to be."""
        self._renewing: dict[str, dict[tuple[Resource, SessionKey], None]] = {}
        """By upstream that has forgotten any: the subscriptions that it does not have again."""

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
            self._leave(listener)
        return await stream.close()

    def session_ended(self, session: Session) -> None:
        """What nobody else wants to hear of is told no more, and whoever asked its client something waits no more."""
        for on_answer in session.asked.values():
            self._errands.run(on_answer(NOBODY_THERE))
        session.asked.clear()
        legacy = [name for name in session.used if Era.LEGACY in self._catalogue.upstream(name).eras]
        for resource in tuple(session.subscribed):
            self.unsubscribed(session, resource)
            if resource[0] in legacy:
                self._end(resource, session.key)

    def subscribed(self, session: Session, resource: Resource) -> str | None:
        """A session wants to hear of it; None, or why it may not, in words for the client."""
        if session.outbox.closed:  # it ended a moment ago, and nobody would take this back
            return "The session has ended."
        return self._interests.take(session, resource)

    def unsubscribed(self, session: Session, resource: Resource) -> None:
        """A session wants to hear of it no more."""
        self._interests.leave(session, resource)
        self._unwatch(resource)

    def wanted(self, resource: Resource, key: SessionKey) -> bool:
        """Whether anybody still uses the subscription that ``key`` has at a legacy upstream."""
        if self._sessions.shares(resource[0]):
            return resource in self._interests
        return self._interests.wanted(resource, key)

    def forgotten(self, upstream: str, key: SessionKey | None) -> None:
        """It no longer knows of the subscriptions in the session of that key (None: in any): it is to have them again."""
        shared = self._sessions.shares(upstream)
        wanted = {
            (resource, GATEWAY if shared else its)
            for resource, its in self._interests.at(upstream, None if shared else key)
        }
        if not wanted:
            return
        renewing = self._renewing.get(upstream)
        if renewing is None:
            renewing = self._renewing[upstream] = {}
            self._errands.run(self._renew_all(upstream, renewing))
        renewing.update(dict.fromkeys(wanted))

    async def close(self) -> None:
        """Tell the upstreams nothing more."""
        await self._errands.close()

    # -- opening ------------------------------------------------------------------------------------------------------

    async def _agree(
        self, request: RequestContext, listener: Listener, wanted: dict[str, Any]
    ) -> dict[str, Any]:
        """Take up what the client may hear of; which that is."""
        agreed: dict[str, Any] = {}
        await self._catalogue.refresh(request.only)
        there = self._catalogue.lists_for(request.client, request.only)
        for name, kinds in _FILTERS.items():
            if wanted.get(name) is True and there.issuperset(kinds):
                agreed[name] = True
                for kind in kinds:
                    shown = self._lists.visible(kind, request.only, request.client, listener.era)
                    listener.listed[kind] = hash(shown)
        uris = wanted.get("resourceSubscriptions")
        if isinstance(uris, list):
            silent: set[str] = set()
            taken = [
                uri for uri in uris[:MAX_RESOURCES] if await self._subscribe(request, listener, uri, silent)
            ]
            refused: set[str] = set()
            for name in {name for name, _uri in listener.subscribed}:
                refused |= await self._refused(listener, name)
            agreed["resourceSubscriptions"] = [uri for uri in taken if uri not in refused]
        return agreed

    async def _refused(self, listener: Listener, name: str) -> frozenset[str]:
        """What that upstream will not tell of, of what the client wants to hear of: it is left again."""
        if self._breakers[name].is_open:
            return frozenset()  # it is asked once it answers again
        wanted = [uri for upstream, uri in listener.subscribed if upstream == name]
        refused = await self._catalogue.upstream(name).watched(wanted)
        for uri in refused:
            self._interests.leave(listener, (name, uri))
            self._unwatch((name, uri))
        return refused

    async def _subscribe(
        self, request: RequestContext, listener: Listener, uri: object, silent: set[str]
    ) -> bool:
        """Subscribe to one resource, if the client may read it; whether that was done.

        ``silent``: the upstreams that have failed to answer for this client's subscription, and are asked no more for it.
        """
        if not isinstance(uri, str):
            return False
        await asyncio.sleep(0)  # one request names many: others have their turn in between
        entry = await self._access.admit(request, Target(Kind.RESOURCE, uri, "resource_subscribe"))
        if not isinstance(entry, Entry) or entry.upstream in silent:
            return False
        resource = (entry.upstream, entry.original)
        if self._interests.take(listener, resource) is not None:
            return False
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
        done = False
        pending = await self._audit.begin(intent, request.inbound.started)
        try:
            done = await self._take_up(resource, listener.key, listener.era)
        except UpstreamError as error:
            if error.reason is not Reason.UPSTREAM_INVALID:
                silent.add(entry.upstream)
            pending.finish(AuditStatus.ERROR, error.reason)
        else:
            pending.finish(AuditStatus.OK if done else AuditStatus.ERROR, None if done else "upstream_error")
        if not done:
            self._interests.leave(listener, resource)
        return done

    async def _take_up(self, resource: Resource, key: SessionKey, era: Era) -> bool:
        """Have the upstream tell of it, for who speaks that era; whether it does. Raises UpstreamError."""
        name, uri = resource
        upstream = self._catalogue.upstream(name)
        if self._breakers[name].is_open and era not in upstream.eras:
            raise unavailable(name, "does not answer")
        if await upstream.era_for(replace(key, era=era)) is Era.MODERN:
            upstream.watch(uri)
            return True
        if era is Era.MODERN:  # a session listens as soon as it has a stream
            upstream.listen(key)
        return await self._tell(key, "resources/subscribe", resource)

    async def _tell(self, key: SessionKey, method: str, resource: Resource) -> bool:
        """Have a legacy upstream begin, or end, telling of a resource; whether it does."""
        name, uri = resource
        async with self._catalogue.upstream(name).request(key, method, {"uri": uri}) as exchange:
            received = await exchange.receive()
            while not isinstance(received, Reply):
                received = await exchange.receive()
        return received.result is not None

    # -- renewing -----------------------------------------------------------------------------------------------------

    async def _renew_all(self, name: str, renewing: dict[tuple[Resource, SessionKey], None]) -> None:
        """Subscribe again, one after another; after a pause that grows where that fails, or is forgotten again."""
        pause = FIRST_PAUSE
        try:
            while renewing:
                for resource, key in tuple(renewing):
                    del renewing[resource, key]
                    try:
                        await self._renew(resource, key)
                    except UpstreamError as error:
                        log.info("upstream %s is to be subscribed to again: %s", name, error.detail)
                        renewing[resource, key] = None
                        break
                if renewing:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._renewing.pop(name, None)

    async def _renew(self, resource: Resource, key: SessionKey) -> None:
        """Take it up again for whoever still wants to hear of it. Raises UpstreamError."""
        shared = self._sessions.shares(resource[0])
        eras = {one.era for one in self._interests.of(resource, None if shared else key)}
        for era in eras:
            await self._take_up(resource, key, era)
        if not eras or self.wanted(resource, key):
            return
        self._unwatch(resource)  # it was left meanwhile
        if Era.LEGACY in self._catalogue.upstream(resource[0]).eras:
            self._end(resource, key)

    # -- ending -------------------------------------------------------------------------------------------------------

    def _leave(self, listener: Listener) -> None:
        """It is over: what nobody else wants to hear of is told no more."""
        left = tuple(listener.subscribed)
        for resource in left:
            self._interests.leave(listener, resource)
            self._unwatch(resource)
            if Era.MODERN not in self._catalogue.upstream(resource[0]).eras:
                self._end(resource, listener.key)
        if left and not any(other.key == listener.key for other in self._listeners):
            self._sessions.depart(listener.key)

    def _unwatch(self, resource: Resource) -> None:
        if resource not in self._interests:
            self._catalogue.upstream(resource[0]).unwatch(resource[1])

    def _end(self, resource: Resource, key: SessionKey) -> None:
        """Have a legacy upstream end its subscription in the session of ``key``, unless somebody else uses that.

        Its subscriptions are ended one after another; where it does not keep up they end with its session.
        """
        name = resource[0]
        ending = self._ending.get(name)
        if self.wanted(resource, key) or (ending is not None and len(ending) >= MAX_ENDING):
            return
        if ending is None:
            ending = self._ending[name] = {}
            self._errands.run(self._end_all(name, ending))
        ending[resource, key] = None

    async def _end_all(self, name: str, ending: dict[tuple[Resource, SessionKey], None]) -> None:
        try:
            while ending:
                resource, key = next(iter(ending))
                del ending[resource, key]  # who leaves it from now on is not waited for by this one
                with contextlib.suppress(UpstreamError):  # it is gone, and its subscriptions with it
                    if not self.wanted(resource, key):
                        await self._tell(key, "resources/unsubscribe", resource)
                    if self.wanted(resource, key):  # since a moment ago: the two may have crossed
                        await self._tell(key, "resources/subscribe", resource)
        finally:
            self._ending.pop(name, None)


def _acknowledgement(listener: Listener, agreed: dict[str, Any]) -> bytes:
    return encode_notification(ACKNOWLEDGED, listener.marked({"notifications": agreed}))
