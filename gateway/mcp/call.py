"""One message of a client, with all that is known of its sender."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from aiohttp import hdrs, web

from gateway.edge import GatewayRequest
from gateway.mcp.sessions import Session, owner_of
from gateway.mcp.upstream import SessionKey
from gateway.model import ClientContext, Inbound
from gateway.reply import JsonReply


@dataclass(frozen=True, slots=True)
class Call:
    """A message, as the endpoint received it at ``/mcp`` (scope None) or ``/mcp/{upstream}``."""

    http: GatewayRequest
    inbound: Inbound
    context: ClientContext
    scope: str | None
    session: Session | None

    @property
    def key(self) -> SessionKey:
        """Whose upstream sessions it uses."""
        return self.session.key if self.session is not None else _key_of(*owner_of(self.context))

    @property
    def accepts_stream(self) -> bool:
        """Whether the answer may be a stream of events (RFC 9110 section 12.5.1)."""
        return "text/event-stream" in self.http.headers.get(hdrs.ACCEPT, "")


@lru_cache(maxsize=1024)
def _key_of(tenant_id: str | None, client_id: str | None) -> SessionKey:
    """For callers that keep no session."""
    return SessionKey((tenant_id, client_id))


def json_response(body: bytes, status: int = 200) -> web.Response:
    """A JSON-RPC message as the whole answer."""
    return JsonReply(body, status)
