"""Calls a tool through the gateway with a client certificate, by the official MCP SDK for Python.

    python client.py --ca ca.pem --cert alice.pem --key alice.key [--token] [--tool NAME] [--arguments JSON]

The certificate alone says who the client is. With `--token` it is first exchanged for an access token, bound to it
(RFC 8705), which is then sent along. Without a certificate the gateway shows what is public.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent


class ClientError(Exception):
    """What went wrong, in one line."""


def tls_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Trusts the CA (by default those of the system) and presents the certificate.

    Raises ClientError that names the file where one is missing or is not what it should be.
    """
    for file in (ca, certificate, key):
        if file is not None and not file.is_file():
            raise ClientError(f"{file}: there is no such file")
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ClientError(f"{ca}: holds no CA certificate (PEM)") from None
    if certificate is None:
        return context
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError:
        raise ClientError(
            f"{certificate} and {key or certificate}: not a certificate and its key (PEM)"
        ) from None
    return context


async def fetch_token(http: httpx2.AsyncClient, url: httpx2.URL) -> str:
    """An access token for the client whose certificate `http` presents. Raises ClientError where it is refused."""
    response = await http.get(url.join("/auth/token"))
    if response.status_code != httpx2.codes.OK:
        raise ClientError(f"no token was issued: {response.status_code} {response.text.strip()}")
    try:
        return str(response.json()["access_token"])
    except (ValueError, KeyError, TypeError):
        raise ClientError("the answer to the token request holds no access token") from None


async def run(options: argparse.Namespace) -> bool:
    """Lists the tools, or calls the one that is named, and prints the answer; False where the tool failed."""
    context = tls_context(options.ca, options.cert, options.key)
    # Answers may stream for minutes; everything else is quick.
    async with httpx2.AsyncClient(verify=context, timeout=httpx2.Timeout(30, read=300)) as http:
        if options.token:
            http.headers["Authorization"] = f"Bearer {await fetch_token(http, httpx2.URL(options.url))}"
        async with Client(streamable_http_client(options.url, http_client=http)) as client:
            if options.tool is None:
                await print_tools(client)
                return True
            return await print_call(client, options.tool, options.arguments)


async def print_tools(client: Client) -> None:
    """Name, needed permissions and description of each tool, a line each."""
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            permissions = (tool.meta or {}).get("ostiary/permissions", [])
            summary = (tool.description or "").partition("\n")[0]
            print(f"{tool.name}  [{', '.join(permissions) or 'public'}]  {summary}")
        cursor = page.next_cursor
        if cursor is None:
            return


async def print_call(client: Client, tool: str, arguments: dict[str, Any]) -> bool:
    """The structured answer where there is one, else the text; on stderr, and False, where the tool failed."""

    async def report(progress: float, total: float | None, message: str | None) -> None:
        print(f"{progress:g}/{total or 0:g} {message or ''}".rstrip(), file=sys.stderr)

    result = await client.call_tool(tool, arguments, progress_callback=report)
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    if result.is_error:
        print("\n".join(texts), file=sys.stderr)
        return False
    if result.structured_content is not None:
        print(json.dumps(result.structured_content, ensure_ascii=False, indent=2))
    else:
        print("\n".join(texts))
    return True


def json_object(text: str) -> dict[str, Any]:
    """A JSON object from the command line."""
    arguments = json.loads(text)
    if not isinstance(arguments, dict):
        raise TypeError("tool arguments are a JSON object")
    return arguments


def first_cause(error: BaseException) -> BaseException:
    """The first exception that is no group: the SDK's tasks raise groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def in_words(error: BaseException, url: str) -> str:
    """What to say of an error: its own words, and where the gateway is where nothing is found (404)."""
    cause = first_cause(error)
    if isinstance(cause, MCPError) and str(cause) == "Not Found":
        return f"{url}: not found; is it {httpx2.URL(url).join('/mcp')}?"
    return str(cause)


def main() -> None:
    """The command line. Exits 1 with one line on stderr where something is refused or failed."""
    parser = argparse.ArgumentParser(description="Lists or calls tools through Ostiary.")
    parser.add_argument("--url", default="https://localhost:8443/mcp")
    parser.add_argument(
        "--ca", type=Path, help="who signed the gateway's certificate; the system's CAs by default"
    )
    parser.add_argument("--cert", type=Path, help="your certificate (PEM)")
    parser.add_argument("--key", type=Path, help="its private key (PEM)")
    parser.add_argument("--token", action="store_true", help="get an access token first, and send it")
    parser.add_argument("--tool", help="the tool to call; without it the tools are listed")
    parser.add_argument(
        "--arguments", type=json_object, default={}, metavar="JSON", help="the tool's arguments"
    )
    options = parser.parse_args()
    try:
        succeeded = asyncio.run(run(options))
    except (OSError, httpx2.HTTPError, MCPError, ClientError, ExceptionGroup) as error:
        sys.exit(f"{parser.prog}: {in_words(error, options.url)}")
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
