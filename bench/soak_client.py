"""A client of the soak: calls in both eras, sessions that are opened and dropped, calls that are cancelled."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp

from bench.machine import Failed
from bench.targets import Target
from bench.upstream import MODERN, PATH

LEGACY: Final = "2025-11-25"
META: Final = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
CAPABILITIES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"elicitation": {}},
    {"sampling": {}},
    {"elicitation": {}, "sampling": {}},
)
"""What sessions declare in turn: the gateway has an upstream session for each."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a request is made: in which era, with a session or without, to the upstream of which prefix."""

    modern: bool
    session: bool
    prefix: str


WAYS: Final = (
    Way(modern=False, session=True, prefix=""),
    Way(modern=True, session=False, prefix=""),
    Way(modern=False, session=True, prefix="new_"),
    Way(modern=True, session=False, prefix="new_"),
    Way(modern=False, session=False, prefix=""),
)


class Client:
    """Some connections to the gateway, and one session that is kept. Use as an async context."""

    def __init__(self, target: Target, connections: int) -> None:
        if target.identities is None:
            raise Failed("the soak needs a target with TLS")
        self._url = target.origin + PATH
        self._token = target.token
        self._tls = target.identities.context()
        self._connections = connections
        self._ids = itertools.count(1)
        self._session = ""

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=2 * self._connections),
            timeout=aiohttp.ClientTimeout(total=30),
            headers={"Authorization": f"Bearer {self._token}"},
        )
        self._session = await self.open(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._end(self._session)
        finally:
            await self._http.close()

    async def call(self, way: Way, session: str | None = None) -> None:
        """One call of ``echo``, in the session that is kept or in another one.

        Raises:
            Failed: The answer is not the right one.
        """
        number = next(self._ids)
        params = {"name": f"{way.prefix}echo", "arguments": {"text": f"call {number}"}}
        body, headers = self._request(way, number, params, session)
        async with self._http.post(self._url, data=body, headers=headers) as response:
            answer = await response.read()
        told = _message(answer)
        text = told.get("result", {}).get("content", [{}])[0].get("text")
        if response.status != 200 or told.get("id") != number or text != f"call {number}":
            raise Failed(f"{way}: a wrong answer: {response.status} {answer[:300]!r}")

    async def open(self, number: int) -> str:
        """A new session, initialized; its id.

        Raises:
            Failed: It was not opened.
        """
        hello = {
            "protocolVersion": LEGACY,
            "capabilities": CAPABILITIES[number % len(CAPABILITIES)],
            "clientInfo": {"name": "soak", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": "initialize", "params": hello}
        async with self._http.post(self._url, data=_encode(body), headers=_HEADERS) as response:
            answer = await response.read()
        session = response.headers.get("Mcp-Session-Id", "")
        if response.status != 200 or not session:
            raise Failed(f"no session: {response.status} {answer[:300]!r}")
        await self._tell(session, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        return session

    async def open_and_drop(self, number: int) -> None:
        """Open a session, call in it, and drop it: half of them with a DELETE, half of them with a stream open until then.

        Raises:
            Failed: An answer was wrong.
        """
        session = await self.open(number)
        await self.call(WAYS[0], session)
        if number % 4 < 2:
            headers = {"Mcp-Session-Id": session, "Accept": "text/event-stream"}
            async with self._http.get(self._url, headers=headers) as stream:
                if stream.status != 200:
                    raise Failed(f"no stream: {stream.status}")
                stream.close()
        if number % 2:
            await self._end(session)

    async def cancel(self, way: Way) -> None:
        """Call ``wait``, and cancel it once it is under way: by a notification, or by leaving.

        Raises:
            Failed: It was answered.
        """
        number = next(self._ids)
        params = {"name": f"{way.prefix}wait", "arguments": {}, "_meta": {"progressToken": number}}
        body, headers = self._request(way, number, params)
        async with self._http.post(self._url, data=body, headers=headers) as response:
            told = b""
            while b"notifications/progress" not in told:
                part = await response.content.readany()
                if not part:
                    raise Failed(f"{way}: a call did not begin: {response.status} {told[:300]!r}")
                told += part
            if way.modern:
                response.close()
                return
            reason = {"requestId": number, "reason": "the soak"}
            await self._tell(
                self._session, {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": reason}
            )
            rest = await response.read()
            if b'"result"' in rest:
                raise Failed(f"a cancelled call was answered: {rest[:300]!r}")

    async def _tell(self, session: str, notification: dict[str, Any]) -> None:
        headers = {**_HEADERS, "Mcp-Session-Id": session}
        async with self._http.post(self._url, data=_encode(notification), headers=headers) as response:
            if response.status != 202:
                raise Failed(f"a notification was not taken: {response.status} {await response.text()}")

    async def _end(self, session: str) -> None:
        async with self._http.delete(self._url, headers={"Mcp-Session-Id": session}) as response:
            if response.status != 204:
                raise Failed(f"the session was not ended: {response.status}")

    def _request(
        self, way: Way, number: int, params: dict[str, Any], session: str | None = None
    ) -> tuple[bytes, dict[str, str]]:
        headers = dict(_HEADERS)
        if way.modern:
            params = {**params, "_meta": {**params.get("_meta", {}), **META}}
            headers |= {
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": "tools/call",
                "Mcp-Name": params["name"],
            }
        if way.session:
            headers["Mcp-Session-Id"] = session or self._session
        return _encode({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}), headers


_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _message(answer: bytes) -> dict[str, Any]:
    """The last message of an answer, be it JSON or a stream; nothing where there is none."""
    lines = [line.removeprefix(b"data:") for line in answer.splitlines() if line.startswith(b"data:")]
    text = answer if not lines else lines[-1]
    try:
        message = json.loads(text)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
