"""Drives a gateway with the official Python SDK's 1.x client; prints what it saw as ``client.mjs`` does."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError
from mcp.types import CancelledNotification, CancelledNotificationParams, ClientNotification, ElicitResult


async def main(_sdk: str, gateway: str, ca: str, certificate: str, key: str, *upstreams: str) -> None:
    tls = ssl.create_default_context(cafile=ca)
    tls.load_cert_chain(certificate, key)

    @asynccontextmanager
    async def connect(path: str, asked: list[str]) -> AsyncIterator[tuple[ClientSession, str]]:
        async def answer(_context: Any, params: Any) -> ElicitResult:
            asked.append(params.message)
            return ElicitResult(action="accept", content={"colour": "blue", "wish": "rain"})

        async with (
            httpx.AsyncClient(verify=tls, timeout=60) as http,
            streamable_http_client(gateway + path, http_client=http) as (read, write, _),
            ClientSession(read, write, elicitation_callback=answer) as session,
        ):
            yield session, str((await session.initialize()).protocolVersion)

    saw: dict[str, Any] = {}
    async with connect("/mcp", []) as (session, _version):
        saw["all"] = [tool.name for tool in (await session.list_tools()).tools]
    for upstream, asking in (word.split("=") for word in upstreams):
        asked: list[str] = []
        async with connect(f"/mcp/{upstream}", asked) as (session, version):
            saw[upstream] = {"version": version, "asked": asked, **await _one_of_each(session, asking)}
    print(json.dumps(saw))


async def _one_of_each(session: ClientSession, asking: str) -> dict[str, Any]:
    progress: list[float] = []

    async def heard(done: float, _total: float | None, _message: str | None) -> None:
        progress.append(done)

    templates = (await session.list_resource_templates()).resourceTemplates
    return {
        "tools": [tool.name for tool in (await session.list_tools()).tools],
        "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
        "resources": [str(resource.uri) for resource in (await session.list_resources()).resources],
        "templates": [template.uriTemplate for template in templates],
        "echo": await _call(session, "echo", {"text": "ünï ☃"}),
        "counted": await _call(session, "count", {"steps": 3, "seconds": 0.1}, progress_callback=heard),
        "progress": progress,
        "answered": await _call(session, asking, {}),
        "prompt": (await session.get_prompt("greet", {"name": "Ada"})).messages[0].content.text,
        "resource": await _read(session, "everything://static"),
        "item": await _read(session, "everything://item/7"),
        "secret": await _failure(_read(session, "everything://secret")),
        "hidden": await _failure(_call(session, "fail", {})),
        "cancelled": await _cancelled(session),
        "after": await _call(session, "echo", {"text": "still here"}),
    }


async def _call(session: ClientSession, name: str, arguments: dict[str, Any], **options: Any) -> str:
    return str((await session.call_tool(name, arguments, **options)).content[0].text)


async def _read(session: ClientSession, uri: Any) -> str:
    return str((await session.read_resource(uri)).contents[0].text)


async def _failure(work: Awaitable[str]) -> str:
    try:
        return f"it did not fail: {await work}"
    except McpError as error:
        return error.error.message


async def _cancelled(session: ClientSession) -> str:
    """Cancel a call that has made progress: this client does not do it by itself."""
    begun = asyncio.Event()

    async def heard(*_: Any) -> None:
        begun.set()

    arguments = {"steps": 200, "seconds": 60}
    call = asyncio.create_task(session.call_tool("count", arguments, progress_callback=heard))
    await begun.wait()
    cancelled = CancelledNotificationParams(requestId=session._request_id - 1, reason="enough")
    await session.send_notification(
        ClientNotification(CancelledNotification(method="notifications/cancelled", params=cancelled))
    )
    call.cancel()
    await asyncio.wait([call])
    return "enough"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
