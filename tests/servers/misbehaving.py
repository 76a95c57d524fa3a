"""An MCP server over HTTP whose tools each go wrong in their own way; the handshake and the list are in order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

TOOLS = ("hang", "rubbish", "wrong_id", "die", "half", "html", "latin", "no_error")


async def mcp(request: web.Request) -> web.StreamResponse:
    if request.method != "POST":
        return web.Response(status=405)
    message = await request.json()
    match message.get("method"):
        case "initialize":
            capabilities = {"tools": {}}
            server = {"name": "misbehaving", "version": "1"}
            return _result(
                message, protocolVersion="2025-06-18", capabilities=capabilities, serverInfo=server
            )
        case "tools/list":
            return _result(
                message, tools=[{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            )
        case "tools/call":
            return await _misbehave(request, message)
        case _:
            return web.Response(status=202)


async def _misbehave(request: web.Request, message: Any) -> web.StreamResponse:
    match message["params"]["name"]:
        case "hang":
            await asyncio.sleep(60)
        case "rubbish":
            return web.Response(text="{{{", content_type="application/json")
        case "wrong_id":
            return _result({"id": 999_999}, content=[])
        case "die":
            if request.transport is not None:
                request.transport.abort()
        case "half":
            response = web.StreamResponse(
                headers={"Content-Type": "application/json", "Content-Length": "500"}
            )
            await response.prepare(request)
            await response.write(b'{"jsonrpc"')
            if request.transport is not None:
                request.transport.close()
            return response
        case "latin":
            text = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}'
            return web.Response(body=text % message["id"], content_type="application/json")
        case "no_error":
            text = b'{"jsonrpc":"2.0","id":%d,"error":5}'
            return web.Response(body=text % message["id"], content_type="application/json")
        case "html":
            return web.Response(text="<h1>It works!</h1>", content_type="text/html")
    return web.Response(status=500)


def _result(message: Any, **result: Any) -> web.Response:
    return web.Response(
        text=json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}),
        content_type="application/json",
    )


async def main() -> None:
    app = web.Application()
    app.router.add_route("*", "/mcp", mcp)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}/mcp", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
