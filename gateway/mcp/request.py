"""One request of a client, with all that is known of its sender, and the forms that its answer has."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from aiohttp import hdrs, web

from gateway.edge.handler import GatewayRequest
from gateway.edge.reply import JsonReply
from gateway.mcp.eras import MODERN, Dialect, Era, own_result
from gateway.mcp.messages import Request, encode_error, encode_result
from gateway.mcp.negotiation import Metadata
from gateway.mcp.sessions import Owner, Session, canonical, counted_as, owner_of
from gateway.mcp.upstream import SessionKey
from gateway.model import ClientContext, Inbound


class RequestContext(msgspec.Struct, frozen=True, eq=False):
    """A request, as the endpoint received it at ``/mcp`` (only None) or ``/mcp/{upstream}``."""

    http: GatewayRequest
    inbound: Inbound
    client: ClientContext
    only: str | None
    message: Request
    dialect: Dialect
    session: Session | None = None
    """In the legacy era, where the client opened one."""
    metadata: Metadata | None = None
    """In the modern era."""
    size: int = 0
    """Bytes of the message."""

    @property
    def modern(self) -> bool:
        """Whether it is in the modern era."""
        return self.dialect is MODERN

    @property
    def era(self) -> Era:
        """In which it is."""
        return self.dialect.era

    @property
    def key(self) -> SessionKey:
        """Whose upstream sessions it uses."""
        if self.session is not None:
            return self.session.key
        if self.metadata is not None and self.metadata.capabilities and not self.client.anonymous:
            return SessionKey(owner_of(self.client), canonical(self.metadata.capabilities))
        return _key_of(*owner_of(self.client))

    @property
    def counted(self) -> Owner:
        """With whom the caller is counted where there is a limit for each."""
        return counted_as(self.client, self.inbound.address)

    def key_for(self, era: Era) -> SessionKey:
        """The same, at an upstream that is asked in that era."""
        if era is Era.LEGACY:
            return self.key
        return _key_of(*owner_of(self.client), era)

    @property
    def accepts_stream(self) -> bool:
        """Whether the answer may be a stream of events (RFC 9110 section 12.5.1)."""
        return "text/event-stream" in self.http.headers.get(hdrs.ACCEPT, "")

    def result(self, result: dict[str, Any]) -> web.Response:
        """A result of the gateway's own."""
        return JsonReply(encode_result(self.message.id, own_result(result) if self.modern else result))

    def error(self, code: int, message: str, data: dict[str, Any] | None = None) -> web.Response:
        """An error of the gateway's own, with the HTTP status that the era gives it."""
        body = encode_error(self.message.id, code, message, data)
        return JsonReply(body, self.dialect.statuses.get(code, 200))


@lru_cache(maxsize=1024)
def _key_of(tenant_id: str | None, client_id: str | None, era: Era = Era.LEGACY) -> SessionKey:
    """For callers that keep no session, and can do nothing but ask."""
    return SessionKey((tenant_id, client_id), era=era)
