"""What the MCP endpoint answers, as messages: JSON, a stream of events, or a refusal that is no message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from gateway.client.errors import ClientError
from gateway.mcp.messages import INTERNAL_ERROR, encode_error
from gateway.mcp.sse import EventParser, EventTooLargeError
from gateway.outbound.client import OutboundError, Response

MAX_ANSWER: Final = 16 << 20


async def messages(response: Response, stream: EventParser | None = None) -> AsyncIterator[bytes]:
    """Each message as it comes, in one line; none, where the answer is empty. Raises ClientError where it breaks off.

    ``stream`` reads events, and so knows afterwards the last one's id. A refusal in another form becomes an error whose id is null.
    """
    kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    try:
        if response.status == 200 and kind == "text/event-stream":
            parser = stream or EventParser()
            while piece := await response.chunk():
                for event in parser.feed(piece):
                    if event.name == b"message":
                        yield one_line(event.data)
            return
        raw = await response.read(MAX_ANSWER)
    except (OutboundError, EventTooLargeError):
        raise ClientError("the gateway broke off its answer; try again") from None
    document = json_object(raw)
    if "jsonrpc" in document:
        yield one_line(raw)
    elif response.status >= 300:
        told = str(document.get("detail") or f"the gateway answers {response.status}")
        yield encode_error(None, INTERNAL_ERROR, told, {"status": response.status})


def one_line(message: bytes) -> bytes:
    """The same JSON without line breaks, which strings never hold."""
    return message.strip().replace(b"\r", b" ").replace(b"\n", b" ")


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``; empty where it is none."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
