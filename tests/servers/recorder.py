"""A service and an MCP server in one that keep, to the byte, what they were sent: ``GET /recorded`` gives it back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

recorded: list[bytes] = []


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /recorded "):
                _answer(writer, json.dumps([each.decode("latin-1") for each in recorded]).encode())
                continue
            at = len(recorded)
            recorded.append(head)
            body = await _body(reader, head)
            recorded[at] = head + body
            await writer.drain()
            _answer(writer, _reply(body) if head.startswith(b"POST /mcp ") else b'{"from": "service"}')
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"transfer-encoding" not in fields:
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


def _reply(body: bytes) -> bytes:
    message: Any = json.loads(body)
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message.get("id")}
    match message["method"]:
        case "initialize":
            server = {"name": "recorder", "version": "1"}
            capabilities: dict[str, Any] = {"tools": {}}
            answer["result"] = {
                "protocolVersion": "2025-06-18",
                "capabilities": capabilities,
                "serverInfo": server,
            }
        case "tools/list":
            answer["result"] = {"tools": [{"name": "note", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            answer["result"] = {"content": [{"type": "text", "text": "done"}]}
        case method if method.startswith("notifications/"):
            return b""
        case _:
            answer["error"] = {"code": -32601, "message": "Method not found"}
    return json.dumps(answer).encode()


def _answer(writer: asyncio.StreamWriter, body: bytes) -> None:
    status = "200 OK" if body else "202 Accepted"
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
