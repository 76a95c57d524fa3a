"""An HTTP service that tells what it was sent."""

from __future__ import annotations

import asyncio

from aiohttp import web


async def mirror(request: web.Request) -> web.StreamResponse:
    if request.path == "/mirror/large" and request.method == "GET":
        return web.Response(body=b"0123456789" * 500_000)
    if request.path == "/mirror/half":
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"only this")
        if request.transport is not None:
            request.transport.close()
        return response
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "headers": list(request.headers.items()),
            "body": body.decode() if len(body) < 1000 else "",
            "length": len(body),
        },
        headers={
            "X-From-Service": "yes",
            "Strict-Transport-Security": "max-age=0",
            "Access-Control-Allow-Origin": "*",
            "Alt-Svc": 'h3=":443"',
        },
    )


async def main() -> None:
    app = web.Application(client_max_size=100_000_000)
    app.router.add_route("*", "/{path:.*}", mirror)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
