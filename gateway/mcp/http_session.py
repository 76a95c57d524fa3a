"""One session at an HTTP upstream, and what the heads of its requests say."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from gateway.mcp.eras import Era
from gateway.mcp.exchange import Ticket
from gateway.mcp.http_answer import EVENTS, JSON
from gateway.mcp.log_levels import AskedLevel
from gateway.mcp.messages import RequestId
from gateway.mcp.mirrored import request_headers
from gateway.mcp.upstream import ServerInfo, SessionKey
from gateway.outbound.client import EncodedHeaders, Response, encode_headers

MAX_PINGS: Final = 8
"""How many pings of a session may wait for their answers, which are sent one after another."""
POST_FIELDS: Final = (("Content-Type", JSON), ("Accept", f"{JSON}, {EVENTS}"))
"""Of every request."""


class HttpSession:
    """One session at the server. ``id`` None: the server keeps no sessions."""

    __slots__ = (
        "fields",
        "id",
        "in_flight",
        "info",
        "key",
        "last_used",
        "log_level",
        "modern",
        "pings",
        "pong",
        "post_headers",
        "stream",
    )

    def __init__(self, key: SessionKey, session_id: str | None, info: ServerInfo, now: float) -> None:
        self.key = key
        self.id = session_id
        self.info = info
        self.last_used = now
        self.log_level = AskedLevel()
        self.in_flight: dict[int, Ticket] = {}
        self.pings: deque[RequestId] = deque(maxlen=MAX_PINGS)
        """Those of the server's that are still to be answered."""
        self.pong: asyncio.Task[None] | None = None
        """What answers them, while there are any."""
        self.stream: Response | None = None
        """Its GET stream, while there is one."""
        self.modern = info.era is Era.MODERN
        """Whether it is none at all, but what all requests of the modern era have in common."""
        self.fields = [("MCP-Protocol-Version", info.protocol_version)]
        if session_id is not None:
            self.fields.append(("Mcp-Session-Id", session_id))
        self.post_headers = encode_headers([*POST_FIELDS, *self.fields])

    def headers_for(self, ticket: Ticket) -> EncodedHeaders:
        """The head of that request."""
        if not self.modern:
            more = ticket.fields
            return encode_headers([*POST_FIELDS, *self.fields, *more]) if more else self.post_headers
        standard = request_headers(self.info.protocol_version, ticket.method, ticket.params)
        return encode_headers([*POST_FIELDS, *standard, *ticket.fields])

    def get_headers(self, last_id: str | None) -> list[tuple[str, str]]:
        """The fields of a GET, which takes up a stream again where ``last_id`` is known."""
        fields = [("Accept", EVENTS), *self.fields]
        return fields if last_id is None else [*fields, ("Last-Event-ID", last_id)]
