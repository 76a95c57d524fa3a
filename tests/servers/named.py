"""A stdio server that lists the tools of its command line, while a file is there: ``named.py WHO FILE TOOL...``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def answer(message: dict[str, Any]) -> dict[str, Any]:
    who, _, *tools = sys.argv[1:]
    match message["method"]:
        case "initialize":
            server = {"name": who, "version": "1"}
            return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": server}
        case "tools/list":
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in tools]}
        case _:
            return {"content": [{"type": "text", "text": who}]}


def main() -> None:
    if not Path(sys.argv[2]).exists():
        sys.exit(1)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "server/discover":
            reply["error"] = {"code": -32601, "message": "Unknown method."}
        else:
            reply["result"] = answer(message)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
