"""The open subscriptions of modern clients (``subscriptions/listen``): each lives as long as its stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from gateway.mcp.eras import SUBSCRIPTION_ID, Era
from gateway.mcp.listing import Kind
from gateway.mcp.messages import Params, RequestId, encode_notification
from gateway.mcp.sessions import NOBODY, Outbox, Owner
from gateway.mcp.upstream import SessionKey
from gateway.model import ClientContext

MAX_LISTENERS: Final = 10_000
MAX_LISTENERS_OF_ONE: Final = 64
"""Of one client, or of one network where the callers are anonymous."""
MAX_LISTENERS_ANONYMOUS: Final = 5_000
"""Of all anonymous callers together."""


@dataclass(slots=True, eq=False)
class Listener:
    """One subscription, at ``/mcp`` (only None) or ``/mcp/{upstream}``."""

    era: ClassVar = Era.MODERN
    id: RequestId
    """The client's id of the request that opened it."""
    key: SessionKey
    """Whose sessions it uses at upstreams of the legacy era."""
    only: str | None
    context: ClientContext
    counted: Owner
    """With whose subscriptions it is counted."""
    subscribed: set[tuple[str, str]] = field(default_factory=set)
    """Resources whose changes it wants to hear of: (upstream, URI)."""
    listed: dict[Kind, int] = field(default_factory=dict)
    """A hash of each list whose changes it wants to hear of, as the client may have it."""
    standing: object = None
    """What the client's permissions came from when its lists were last compared with those."""
    outbox: Outbox = field(default_factory=Outbox)

    def tell(self, method: str, params: Params) -> None:
        """Send a notification, marked as one of this subscription."""
        self.outbox.put(encode_notification(method, self.marked(params)))

    def marked(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content with the subscription's id."""
        return {**content, "_meta": {SUBSCRIPTION_ID: self.id}}


class Listeners:
    """All of them."""

    def __init__(self) -> None:
        self._open: set[Listener] = set()

    def __iter__(self) -> Iterator[Listener]:
        return iter(tuple(self._open))

    def room_for(self, counted: Owner) -> bool:
        """Whether who is so counted may open one more."""
        opened = [listener.counted for listener in self._open]
        if counted[0] == NOBODY and sum(each[0] == NOBODY for each in opened) >= MAX_LISTENERS_ANONYMOUS:
            return False
        return len(opened) < MAX_LISTENERS and opened.count(counted) < MAX_LISTENERS_OF_ONE

    def add(self, listener: Listener) -> None:
        """It hears from now on."""
        self._open.add(listener)

    def remove(self, listener: Listener) -> None:
        """It hears no more."""
        self._open.discard(listener)

    def end(self) -> None:
        """Every subscription comes to its end, in good order."""
        for listener in self:
            listener.outbox.close()
