"""What the gateway answers itself: who it is, what there is, and a few words of the legacy era."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from gateway.edge.reply import JsonReply
from gateway.mcp.catalogue import LISTINGS, Catalogue, has_something_for
from gateway.mcp.eras import IDENTITY, LEVELS, NOT_KEPT, Era
from gateway.mcp.forwarding import Forwarder
from gateway.mcp.lists import Lists
from gateway.mcp.messages import INVALID_PARAMS, LEGACY_VERSIONS, MODERN_VERSIONS, encode
from gateway.mcp.request import RequestContext
from gateway.mcp.sessions import Sessions
from gateway.mcp.tasks import task_capabilities
from gateway.mcp.upstream import UpstreamError

_LISTS: Final = {listing.method: kind for kind, listing in LISTINGS.items()}


class OwnAnswers:
    """Answers by method."""

    def __init__(self, catalogue: Catalogue, sessions: Sessions, lists: Lists, forwarder: Forwarder) -> None:
        self._catalogue = catalogue
        self._sessions = sessions
        self._lists = lists
        self._forwarder = forwarder
        self.by_method: dict[str, Callable[[RequestContext], Awaitable[web.StreamResponse]]] = {
            "server/discover": self._discover,
            "initialize": self._initialize,
            "ping": self._ping,
            "logging/setLevel": self._set_level,
            **dict.fromkeys(_LISTS, self._list),
        }

    async def _discover(self, request: RequestContext) -> web.StreamResponse:
        return request.result(
            {
                "supportedVersions": [*MODERN_VERSIONS, *LEGACY_VERSIONS],
                **await self._description(request, Era.MODERN),
                **NOT_KEPT,
            }
        )

    async def _initialize(self, request: RequestContext) -> web.StreamResponse:
        params = request.message.params
        asked = params.get("protocolVersion")
        version = asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[0]
        description = await self._description(request, Era.LEGACY)
        session = self._sessions.open(
            request.client, request.only, str(version), params.get("capabilities"), request.inbound.address
        )
        response = request.result({"protocolVersion": version, "serverInfo": IDENTITY, **description})
        response.headers["Mcp-Session-Id"] = session.id
        return response

    async def _description(self, request: RequestContext, era: Era) -> dict[str, Any]:
        """What the caller can have at that place, in that era, and how to use it.

        Of an upstream of which it may have nothing, it is told nothing: instructions speak of what is hidden.
        """
        only = request.only
        await self._catalogue.refresh(only)
        offers = [offer for offer in self._catalogue.offers(only) if has_something_for(request.client, offer)]
        capabilities = _capabilities([offer.info.capabilities for offer in offers])
        same_era = [offer.info.capabilities for offer in offers if offer.info.era is era]
        said: dict[str, Any] = {"capabilities": {**capabilities, **task_capabilities(era, same_era)}}
        if only is not None and offers and offers[0].info.instructions:
            said["instructions"] = offers[0].info.instructions
        return said

    async def _ping(self, request: RequestContext) -> web.StreamResponse:
        return request.result({})

    async def _list(self, request: RequestContext) -> web.StreamResponse:
        await self._catalogue.refresh(request.only)
        kind = _LISTS[request.message.method]
        cursor = request.message.params.get("cursor")
        result = self._lists.page(kind, request.only, request.client, request.era, cursor)
        if result is None:
            return request.error(INVALID_PARAMS, "Unknown cursor, or the list has changed: begin anew.")
        if request.session is not None:
            whole = self._lists.visible(kind, request.only, request.client, request.era)
            request.session.listed[kind] = hash(whole)
        return JsonReply(b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (encode(request.message.id), result))

    async def _set_level(self, request: RequestContext) -> web.StreamResponse:
        level, session = request.message.params.get("level"), request.session
        if level not in LEVELS:
            return request.error(INVALID_PARAMS, f"level must be one of {', '.join(LEVELS)}.")
        if session is not None:
            session.log_level = str(level)
            for name in tuple(session.used):
                with contextlib.suppress(UpstreamError):  # the next call of it says what is wrong
                    await self._forwarder.tell_level(session.key, name, session.log_level)
        return request.result({})


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
