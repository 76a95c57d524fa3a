"""An MCP server of persons and families over streamable HTTP at /mcp, with the official SDK.

    python mcp_server.py [--host 127.0.0.1] [--port 9001] [--data FILE] [--stateless] [--json-response]

`GET /stats` on the same port says how many sessions were opened and deleted, and how many calls were made.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from pathlib import Path
from typing import Final, Literal, get_args

import uvicorn
from archive import Archive
from counters import Counters, SessionCounter
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp
from tools import GenealogyTools

PATH: Final = "/mcp"
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class ReadyServer(uvicorn.Server):
    """Says where it listens as soon as it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Adds the one line on stdout to what uvicorn does."""
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            print(f"listening on http://{host}:{port}{PATH}", flush=True)


def application(
    archive: Archive, *, host: str, stateless: bool, json_response: bool, log_level: LogLevel
) -> ASGIApp:
    """The whole server as an ASGI application."""
    counters = Counters()
    server = MCPServer(
        "genealogy",
        title="Genealogy",
        instructions="Persons are named by key: first.occurrence.surname. Begin with list_persons.",
        version="1.0",
        log_level=log_level,
        middleware=[counters.count_call],
    )
    GenealogyTools(archive, counters).register(server)
    server.custom_route("/stats", methods=["GET"])(counters.show)
    routes = server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=stateless, json_response=json_response, host=host
    )
    return SessionCounter(routes, counters)


def main() -> None:
    """The command line. Exits 0 on SIGTERM, 1 with one line on stderr where it cannot start."""
    parser = argparse.ArgumentParser(description="Persons and families as an MCP server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0 takes a free one")
    parser.add_argument(
        "--data", type=Path, help="JSON file to keep persons in; without it they are in memory"
    )
    parser.add_argument("--stateless", action="store_true", help="without Mcp-Session-Id")
    parser.add_argument(
        "--json-response", action="store_true", help="answer in JSON instead of an event stream"
    )
    # A client's mistake is an ERROR with a traceback to the SDK: the client is told of it anyhow.
    parser.add_argument("--log-level", choices=get_args(LogLevel), default="CRITICAL")
    options = parser.parse_args()
    try:
        archive = Archive(options.data)
        listener = socket.create_server((options.host, options.port))
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    # uvicorn ends what is under way, then raises the signal again: that is a clean end here.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    asgi = application(
        archive,
        host=options.host,
        stateless=options.stateless,
        json_response=options.json_response,
        log_level=options.log_level,
    )
    config = uvicorn.Config(
        asgi, log_level="critical", access_log=False, timeout_graceful_shutdown=2, ws="none"
    )
    ReadyServer(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
