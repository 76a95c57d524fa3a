"""An MCP server (2025-11-25; with ``--modern`` 2026-07-28 alone) that lets in who has the right credential, its token endpoint, and what it has seen.

With ``--talkative`` it has a prompt, a resource, a template and instructions, too.

``guarded.py [CERTIFICATE KEY CLIENT_CA]``: over TLS, for those with a certificate of that CA, where they are given.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from aiohttp import BasicAuth, web

TALKATIVE = "--talkative" in sys.argv
seen: dict[str, Any] = {"headers": [], "tokens": 0, "forms": [], "peers": []}
streams: list[web.StreamResponse] = []
wanted: dict[str, Any] = {"token": None}
described: dict[str, Any] = {"text": "Says it again.", "stream": "--stream" in sys.argv}


async def mcp(request: web.Request) -> web.StreamResponse:
    seen["headers"].append({name.lower(): value for name, value in request.headers.items()})
    certificate = request.get_extra_info("peercert")
    if certificate:
        seen["peers"].append(certificate["subject"][-1][-1][1])
    if request.method == "GET" and described["stream"]:
        return await _stream(request)
    if request.method != "POST":
        return web.Response(status=405)
    if described["text"] == "down":
        return web.Response(status=503)
    if wanted["token"] is not None and request.headers.get("Authorization") != f"Bearer {wanted['token']}":
        return web.Response(status=401)
    message = await request.json()
    modern = "--modern" in sys.argv
    if modern != (request.headers.get("MCP-Protocol-Version") == "2026-07-28"):
        return web.Response(status=400)
    if modern:
        return _modern(message)
    match message.get("method"):
        case "initialize":
            server = {"name": "guarded", "version": "1"}
            more = {"prompts": {}, "resources": {}, "completions": {}} if TALKATIVE else {}
            said = {"instructions": described["text"]} if TALKATIVE else {}
            return _result(
                message,
                protocolVersion="2025-11-25",
                capabilities={"tools": {"listChanged": True}, **more},
                serverInfo=server,
                **said,
            )
        case "tools/list":
            text = described["text"]
            if text == "gone":
                return _result(message, tools=[])
            return _result(
                message, tools=[{"name": "echo", "description": text, "inputSchema": {"type": "object"}}]
            )
        case "tools/call":
            return _result(message, content=[{"type": "text", "text": "let in"}])
        case _:
            return _more(message)


def _more(message: Any) -> web.Response:
    match message.get("method"):
        case "prompts/list":
            return _result(message, prompts=[{"name": "echo", "description": described["text"]}])
        case "resources/list":
            return _result(message, resources=[{"uri": "g://one", "name": described["text"]}])
        case "resources/templates/list":
            listed = {"uriTemplate": "g://{id}", "name": "any", "description": described["text"]}
            return _result(message, resourceTemplates=[listed])
        case "prompts/get":
            return _result(message, messages=[])
        case "resources/read":
            return _result(message, contents=[{"uri": message["params"]["uri"], "text": "read"}])
        case _:
            return web.Response(status=202)


def _modern(message: Any) -> web.Response:
    fresh = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"}
    match message.get("method"):
        case "server/discover":
            return _result(message, **fresh, supportedVersions=["2026-07-28"], capabilities={"tools": {}})
        case "tools/list":
            return _result(message, **fresh, tools=[{"name": "echo", "inputSchema": {"type": "object"}}])
        case _:
            return _result(message, resultType="complete", content=[{"type": "text", "text": "let in"}])


async def _stream(request: web.Request) -> web.StreamResponse:
    """Says so when the list changes."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    streams.append(response)
    text = described["text"]
    while True:
        await response.write(b": here\n\n")
        await asyncio.sleep(0.05)
        if described["text"] != text:
            text = described["text"]
            changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
            await response.write(f"data: {json.dumps(changed)}\n\n".encode())


async def describe(request: web.Request) -> web.Response:
    """From now on the tool is described so."""
    described["text"] = await request.text()
    return web.Response()


async def say(request: web.Request) -> web.Response:
    """Says so on every stream that is open; how many were."""
    message = await request.read()
    heard = 0
    for stream in streams:
        try:
            await stream.write(b"data: %b\n\n" % message)
        except ConnectionError:
            continue
        heard += 1
    return web.Response(text=str(heard))


async def token(request: web.Request) -> web.Response:
    who = BasicAuth.decode(request.headers["Authorization"])
    seen["forms"].append(
        {**{k: str(v) for k, v in (await request.post()).items()}, "who": f"{who.login} {who.password}"}
    )
    seen["tokens"] += 1
    wanted["token"] = f"token-{seen['tokens']}"
    return web.json_response({"access_token": wanted["token"], "token_type": "Bearer", "expires_in": 3600})


async def forget(_request: web.Request) -> web.Response:
    """From now on the token that was given out is worth nothing."""
    wanted["token"] = "another"
    return web.Response()


async def state(_request: web.Request) -> web.Response:
    return web.json_response(seen)


def _result(message: Any, **result: Any) -> web.Response:
    return web.Response(
        text=json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}),
        content_type="application/json",
    )


async def main() -> None:
    app = web.Application()
    app.router.add_route("*", "/mcp", mcp)
    app.add_routes(
        [
            web.post("/token", token),
            web.post("/forget", forget),
            web.post("/describe", describe),
            web.post("/say", say),
            web.get("/state", state),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = None
    if len(sys.argv) == 4:
        certificate, key, client_ca = sys.argv[1:]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    scheme = "https" if context else "http"
    print(f"listening on {scheme}://localhost:{runner.addresses[0][1]}/mcp", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
