"""How often the MCP server was used: what `/stats` shows, so that one can see how a gateway uses it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION_ID: Final = b"mcp-session-id"


@dataclass(slots=True)
class Counters:
    """Since the start: sessions opened and deleted (by DELETE), tool calls begun, `slow_count` calls cancelled."""

    sessions_opened: int = 0
    deleted: int = 0
    calls: int = 0
    cancelled: int = 0

    async def count_call(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """MCP middleware, so that calls are counted whatever the transport."""
        if ctx.method == "tools/call":
            self.calls += 1
        return await call_next(ctx)

    async def show(self, _: Request) -> JSONResponse:
        """The answer to `GET /stats`."""
        return JSONResponse(asdict(self))


class SessionCounter:
    """ASGI middleware: a session begins where a request without one is answered with one, and ends with DELETE."""

    def __init__(self, application: ASGIApp, counters: Counters) -> None:
        self._application = application
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on unchanged."""
        if scope["type"] != "http":
            return await self._application(scope, receive, send)
        had_session = any(name == SESSION_ID for name, _ in scope["headers"])

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                has_session = any(name.lower() == SESSION_ID for name, _ in message.get("headers", ()))
                self._counters.sessions_opened += has_session and not had_session
                self._counters.deleted += had_session and scope["method"] == "DELETE"
            await send(message)

        return await self._application(scope, receive, watch)
