"""A stdio server that lists the tools of its command line, while a file is there: ``named.py WHO FILE TOOL...``.

A tool says who it is of; but ``read`` and ``write`` do that to a path, ``family`` has a child of its own, ``complain`` says a text
on standard error. One that lists ``restless`` says that its list changed whenever it is asked for it.
"""

from __future__ import annotations

import json
import subprocess
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
            if "restless" in tools:
                changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
                print(json.dumps(changed), flush=True)
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in tools]}
        case _:
            return {"content": [{"type": "text", "text": call(message["params"]) or who}]}


def call(params: dict[str, Any]) -> str | None:
    arguments = params.get("arguments", {})
    try:
        match params["name"]:
            case "read":
                return f"{Path(arguments['path']).read_text()!r}"
            case "write":
                return str(Path(arguments["path"]).write_text("written"))
            case "family":
                script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
                child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
                assert child.stdout is not None
                child.stdout.readline()
                return str(child.pid)
            case "complain":
                print(arguments["text"], file=sys.stderr, flush=True)
    except OSError as error:
        return type(error).__name__
    return None


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
