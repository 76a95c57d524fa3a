"""What a gateway answers, read once, at the border: messages whose shape is right, or a ClientError. Nothing else comes in.

The MCP endpoint answers with one message in JSON, with a stream of events, or with a refusal that is no message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from gateway.client.errors import BrokenOffError, UnusableAnswerError
from gateway.mcp.messages import INTERNAL_ERROR, Params, RequestId, encode
from gateway.mcp.sse import EventParser, EventTooLargeError
from gateway.outbound.client import OutboundError, Response
from gateway.outbound.response import ResponseError

MAX_ANSWER: Final = 16 << 20
MAX_TOLD: Final = 500
"""How much of a refusal's own words is passed on."""


class ErrorObject(msgspec.Struct, frozen=True):
    """Why a request was not fulfilled."""

    code: int
    message: str
    data: Any = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Call:
    """A request or a notification of the gateway's, in one line."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What answers a request, in one line."""

    line: bytes
    id: RequestId | None
    """None: a refusal of what could not be read there."""
    result: dict[str, Any] = field(default_factory=dict)
    error: ErrorObject | None = None


class _CallShape(msgspec.Struct):
    jsonrpc: Literal["2.0"]
    method: str
    id: RequestId | msgspec.UnsetType = msgspec.UNSET
    params: Params | msgspec.UnsetType = msgspec.UNSET


class _ResultShape(msgspec.Struct):
    jsonrpc: Literal["2.0"]
    id: RequestId
    result: dict[str, Any]


class _RefusalShape(msgspec.Struct):
    jsonrpc: Literal["2.0"]
    error: ErrorObject
    id: RequestId | None = None


_SHAPES: Final[dict[str, type[_CallShape | _ResultShape | _RefusalShape]]] = {
    "method": _CallShape,
    "result": _ResultShape,
    "error": _RefusalShape,
}
"""By the one member of the three that a message has."""


async def reply_to(
    request_id: RequestId,
    response: Response,
    pass_on: Callable[[bytes], Awaitable[None]],
    stream: EventParser | None = None,
) -> Reply:
    """The reply in an answer; what the gateway asks and tells before it is passed on.

    Raises BrokenOffError where a stream ends before it, UnusableAnswerError where it is not there.
    """
    try:
        async for incoming in messages(response, stream):
            if isinstance(incoming, Call):
                await pass_on(incoming.line)
            elif incoming.id == request_id:
                response.drain()
                return incoming
            elif incoming.id is None and incoming.error is not None:
                response.drain()
                return _refused(request_id, incoming.error)
    except BaseException:
        response.close()
        raise
    if _is_stream(response):
        raise BrokenOffError("the gateway ended its answer without a reply; try again")
    raise UnusableAnswerError("the gateway answers something else than was asked; is it an Ostiary gateway?")


async def messages(response: Response, stream: EventParser | None = None) -> AsyncIterator[Call | Reply]:
    """Each message as it comes; none, where the answer is empty. Raises ClientError.

    ``stream`` reads events, and so knows afterwards the last one's id; an event that is no message is passed over. A refusal
    in another form becomes an error without an id.
    """
    if _is_stream(response):
        async for event in _events(response, stream or EventParser()):
            if (incoming := _message(event)) is not None:
                yield incoming
        return
    raw = await read_body(response)
    if (incoming := _message(raw)) is not None:
        yield incoming
    elif response.status >= 300:
        why = told(json_object(raw), f"the gateway answers {response.status}")
        yield _refused(None, ErrorObject(INTERNAL_ERROR, why, {"status": response.status}))
    elif raw.strip():
        raise UnusableAnswerError("the gateway answers what is no message; is it an Ostiary gateway?")


def _is_stream(response: Response) -> bool:
    kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    return response.status == 200 and kind == "text/event-stream"


async def _events(response: Response, parser: EventParser) -> AsyncIterator[bytes]:
    try:
        while piece := await response.chunk():
            for event in parser.feed(piece):
                if event.name == b"message":
                    yield event.data
    except OutboundError:
        raise BrokenOffError from None
    except EventTooLargeError:
        response.close()
        raise UnusableAnswerError("the gateway's answer is too large") from None


async def read_body(response: Response) -> bytes:
    """The whole body. Raises ClientError where it breaks off, or has no end."""
    try:
        return await response.read(MAX_ANSWER)
    except ResponseError as error:
        raise UnusableAnswerError(f"the gateway's answer cannot be read: {error}") from None
    except OutboundError:
        raise BrokenOffError from None


def _message(raw: bytes) -> Call | Reply | None:
    """The message in ``raw``; None: there is none."""
    document = json_object(raw)
    members = document.keys() & _SHAPES.keys()
    if len(members) != 1:
        return None
    try:
        message = msgspec.convert(document, _SHAPES[members.pop()])
    except msgspec.ValidationError:
        return None
    line = _one_line(raw)
    if isinstance(message, _ResultShape):
        return Reply(line, message.id, message.result)
    if isinstance(message, _RefusalShape):
        return Reply(line, message.id, error=message.error)
    return Call(line)


def _refused(request_id: RequestId | None, error: ErrorObject) -> Reply:
    line = encode({"jsonrpc": "2.0", "id": request_id, "error": error})
    return Reply(line, request_id, error=error)


def _one_line(message: bytes) -> bytes:
    """The same JSON without line breaks, which strings never hold."""
    return message.strip().replace(b"\r", b" ").replace(b"\n", b" ")


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``; empty where it is none."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def told(answer: dict[str, Any], otherwise: str = "without a reason; is it an Ostiary gateway?") -> str:
    """What a refusal says of itself, in the gateway's form, OAuth's or JSON-RPC's."""
    error = answer.get("error")
    words = [answer.get("detail"), answer.get("error_description"), answer.get("title"), error]
    if isinstance(error, dict):
        words = [error.get("message")]
    return next((printable(each) for each in words if isinstance(each, str) and each.strip()), otherwise)


def printable(text: str) -> str:
    """Text of the gateway as an error may show it: on one line, which no terminal obeys."""
    text = " ".join(text.split())[:MAX_TOLD]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
