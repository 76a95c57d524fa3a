"""How an HTTP upstream is met: what it says of itself, in either era, and how a session is opened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.mcp.exchange import (
    DISCOVER,
    INITIALIZED,
    PROBE_SECONDS,
    discover_request,
    discovered,
    initialize_request,
    invalid,
    server_info,
    unavailable,
)
from gateway.mcp.http_answer import Answer
from gateway.mcp.http_error import MAX_REFUSAL, refusal, refused
from gateway.mcp.http_session import POST_FIELDS, HttpSession
from gateway.mcp.messages import MODERN_VERSIONS, Reply
from gateway.mcp.mirrored import request_headers
from gateway.mcp.upstream import GATEWAY, MODERN_GATEWAY, ServerInfo, SessionKey, UpstreamError
from gateway.model import Reason
from gateway.outbound.client import EncodedHeaders, OutboundError, Response, ResponseError, encode_headers

_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,1024}")
_FIRST_HEADERS: Final = encode_headers(POST_FIELDS)
_DISCOVER_HEADERS: Final = encode_headers([*POST_FIELDS, *request_headers(MODERN_VERSIONS[0], DISCOVER, {})])

Post = Callable[[SessionKey, EncodedHeaders, bytes], Awaitable[Response]]
"""Sends a message for that key. Raises OutboundError."""


class Handshake:
    """That with one server."""

    def __init__(self, name: str, post: Post, next_id: Callable[[], int]) -> None:
        """``name``: the upstream's."""
        self._name = name
        self._post = post
        self._next_id = next_id

    async def discover(self) -> ServerInfo | None:
        """What the server says of itself in the modern era; None: it does not speak it. Raises UpstreamError."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                response = await self._post(GATEWAY, _DISCOVER_HEADERS, discover_request(self._next_id()))
                if response.status != 200:
                    await response.read(MAX_REFUSAL)
                    return None
                message = await self._reply_in(response)
        except (TimeoutError, ResponseError):
            return None
        except OutboundError:
            raise unavailable(self._name, "cannot be reached") from None
        except UpstreamError as error:
            if error.reason is Reason.UPSTREAM_INVALID:
                return None
            raise
        return None if message is None else discovered(message)

    async def greet(self) -> HttpSession:
        """What all requests of the modern era have in common. Raises UpstreamError."""
        info = await self.discover()
        if info is None:
            raise invalid(self._name, "no longer speaks the modern revision of MCP")
        return HttpSession(MODERN_GATEWAY, None, info, asyncio.get_running_loop().time())

    async def initialize(self, key: SessionKey) -> HttpSession:
        """A session of the legacy era. Raises OutboundError and UpstreamError."""
        request_id = self._next_id()
        response = await self._post(key, _FIRST_HEADERS, initialize_request(request_id, key))
        if response.status != 200:
            if (await refused(response)).error is not None:
                raise invalid(self._name, "refused to open a session")
            raise refusal(self._name, response.status)
        message = await self._reply_in(response)
        if message is None or message.id != request_id:
            raise invalid(self._name, "did not answer initialize")
        session_id = response.headers.get("mcp-session-id")
        if session_id is not None and not _SESSION_ID.fullmatch(session_id):
            raise invalid(self._name, "gave a session id that is none")
        info = server_info(self._name, message)
        session = HttpSession(key, session_id, info, asyncio.get_running_loop().time())
        (await self._post(key, session.post_headers, INITIALIZED)).drain()
        return session

    async def _reply_in(self, response: Response) -> Reply | None:
        """The reply in an answer, whatever comes before it; None: there is none. Raises UpstreamError."""
        try:
            answer = Answer(self._name, response)
            message = await answer.next()
            while message is not None and not isinstance(message, Reply):
                message = await answer.next()
            return message
        finally:
            response.drain()
