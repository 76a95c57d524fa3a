"""A stdio server whose tools ask the client: ``asking.py legacy`` (2025-11-25) by requests, ``asking.py modern`` by results.

``sample`` wants sampling, ``roots`` the client's roots; ``open``, of the legacy one, that a URL be opened, once, and
``twice`` one after the other. The text of a tool's result is what was answered, and declared.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MODERN = sys.argv[-1] == "modern"
SAMPLING = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "Say a word."}}],
    "maxTokens": 9,
}
QUESTIONS: dict[str, dict[str, Any]] = {
    "sample": {"method": "sampling/createMessage", "params": SAMPLING},
    "roots": {"method": "roots/list"},
}
URL_REQUIRED = {
    "code": -32042,
    "message": "Sign in first.",
    "data": {
        "elicitations": [
            {"mode": "url", "elicitationId": "e", "url": "https://example.org/sign-in", "message": "Sign in."}
        ]
    },
}
opened: list[bool] = []
declared: dict[str, Any] = {}
waiting: dict[str, Any] = {}


def send(**message: Any) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def done(answer: Any, capabilities: dict[str, Any]) -> dict[str, Any]:
    said = json.dumps({"answer": answer, "declared": capabilities}, sort_keys=True)
    return {"resultType": "complete", "content": [{"type": "text", "text": said}]}


def call(message: dict[str, Any]) -> dict[str, Any] | None:
    params = message["params"]
    if params["name"] == "open":
        if not opened:
            opened.append(True)
            send(id=message["id"], error=URL_REQUIRED)
            return None
        return done("opened", declared)
    question = QUESTIONS["sample" if params["name"] == "twice" else params["name"]]
    if not MODERN:
        waiting[params["name"]] = message["id"]
        send(id=params["name"], **question)
        return None
    capabilities = params["_meta"]["io.modelcontextprotocol/clientCapabilities"]
    if "inputResponses" in params:
        answers = {"answers": params["inputResponses"], "state": params.get("requestState")}
        return done(answers, capabilities)
    asked = {"inputRequests": {"it": question}, "requestState": "asked once"}
    return {"resultType": "input_required", **asked}


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    match message["method"]:
        case "server/discover" if MODERN:
            return {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        case "initialize" if not MODERN:
            declared.update(message["params"]["capabilities"])
            return {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "asking", "version": "1"},
            }
        case "tools/list":
            names = [*QUESTIONS] if MODERN else [*QUESTIONS, "open", "twice"]
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
        case "tools/call":
            return call(message)
    raise LookupError


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "method" not in message:
            said = message.get("result", message.get("error"))
            asked_for = waiting.pop(message["id"])
            if message["id"] == "twice":
                waiting["once more"] = asked_for
                send(id="once more", **QUESTIONS["roots"])
            else:
                send(id=asked_for, result=done(said, declared))
        elif "id" in message:
            try:
                result = answer(message)
            except LookupError:
                send(id=message["id"], error={"code": -32601, "message": "Unknown method."})
            else:
                if result is not None:
                    send(id=message["id"], result=result)


if __name__ == "__main__":
    main()
