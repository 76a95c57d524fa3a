"""An MCP server over HTTP (legacy) that can be slow, large or broken, and counts what it is asked."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from aiohttp import web

TOOLS = ["slow", "large", "broken", "counted", "add"]
asked: Counter[str] = Counter()


async def mcp(request: web.Request) -> web.StreamResponse:
    if request.method != "POST":
        return web.Response(status=405)
    message = await request.json()
    asked[message.get("method", "")] += 1
    match message.get("method"):
        case "initialize":
            server = {"name": "burdensome", "version": "1"}
            return _result(
                message, protocolVersion="2025-11-25", capabilities={"tools": {}}, serverInfo=server
            )
        case "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            return _result(message, tools=tools)
        case "tools/call":
            params = message["params"]
            return await _called(request, message, params["name"], params.get("arguments", {}))
        case "ping":
            return _result(message)
        case "server/discover":
            return web.Response(status=400)
    return web.Response(status=202)


async def _called(request: web.Request, message: Any, name: str, arguments: Any) -> web.StreamResponse:
    text = "done"
    match name:
        case "slow":
            await asyncio.sleep(arguments["seconds"])
        case "large":
            text = "x" * arguments["size"]
        case "broken":
            return web.Response(status=500)
        case "counted":
            text = str(asked[arguments["method"]])
        case "add":
            TOOLS.append(arguments["name"])
            changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            await stream.write(b"data: %b\n\n" % json.dumps(changed).encode())
            await asyncio.Event().wait()
    return _result(message, content=[{"type": "text", "text": text}])


def _result(message: Any, **result: Any) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})


async def main() -> None:
    app = web.Application()
    app.router.add_route("*", "/mcp", mcp)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}/mcp", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
