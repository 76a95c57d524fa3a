"""An MCP server with one of each, made with the official SDK: ``everything.py http [PORT] [ERA]`` or ``everything.py stdio``.

With an ERA, ``legacy`` or ``modern``, it speaks that one alone; a fourth word is the scheme of its resources.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from pydantic import BaseModel
from starlette.responses import JSONResponse

SCHEME = sys.argv[4] if len(sys.argv) > 4 else "everything"
server = MCPServer("everything", instructions="One of each.", log_level="CRITICAL")
state: dict[str, Any] = {
    "sessions": 0,
    "cancelled": 0,
    "finished": 0,
    "authorization": None,
    "sessions_seen": set(),
}


class Wish(BaseModel):
    """What is asked for in the modern era."""

    wish: str


class Colour(BaseModel):
    """What is asked for in the elicitation."""

    colour: str


@server.tool()
async def echo(text: str, ctx: Context) -> str:
    """Say it again."""
    headers = ctx.headers or {}
    state["authorization"] = headers.get("authorization")
    return text


@server.tool()
async def fail() -> str:
    """Always goes wrong."""
    raise ValueError("as it was meant to")


@server.tool()
async def count(steps: int, seconds: float, ctx: Context) -> str:
    """Takes its time, and says how far it is."""
    try:
        for step in range(steps):
            await ctx.report_progress(step + 1, steps)
            await asyncio.sleep(seconds / steps)
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    state["finished"] += 1
    return f"counted to {steps}"


@server.tool()
async def favourite(ctx: Context) -> str:
    """Asks the user."""
    answer = await ctx.elicit("Which colour?", Colour)
    return f"{answer.action}: {answer.data.colour if answer.action == 'accept' else '-'}"


@server.tool()
async def wish(ctx: Context) -> str | InputRequiredResult:
    """Asks the user, and goes on from where it was: in the modern era alone."""
    answers = ctx.input_responses
    if not answers:
        form = ElicitRequestFormParams(message="Which wish?", requested_schema=Wish.model_json_schema())
        question = ElicitRequest(method="elicitation/create", params=form)
        return InputRequiredResult(input_requests={"wish": question}, request_state="asked once")
    answer = answers["wish"]
    return f"{answer.action}: {answer.content} after {ctx.request_state}"


@server.tool()
async def add_tool(name: str, ctx: Context) -> str:
    """Adds a tool, and says that the list changed."""

    async def added() -> str:
        return "added"

    server.add_tool(added, name=name)
    await ctx.session.send_tool_list_changed()
    await ctx.notify_tools_changed()
    return "done"


@server.tool()
async def touch(uri: str, ctx: Context) -> str:
    """Says that a resource changed."""
    await ctx.notify_resource_updated(uri)
    return "touched"


@server.resource(f"{SCHEME}://static")
def static() -> str:
    """A text that does not change."""
    return "static text"


@server.resource(f"{SCHEME}://secret")
def secret() -> str:
    """A text for some."""
    return "secret text"


@server.resource(f"{SCHEME}://item/{{name}}")
def item(name: str) -> str:
    """One item."""
    return f"item {name}"


@server.prompt()
def greet(name: str) -> str:
    """Greet someone."""
    return f"Say hello to {name}."


@server.custom_route("/state", methods=["GET"])
async def show(_request: Any) -> JSONResponse:
    return JSONResponse({key: value for key, value in state.items() if key != "sessions_seen"})


class _Counter:
    """Counts sessions by the ids that the server gave out, and refuses the era that it is not to speak."""

    def __init__(self, app: Any, era: str | None) -> None:
        self.app = app
        self.era = era

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        version = dict(scope.get("headers", ())).get(b"mcp-protocol-version", b"")
        modern = version == b"2026-07-28"
        if scope.get("path") == "/mcp" and self.era not in (None, "modern" if modern else "legacy"):
            await JSONResponse({"detail": "no such thing"}, status_code=400)(scope, receive, send)
            return

        async def counting(message: Any) -> None:
            for name, value in message.get("headers", ()):
                if name.lower() == b"mcp-session-id" and value not in state["sessions_seen"]:
                    state["sessions_seen"].add(value)
                    state["sessions"] += 1
            await send(message)

        await self.app(scope, receive, counting)


async def serve_http(port: int, era: str | None) -> None:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    app = server.streamable_http_app()
    running = uvicorn.Server(
        uvicorn.Config(_Counter(app, era), log_level="critical", timeout_graceful_shutdown=1)
    )

    @asynccontextmanager
    async def announced() -> AsyncIterator[None]:
        task = asyncio.create_task(running.serve(sockets=[listening]))
        while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
        yield
        await task

    async with announced():
        pass


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        asyncio.run(serve_http(port, sys.argv[3] if len(sys.argv) > 3 else None))
