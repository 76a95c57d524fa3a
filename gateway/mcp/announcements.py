"""What upstreams say by themselves, brought to the sessions that it concerns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.mcp.catalogue import Catalogue, decide
from gateway.mcp.eras import Era
from gateway.mcp.forwarding import LIST_CHANGED
from gateway.mcp.lists import Lists
from gateway.mcp.messages import Notification, Request, encode_notification, encode_request
from gateway.mcp.sessions import Session, Sessions
from gateway.mcp.upstream import GATEWAY, SessionKey
from gateway.model import ALLOW, ClientContext


class Announcements:
    """Sorts them into the sessions' outboxes."""

    def __init__(
        self,
        catalogue: Catalogue,
        sessions: Sessions,
        lists: Lists,
        *,
        current: Callable[[ClientContext], ClientContext | None] = lambda context: context,
    ) -> None:
        """``current`` gives a session's client as it is now, with the permissions that it has now; None: it is gone."""
        self._current = current
        self._catalogue = catalogue
        self._sessions = sessions
        self._lists = lists

    def unsolicited(self, upstream: str, key: SessionKey, message: Notification | Request) -> None:
        """An upstream sent something outside any exchange."""
        if isinstance(message, Notification) and message.method in LIST_CHANGED:
            self._catalogue.invalidate(upstream)
            return
        updated = _updated_uri(message)
        if updated is not None:
            self._updated(upstream, key, updated, message)
            return
        for session in self._sessions:
            if session.context.anonymous or session.key != key or upstream not in session.used:
                continue  # a session that many share (GATEWAY's, and that of the anonymous) has nothing for one of them
            if isinstance(message, Notification):
                session.outbox.put(encode_notification(message.method, message.params))
            elif session.outbox.reader is not None:
                ours = session.ask(partial(self._catalogue.upstream(upstream).respond, key, message.id))
                if ours is not None:
                    session.outbox.put(encode_request(ours, message.method, message.params))
                    return

    def _updated(self, upstream: str, key: SessionKey, uri: str, message: Notification | Request) -> None:
        """A resource changed: tell the sessions that subscribed to it, and may read it now."""
        for session in self._sessions:
            if not (_is_shared(key) or key == session.key) or not _wants(session, upstream, uri):
                continue
            if self._may_read(session, upstream, uri):
                session.outbox.put(encode_notification(message.method, {"uri": uri}))

    def _may_read(self, session: Session, upstream: str, uri: str) -> bool:
        context = self._current(session.context)
        entry = self._catalogue.find_resource(uri, session.only)
        if context is None or entry is None or entry.upstream != upstream:
            return False
        return decide(entry, context) is ALLOW

    def changed(self, _upstream: str) -> None:
        """An upstream's offer changed: tell the sessions whose own list is another one now."""
        for session in self._sessions:
            context = self._current(session.context)
            for method, kind in LIST_CHANGED.items():
                listed = session.listed.get(kind)
                if listed is None or context is None:
                    continue
                now = hash(self._lists.visible(kind, session.only, context))
                if now != listed:
                    session.listed[kind] = now
                    session.outbox.put(encode_notification(method, {}))


def _is_shared(key: SessionKey) -> bool:
    """Whether what comes there is for whoever wants to hear it: the modern era knows no sessions."""
    return key == GATEWAY or key.era is Era.MODERN


def _updated_uri(message: Notification | Request) -> str | None:
    """The URI of a resource that changed, if that is what the message says; "" where it names none."""
    if isinstance(message, Request) or message.method != "notifications/resources/updated":
        return None
    uri = message.params.get("uri")
    return uri if isinstance(uri, str) else ""


def _wants(session: Session, upstream: str, uri: str) -> bool:
    """Whether it subscribed to that resource, or to one that it is part of."""
    return any(
        name == upstream and (uri == subscribed or uri.startswith(f"{subscribed.rstrip('/')}/"))
        for name, subscribed in session.subscribed
    )
