"""The conformance upstream: an MCP server by hand, over streamable HTTP, in both eras.

``server.py [--era legacy|modern|both] [--port PORT]`` prints ``listening on URL``. Legacy is 2025-11-25 (a handshake,
sessions, a GET stream); modern is 2026-07-28 (no sessions; every request says who asks and what it can do).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent))
from calls import INVALID_PARAMS, JSON, MISSING_CAPABILITY, InputRequiredError, RpcError, Seal
from documents import RESOURCES, TEMPLATES, prompt, prompts, read
from eras import META, Answer, LegacyCall, ModernCall, Session, event
from tools import MARKED, MIRRORED, TOOLS, listed

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26")
INFO = {"name": "conformance-upstream", "version": "1.0.0"}
METHOD_NOT_FOUND = -32601
RESOURCE_NOT_FOUND = -32002
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022
LOCAL = {"localhost", "127.0.0.1", "::1"}
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
FILTERS = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
}


class Server:
    """The HTTP endpoint."""

    def __init__(self, era: str) -> None:
        self.seal = Seal()
        self.extra: set[str] = set()
        self._era = era
        self._sessions: dict[str, Session] = {}
        self._listeners: dict[asyncio.Queue[JSON], JSON] = {}
        """The open ``subscriptions/listen`` streams, and what each asked for."""

    async def announce(self, method: str, params: JSON | None) -> None:
        message = {"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})}
        uri = (params or {}).get("uri")
        for session in self._sessions.values():
            if session.listening and (uri is None or uri in session.subscribed):
                session.unsolicited.put_nowait(message)
        for queue, wanted in self._listeners.items():
            if wanted.get(FILTERS.get(method, "")) or uri in wanted.get("resourceSubscriptions", ()):
                queue.put_nowait(message)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        hosts = [f"//{request.headers.get('Host', '')}", *([origin] if origin else [])]
        if any(urlsplit(host).hostname not in LOCAL for host in hosts):
            return web.json_response({"error": "not a local name"}, status=403)
        if request.method == "GET":
            return await self._get(request)
        if request.method == "DELETE":
            gone = self._sessions.pop(request.headers.get("Mcp-Session-Id", ""), None)
            return web.Response(status=204 if gone else 404)
        if request.method != "POST":
            return web.Response(status=405)
        try:
            message = json.loads(await request.read())
        except ValueError:
            return _error(None, -32700, "Parse error", 400)
        if not isinstance(message, dict):
            return _error(None, -32600, "Invalid request", 400)
        version = request.headers.get("MCP-Protocol-Version")
        known = version is None or version in LEGACY
        if self._era != "modern" and (
            known or (message.get("method") == "initialize" and self._era == "legacy")
        ):
            return await self._legacy(request, message)
        if self._era == "legacy":
            return _error(message.get("id"), -32600, "Unsupported protocol version", 400)
        return await self._modern(request, message, version)

    # -- the legacy era -----------------------------------------------------------------------------------------------

    async def _legacy(self, request: web.Request, message: JSON) -> web.StreamResponse:
        if message.get("method") == "initialize":
            return self._initialize(message)
        session = self._sessions.get(request.headers.get("Mcp-Session-Id", ""))
        if session is None:
            return _error(message.get("id"), -32001, "Session not found", 404)
        if "method" not in message:
            future = session.asked.pop(str(message.get("id")), None)
            if future is not None and not future.done():
                future.set_result(message)
            return web.Response(status=202)
        if "id" not in message:
            return web.Response(status=202)
        answer = Answer(request, message["id"])
        params = message.get("params") or {}
        if message["method"] == "tools/call" and params.get("name") == "test_reconnection":
            return await self._cut(session, answer, message["id"])
        try:
            return await answer.reply(
                {"result": await self._legacy_result(session, answer, message["method"], params)}
            )
        except RpcError as error:
            return await answer.reply({"error": _body(error)})

    def _initialize(self, message: JSON) -> web.StreamResponse:
        params = message.get("params") or {}
        asked = params.get("protocolVersion")
        session = Session(secrets.token_hex(16), params.get("capabilities") or {})
        self._sessions[session.id] = session
        result = {
            "protocolVersion": asked if asked in LEGACY else LEGACY[0],
            "capabilities": _capabilities(),
            "serverInfo": INFO,
        }
        body = {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
        return web.json_response(body, headers={"Mcp-Session-Id": session.id})

    async def _legacy_result(self, session: Session, answer: Answer, method: str, params: JSON) -> JSON:
        match method:
            case "ping":
                return {}
            case "logging/setLevel":
                session.level = params.get("level", "debug")
                return {}
            case "resources/subscribe":
                session.subscribed.add(params["uri"])
                return {}
            case "resources/unsubscribe":
                session.subscribed.discard(params["uri"])
                return {}
            case "resources/read":
                return _read(params, RESOURCE_NOT_FOUND)
            case "tools/call":
                call = LegacyCall(self, session, answer, params)
                offered = TOOLS.get(call.name)
                if offered is None or not offered.legacy:
                    raise RpcError(INVALID_PARAMS, f"Unknown tool: {call.name}")
                return await offered.run(call)
            case "prompts/get":
                return await prompt(LegacyCall(self, session, answer, params))
        return self._common(method, modern=False)

    async def _cut(self, session: Session, answer: Answer, request_id: Any) -> web.StreamResponse:
        """End the stream before the reply, which a GET with the event's id gets (2025-11-25, "Resumability")."""
        event_id = secrets.token_hex(4)
        future: asyncio.Future[JSON] = asyncio.get_running_loop().create_future()
        session.unfinished[event_id] = future
        stream = await answer.stream()
        await stream.write(f"id: {event_id}\nretry: 200\ndata: \n\n".encode())
        done = {"content": [{"type": "text", "text": "The stream was taken up again."}]}
        reply = {"jsonrpc": "2.0", "id": request_id, "result": done}
        asyncio.get_running_loop().call_later(0.3, future.set_result, reply)
        return stream

    async def _get(self, request: web.Request) -> web.StreamResponse:
        session = self._sessions.get(request.headers.get("Mcp-Session-Id", ""))
        if self._era == "modern":
            return web.Response(status=405)
        if session is None:
            return web.Response(status=404)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        unfinished = session.unfinished.pop(request.headers.get("Last-Event-ID", ""), None)
        await stream.prepare(request)
        if unfinished is not None:
            await stream.write(event(await unfinished, secrets.token_hex(4)))
            return stream
        session.listening = True
        await stream.write(b": open\n\n")
        while True:
            await stream.write(event(await session.unsolicited.get()))

    # -- the modern era -----------------------------------------------------------------------------------------------

    async def _modern(self, request: web.Request, message: JSON, version: str | None) -> web.StreamResponse:
        request_id, method = message.get("id"), message.get("method")
        if request_id is None:
            return web.Response(status=202)
        params = message.get("params") or {}
        refusal = _refusal(request, method, params, version)
        answer = Answer(request, request_id)
        if refusal is not None:
            return await answer.reply({"error": _body(refusal)}, 400)
        if method == "subscriptions/listen":
            return await self._listen(answer, request_id, params)
        try:
            result = await self._modern_result(answer, str(method), params)
        except InputRequiredError as needed:
            state = {"requestState": needed.state} if needed.state is not None else {}
            result = {"resultType": "input_required", "inputRequests": needed.requests, **state}
        except RpcError as error:
            status = {METHOD_NOT_FOUND: 404, MISSING_CAPABILITY: 400}.get(error.code, 200)
            return await answer.reply({"error": _body(error)}, status)
        return await answer.reply({"result": {"_meta": {META + "serverInfo": INFO}, **result}})

    async def _modern_result(self, answer: Answer, method: str, params: JSON) -> JSON:
        complete = {"resultType": "complete"}
        cached = {**complete, "ttlMs": 0, "cacheScope": "public"}
        match method:
            case "server/discover":
                versions = [MODERN] if self._era == "modern" else [MODERN, *LEGACY]
                return {**cached, "supportedVersions": versions, "capabilities": _capabilities()}
            case "resources/read":
                return {**cached, **_read(params, INVALID_PARAMS)}
            case "tools/call":
                call = ModernCall(self, answer, params)
                offered = TOOLS.get(call.name)
                if offered is None or not offered.modern:
                    raise RpcError(INVALID_PARAMS, f"Unknown tool: {call.name}")
                return {**complete, **await offered.run(call)}
            case "prompts/get":
                return {**complete, **await prompt(ModernCall(self, answer, params))}
        found = self._common(method, modern=True)
        return {**(complete if method == "completion/complete" else cached), **found}

    async def _listen(self, answer: Answer, request_id: Any, params: JSON) -> web.StreamResponse:
        wanted = params.get("notifications") or {}
        tag = {"_meta": {META + "subscriptionId": request_id}}
        method = "notifications/subscriptions/acknowledged"
        queue: asyncio.Queue[JSON] = asyncio.Queue()
        self._listeners[queue] = wanted
        try:
            await answer.send(
                {"jsonrpc": "2.0", "method": method, "params": {**tag, "notifications": wanted}}
            )
            while True:
                message = await queue.get()
                await answer.send({**message, "params": {**message.get("params", {}), **tag}})
        finally:
            del self._listeners[queue]

    def _common(self, method: str, *, modern: bool) -> JSON:
        match method:
            case "tools/list":
                return {"tools": listed(self.extra, modern=modern)}
            case "prompts/list":
                return {"prompts": prompts(self.extra, modern=modern)}
            case "resources/list":
                return {"resources": RESOURCES}
            case "resources/templates/list":
                return {"resourceTemplates": TEMPLATES}
            case "completion/complete":
                return {"completion": {"values": ["test-1", "test-2"], "total": 2, "hasMore": False}}
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")


def _capabilities() -> JSON:
    return {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"subscribe": True},
        "completions": {},
        "logging": {},
    }


def _refusal(request: web.Request, method: Any, params: JSON, version: str | None) -> RpcError | None:
    """What is wrong with a modern request, before anything is done for it."""
    meta = params.get("_meta")
    meta = meta if isinstance(meta, dict) else {}
    required = (META + "protocolVersion", META + "clientCapabilities")
    missing = [key for key in required if key not in meta]
    if missing:
        return RpcError(INVALID_PARAMS, f"Missing in _meta: {', '.join(missing)}")
    if version != meta[META + "protocolVersion"]:
        return RpcError(HEADER_MISMATCH, "MCP-Protocol-Version and _meta disagree.")
    if version != MODERN:
        data = {"supported": [MODERN], "requested": version}
        return RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", data)
    if request.headers.get("Mcp-Method") != method:
        return RpcError(HEADER_MISMATCH, "Mcp-Method and the method disagree.")
    if method in NAMED and _plain(request.headers.get("Mcp-Name")) != params.get(NAMED[method]):
        return RpcError(HEADER_MISMATCH, "Mcp-Name and the name disagree.")
    if method == "tools/call" and params.get("name") == MIRRORED:
        arguments = params.get("arguments", {})
        for argument, header in MARKED.items():
            said = _plain(request.headers.get(f"Mcp-Param-{header}"))
            if said != _as_header(arguments.get(argument)):
                return RpcError(HEADER_MISMATCH, f"Mcp-Param-{header} and {argument} disagree.")
    return None


def _as_header(value: Any) -> str | None:
    """An argument as a header says it."""
    return value if isinstance(value, str | None) else json.dumps(value)


def _plain(value: str | None) -> str | None:
    """A header value; what no header can carry comes as ``=?base64?…?=``."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except ValueError:
        return None


def _read(params: JSON, code: int) -> JSON:
    uri = params.get("uri")
    contents = read(str(uri))
    if contents is None:
        raise RpcError(code, "Resource not found", {"uri": uri})
    return {"contents": [contents]}


def _body(error: RpcError) -> JSON:
    data = {"data": error.data} if error.data is not None else {}
    return {"code": error.code, "message": error.message, **data}


def _error(request_id: Any, code: int, message: str, status: int) -> web.Response:
    body = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
    return web.json_response(body, status=status)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--era", choices=("legacy", "modern", "both"), default="both")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    app = web.Application()
    app.router.add_route("*", "/mcp", Server(options.era).handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}/mcp", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
