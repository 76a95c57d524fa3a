"""Drives a gateway with the official SDK's 1.x client; prints one JSON document of what it saw."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError


async def main(url: str, ca: str, certificate: str, key: str) -> None:
    tls = ssl.create_default_context(cafile=ca)
    tls.load_cert_chain(certificate, key)
    progress: list[float] = []

    async def on_progress(done: float, _total: float | None, _message: str | None) -> None:
        progress.append(done)

    async def elicit(_context: Any, _params: Any) -> Any:
        from mcp.types import ElicitResult

        return ElicitResult(action="accept", content={"colour": "blue"})

    async with (
        httpx.AsyncClient(verify=tls, timeout=30) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(read, write, elicitation_callback=elicit) as session,
    ):
        hello = await session.initialize()
        tools = (await session.list_tools()).tools
        counted = await session.call_tool(
            "far_count", {"steps": 2, "seconds": 0.1}, progress_callback=on_progress
        )
        asked = await session.call_tool("far_favourite", {})
        time = await session.call_tool("time_convert_time", _CONVERT)
        proxied = await session.call_tool("proxied_convert_time", _CONVERT)
        try:
            await session.call_tool("far_fail", {})
            unknown = "it was called"
        except McpError as error:
            unknown = error.error.message
        print(
            json.dumps(
                {
                    "version": hello.protocolVersion,
                    "tools": [tool.name for tool in tools],
                    "progress": progress,
                    "counted": counted.content[0].text,
                    "asked": asked.content[0].text,
                    "time": json.loads(time.content[0].text)["target"]["timezone"],
                    "proxied": json.loads(proxied.content[0].text)["target"]["timezone"],
                    "unknown": unknown,
                }
            )
        )


_CONVERT = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Europe/Paris"}

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
