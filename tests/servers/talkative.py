"""An MCP server over HTTP (legacy) that logs at every level, whatever it is asked for, and never says that it was asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

LEVELS = ("debug", "info", "error")
asked: list[str] = []


async def mcp(request: web.Request) -> web.StreamResponse:
    if request.method != "POST":
        return web.Response(status=405)
    message = await request.json()
    match message.get("method"):
        case "initialize":
            capabilities: dict[str, Any] = {"tools": {}, "logging": {}}
            server = {"name": "talkative", "version": "1"}
            return web.json_response(
                _result(message, protocolVersion="2025-11-25", capabilities=capabilities, serverInfo=server)
            )
        case "tools/list":
            tools = [{"name": "talk", "inputSchema": {"type": "object"}}]
            return web.json_response(_result(message, tools=tools))
        case "logging/setLevel":
            asked.append(message["params"]["level"])
            await asyncio.Event().wait()
        case "tools/call":
            return await _talk(request, message)
        case "server/discover":
            return web.Response(status=400)
    return web.Response(status=202)


async def _talk(request: web.Request, message: Any) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    for level in LEVELS:
        params = {"level": level, "data": level}
        said = {"jsonrpc": "2.0", "method": "notifications/message", "params": params}
        await stream.write(b"data: %b\n\n" % json.dumps(said).encode())
    result = _result(message, content=[{"type": "text", "text": " ".join(asked)}])
    await stream.write(b"data: %b\n\n" % json.dumps(result).encode())
    return stream


def _result(message: Any, **result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


async def main() -> None:
    app = web.Application()
    app.router.add_route("*", "/mcp", mcp)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}/mcp", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
