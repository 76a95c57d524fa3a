"""A modern MCP server over HTTP that tells of one of its two resources, and refuses whatever names the other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

URIS = ("choosy://told", "choosy://untold")


async def mcp(request: web.Request) -> web.StreamResponse:
    message = await request.json()
    match message.get("method"):
        case "server/discover":
            capabilities = {"resources": {"subscribe": True}}
            return _result(message, supportedVersions=["2026-07-28"], capabilities=capabilities)
        case "resources/list":
            return _result(message, resources=[{"uri": uri, "name": uri} for uri in URIS])
        case "subscriptions/listen":
            return await _listen(request, message)
    return _error(message, -32601)


async def _listen(request: web.Request, message: Any) -> web.StreamResponse:
    wanted = message["params"]["notifications"]
    if URIS[1] in wanted["resourceSubscriptions"]:
        return _error(message, -32602)
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    said = {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged"}
    await stream.write(b"data: %b\n\n" % json.dumps({**said, "params": {"notifications": wanted}}).encode())
    await asyncio.Event().wait()
    return stream


def _result(message: Any, **result: Any) -> web.Response:
    fresh = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": {**fresh, **result}})


def _error(message: Any, code: int) -> web.Response:
    error = {"code": code, "message": "no"}
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})


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
