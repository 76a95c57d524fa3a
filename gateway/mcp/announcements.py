"""What upstreams say by themselves, brought to the sessions that it concerns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.mcp.catalogue import Catalogue, decide
from gateway.mcp.eras import Era
from gateway.mcp.interests import Interests, Subscriber
from gateway.mcp.listeners import Listeners
from gateway.mcp.listing import LISTS_OF, Kind
from gateway.mcp.lists import Lists
from gateway.mcp.messages import Notification, Request, encode_notification, encode_request
from gateway.mcp.sessions import Session, Sessions
from gateway.mcp.tasks import STATUS_NEWS, asks_of_tasks, without_task
from gateway.mcp.templates import MAX_URI
from gateway.mcp.upstream import GATEWAY, SessionKey
from gateway.model import ALLOW, ClientContext


class Announcements:
    """Sorts them into the sessions' outboxes."""

    def __init__(
        self,
        catalogue: Catalogue,
        sessions: Sessions,
        lists: Lists,
        listeners: Listeners,
        interests: Interests,
        *,
        current: Callable[[ClientContext], ClientContext | None] = lambda context: context,
        standing: Callable[[ClientContext], object] = lambda context: context,
    ) -> None:
        """``current`` gives a session's client as it is now, with the permissions that it has now; None: it is gone.

        ``standing`` gives something that is unequal to what it gave before where those permissions may be others now.
        """
        self._current = current
        self._standing = standing
        self._catalogue = catalogue
        self._sessions = sessions
        self._lists = lists
        self._listeners = listeners
        self._interests = interests

    def unsolicited(self, upstream: str, key: SessionKey, message: Notification | Request) -> None:
        """An upstream sent something outside any exchange."""
        if isinstance(message, Notification) and message.method in LISTS_OF:
            self._catalogue.invalidate(upstream)
            return
        updated = _updated_uri(message)
        if updated is not None:
            self._updated(upstream, key, updated, message)
            return
        sessions = self._sessions.of(key)
        if not sessions:
            return
        encoded = encode_notification(message.method, message.params)  # once, however many keep it
        for session in sessions:
            if session.context.anonymous or upstream not in session.used:
                continue  # a session that many share (GATEWAY's, and that of the anonymous) has nothing for one of them
            if not self._may_hear(session, upstream):
                continue
            if isinstance(message, Notification):
                if message.method not in STATUS_NEWS and session.wants(message):
                    session.outbox.put(encoded)
            elif session.outbox.reader is not None and not asks_of_tasks(message):
                ours = session.ask(partial(self._catalogue.upstream(upstream).respond, key, message.id))
                if ours is not None:
                    session.outbox.put(encode_request(ours, message.method, without_task(message.params)))
                    return

    def _may_hear(self, session: Session, upstream: str) -> bool:
        """Whether its client may have anything of that upstream now: what it once called may be hidden from it since."""
        context = self._current(session.context)
        return context is not None and self._catalogue.has_something_for(context, upstream)

    def _updated(self, upstream: str, key: SessionKey, uri: str, message: Notification | Request) -> None:
        """A resource changed: tell the sessions that subscribed to it, and may read it now."""
        of = None if _is_shared(key) else key
        parts = _with_what_holds_it(uri)
        for subscriber in set().union(*(self._interests.of((upstream, part), of) for part in parts)):
            if self._may_read(subscriber, upstream, uri):
                subscriber.tell(message.method, {"uri": uri})

    def _may_read(self, subscriber: Subscriber, upstream: str, uri: str) -> bool:
        context = self._current(subscriber.context)
        entry = self._catalogue.find_resource(uri, subscriber.only)
        if context is None or entry is None or entry.upstream != upstream:
            return False
        return decide(entry, context) is ALLOW

    def changed(self, _upstream: str) -> None:
        """An upstream's offer changed: tell those whose own list is another one now."""
        for listener in (*self._sessions, *self._listeners):
            self._tell_of_lists(listener)

    def sweep(self) -> None:
        """Tell those whose own list is another one now because their permissions are others; to be called often."""
        for listener in (*self._sessions, *self._listeners):
            if not listener.listed or listener.context.anonymous:
                continue
            standing = self._standing(listener.context)
            if standing != listener.standing:
                listener.standing = standing
                self._tell_of_lists(listener)

    def _tell_of_lists(self, listener: Subscriber) -> None:
        context = self._current(listener.context)
        if context is None:
            return
        for method, kinds in LISTS_OF.items():
            differing = [kind for kind in kinds if self._differs(listener, kind, context)]
            if differing:
                listener.tell(method, {})

    def _differs(self, listener: Subscriber, kind: Kind, context: ClientContext) -> bool:
        """Whether that list is another one than was last seen to; it is seen to now."""
        listed = listener.listed.get(kind)
        if listed is None:
            return False
        now = listener.listed[kind] = hash(self._lists.visible(kind, listener.only, context, listener.era))
        return now != listed


def _is_shared(key: SessionKey) -> bool:
    """Whether what comes there is for whoever wants to hear it: the modern era knows no sessions."""
    return key == GATEWAY or key.era is Era.MODERN


def _updated_uri(message: Notification | Request) -> str | None:
    """The URI of a resource that changed, if that is what the message says; "" where it names none."""
    if isinstance(message, Request) or message.method != "notifications/resources/updated":
        return None
    uri = message.params.get("uri")
    return uri if isinstance(uri, str) else ""


def _with_what_holds_it(uri: str) -> list[str]:
    """That resource, and those that it is part of, with and without the slash at their end."""
    if len(uri) > MAX_URI:
        return [uri]
    slashes = [at for at, character in enumerate(uri) if character == "/"]
    return [uri, *(uri[: at + last] for at in slashes for last in (0, 1))]
