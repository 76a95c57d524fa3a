"""What upstreams say by themselves, brought to the sessions that it concerns."""

from __future__ import annotations

from gateway.mcp.catalogue import Catalogue
from gateway.mcp.forwarding import LIST_CHANGED
from gateway.mcp.lists import Lists
from gateway.mcp.messages import Notification, Request, encode_notification, encode_request
from gateway.mcp.sessions import Session, Sessions
from gateway.mcp.upstream import GATEWAY, SessionKey


class Announcements:
    """Sorts them into the sessions' outboxes."""

    def __init__(self, catalogue: Catalogue, sessions: Sessions, lists: Lists) -> None:
        self._catalogue = catalogue
        self._sessions = sessions
        self._lists = lists

    def unsolicited(self, upstream: str, key: SessionKey, message: Notification | Request) -> None:
        """An upstream sent something outside any exchange."""
        if isinstance(message, Notification) and message.method in LIST_CHANGED:
            self._catalogue.invalidate(upstream)
            return
        updated = _updated_uri(message)
        for session in self._sessions:
            if updated is not None and not _wants(session, upstream, updated):
                continue
            if upstream not in session.used or (session.key != key and (updated is None or key != GATEWAY)):
                continue  # a session that all share (GATEWAY's) has nothing for one of them, but what it subscribed to
            if isinstance(message, Notification):
                session.outbox.put(encode_notification(message.method, message.params))
            elif session.outbox.reader is not None:
                ours = session.ask(upstream, message.id)
                session.outbox.put(encode_request(ours, message.method, message.params))
                return

    def changed(self, _upstream: str) -> None:
        """An upstream's offer changed: tell the sessions whose own list is another one now."""
        for session in self._sessions:
            for method, kind in LIST_CHANGED.items():
                listed = session.listed.get(kind)
                if listed is None:
                    continue
                now = hash(self._lists.visible(kind, session.scope, session.context))
                if now != listed:
                    session.listed[kind] = now
                    session.outbox.put(encode_notification(method, {}))


def _updated_uri(message: Notification | Request) -> str | None:
    """The URI of a resource that changed, if that is what the message says."""
    uri = message.params.get("uri")
    return uri if message.method == "notifications/resources/updated" and isinstance(uri, str) else None


def _wants(session: Session, upstream: str, uri: str) -> bool:
    """Whether it subscribed to that resource, or to one that it is part of."""
    return any(
        name == upstream and (uri == subscribed or uri.startswith(f"{subscribed.rstrip('/')}/"))
        for name, subscribed in session.subscribed
    )
