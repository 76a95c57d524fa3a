"""How a call goes back to its client, in either era; and what a legacy session keeps."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any, Protocol

from aiohttp import web
from calls import INVALID_PARAMS, JSON, MISSING_CAPABILITY, InputRequiredError, RpcError, Seal

META = "io.modelcontextprotocol/"
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Home(Protocol):
    """What calls need of the server."""

    seal: Seal
    extra: set[str]

    async def announce(self, method: str, params: JSON | None) -> None:
        """Tell every client that listens for it."""


def event(message: JSON, event_id: str | None = None) -> bytes:
    line = f"id: {event_id}\n" if event_id else ""
    return f"{line}data: {json.dumps(message)}\n\n".encode()


class Answer:
    """The response to one POST: JSON, or a stream once something is to be said before the reply."""

    def __init__(self, request: web.Request, request_id: Any) -> None:
        self._request = request
        self._id = request_id
        self._stream: web.StreamResponse | None = None

    async def stream(self) -> web.StreamResponse:
        if self._stream is None:
            self._stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await self._stream.prepare(self._request)
        return self._stream

    async def send(self, message: JSON) -> None:
        await (await self.stream()).write(event(message))

    async def reply(self, body: JSON, status: int = 200) -> web.StreamResponse:
        message = {"jsonrpc": "2.0", "id": self._id, **body}
        if self._stream is None:
            return web.json_response(message, status=status)
        await self._stream.write(event(message))
        return self._stream


class Session:
    """A legacy session."""

    def __init__(self, session_id: str, capabilities: JSON) -> None:
        self.id = session_id
        self.capabilities = capabilities
        self.level = "debug"
        self.subscribed: set[str] = set()
        self.asked: dict[str, asyncio.Future[JSON]] = {}
        self.unsolicited: asyncio.Queue[JSON] = asyncio.Queue()
        self.listening = False
        self.unfinished: dict[str, asyncio.Future[JSON]] = {}
        """Replies whose streams were ended before them, by the id of the last event."""


class LegacyCall:
    """A ``Call`` of the legacy era: questions are requests on the call's own stream."""

    def __init__(self, server: Home, session: Session, answer: Answer, params: JSON) -> None:
        self.name = str(params.get("name"))
        self.arguments: JSON = params.get("arguments") or {}
        self.meta: JSON = params.get("_meta") or {}
        self.capabilities = session.capabilities
        self.responses: JSON = {}
        self.state = None
        self.seal = server.seal
        self.extra = server.extra
        self._server = server
        self._session = session
        self._answer = answer

    async def notify(self, method: str, params: JSON) -> None:
        await self._answer.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def log(self, text: str) -> None:
        if LEVELS.index("info") >= LEVELS.index(self._session.level):
            await self.notify("notifications/message", {"level": "info", "logger": "upstream", "data": text})

    async def ask(self, key: str, method: str, params: JSON) -> JSON:
        if method.partition("/")[0] not in self.capabilities:
            raise RpcError(INVALID_PARAMS, f"The client has not declared {method.partition('/')[0]}.")
        if method == "elicitation/create":
            params = {name: value for name, value in params.items() if name != "mode"}
        request_id = f"ask-{secrets.token_hex(4)}"
        future: asyncio.Future[JSON] = asyncio.get_running_loop().create_future()
        self._session.asked[request_id] = future
        await self._answer.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        async with asyncio.timeout(30):
            reply = await future
        if "error" in reply:
            raise RpcError(INVALID_PARAMS, f"The client refused: {reply['error'].get('message')}")
        return dict(reply["result"])

    async def announce(self, method: str, params: JSON | None = None) -> None:
        await self._server.announce(method, params)


class ModernCall:
    """A ``Call`` of the modern era: questions end the call, and are answered by the next one."""

    def __init__(self, server: Home, answer: Answer, params: JSON) -> None:
        self.name = str(params.get("name"))
        self.arguments: JSON = params.get("arguments") or {}
        self.meta: JSON = params["_meta"]
        self.capabilities: JSON = self.meta[META + "clientCapabilities"]
        responses = params.get("inputResponses", {})
        if not isinstance(responses, dict):
            raise RpcError(INVALID_PARAMS, "inputResponses is not an object.")
        self.responses = responses
        state = params.get("requestState")
        self.state = state if isinstance(state, str) else None
        self.seal = server.seal
        self.extra = server.extra
        self._server = server
        self._answer = answer

    async def notify(self, method: str, params: JSON) -> None:
        await self._answer.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def log(self, text: str) -> None:
        level = self.meta.get(META + "logLevel")
        if level in LEVELS and LEVELS.index("info") >= LEVELS.index(level):
            await self.notify("notifications/message", {"level": "info", "logger": "upstream", "data": text})

    async def ask(self, key: str, method: str, params: JSON) -> JSON:
        answer = self.responses.get(key)
        if isinstance(answer, dict):
            return answer
        if method.partition("/")[0] not in self.capabilities:
            needed = {method.partition("/")[0]: {}}
            raise RpcError(MISSING_CAPABILITY, "A capability is missing.", {"requiredCapabilities": needed})
        raise InputRequiredError({key: {"method": method, "params": params}})

    async def announce(self, method: str, params: JSON | None = None) -> None:
        await self._server.announce(method, params)
