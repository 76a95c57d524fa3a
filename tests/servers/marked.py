"""A stdio MCP server with a tool whose schema wants an argument repeated in a header (``x-mcp-header``)."""

from __future__ import annotations

import json
import sys
from typing import Any

SCHEMA = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "text": {"type": "string"}},
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The result or error of a request, as a member of its reply."""
    match request["method"]:
        case "initialize":
            version = request["params"]["protocolVersion"]
            server = {"name": "marked", "version": "1"}
            return {
                "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
            }
        case "tools/list":
            return {"result": {"tools": [{"name": "where", "inputSchema": SCHEMA}]}}
        case "tools/call":
            said = request["params"]["arguments"]["region"]
            return {"result": {"content": [{"type": "text", "text": said}]}}
        case _:
            return {"error": {"code": -32601, "message": "Method not found"}}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer(message)}), flush=True)
