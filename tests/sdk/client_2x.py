"""Drives a gateway with the official Python SDK's 2.x client; prints what it saw as ``client.mjs`` does."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult


async def main(sdk: str, gateway: str, ca: str, certificate: str, key: str, *upstreams: str) -> None:
    tls = ssl.create_default_context(cafile=ca)
    tls.load_cert_chain(certificate, key)

    @asynccontextmanager
    async def connect(path: str, asked: list[str]) -> AsyncIterator[Client]:
        async def answer(_context: Any, params: Any) -> ElicitResult:
            asked.append(params.message)
            return ElicitResult(action="accept", content={"colour": "blue", "wish": "rain"})

        transport = streamable_http_client(gateway + path, http_client=http)
        async with Client(transport, mode=sdk.rsplit(maxsplit=1)[-1], elicitation_callback=answer) as client:
            yield client

    saw: dict[str, Any] = {}
    async with httpx2.AsyncClient(verify=tls, timeout=60) as http:
        async with connect("/mcp", []) as client:
            saw["all"] = [tool.name for tool in (await client.list_tools()).tools]
        for upstream, asking in (word.split("=") for word in upstreams):
            asked: list[str] = []
            async with connect(f"/mcp/{upstream}", asked) as client:
                version = client.protocol_version
                saw[upstream] = {"version": version, "asked": asked, **await _one_of_each(client, asking)}
    print(json.dumps(saw))


async def _one_of_each(client: Client, asking: str) -> dict[str, Any]:
    progress: list[float] = []

    async def heard(done: float, _total: float | None, _message: str | None) -> None:
        progress.append(done)

    templates = (await client.list_resource_templates()).resource_templates
    return {
        "tools": [tool.name for tool in (await client.list_tools()).tools],
        "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
        "resources": [str(resource.uri) for resource in (await client.list_resources()).resources],
        "templates": [template.uri_template for template in templates],
        "echo": await _call(client, "echo", {"text": "ünï ☃"}),
        "counted": await _call(client, "count", {"steps": 3, "seconds": 0.1}, progress_callback=heard),
        "progress": progress,
        "answered": await _call(client, asking, {}),
        "prompt": (await client.get_prompt("greet", {"name": "Ada"})).messages[0].content.text,
        "resource": await _read(client, "everything://static"),
        "item": await _read(client, "everything://item/7"),
        "secret": await _failure(_read(client, "everything://secret")),
        "hidden": await _failure(_call(client, "fail", {})),
        "cancelled": await _cancelled(client),
        "after": await _call(client, "echo", {"text": "still here"}),
    }


async def _call(client: Client, name: str, arguments: dict[str, Any], **options: Any) -> str:
    return str((await client.call_tool(name, arguments, **options)).content[0].text)


async def _read(client: Client, uri: str) -> str:
    return str((await client.read_resource(uri)).contents[0].text)


async def _failure(work: Awaitable[str]) -> str:
    try:
        return f"it did not fail: {await work}"
    except MCPError as error:
        return str(error)


async def _cancelled(client: Client) -> str:
    """Cancel a call that has made progress."""
    begun = asyncio.Event()

    async def heard(*_: Any) -> None:
        begun.set()

    arguments = {"steps": 200, "seconds": 60}
    call = asyncio.create_task(client.call_tool("count", arguments, progress_callback=heard))
    await begun.wait()
    call.cancel()
    await asyncio.wait([call])
    return "enough"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
