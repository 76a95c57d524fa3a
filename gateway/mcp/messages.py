"""JSON-RPC messages of MCP, sans I/O: bytes become a classified message, or a rejection.

Rules, for what a client sends:

- One message a body. Duplicate keys, NaN, Infinity, lone surrogates and deep nesting are refused: an upstream could
  read such a body differently from the gateway, and run what was never authorized.
- What is forwarded is encoded anew from what was parsed, so the upstream sees exactly what was authorized.

What an upstream sends is read leniently but only as deep as the gateway needs: results stay raw bytes.

What one era says and the other does not is in ``eras``. Specification: JSON-RPC 2.0; MCP 2025-11-25 and 2026-07-28,
basic/index.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.strict_json import StrictJsonError, parse

LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
"""The revisions with a handshake and sessions, newest first."""
MODERN_VERSIONS: Final = ("2026-07-28",)
"""The revisions without, newest first."""
MAX_DEPTH: Final = 64
"""How deeply arrays and objects may nest in what a client sends."""

MAX_CONTAINERS: Final = 50_000
"""How many arrays and objects it may have: reading them holds up everybody else."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESOURCE_NOT_FOUND: Final = -32002
URL_ELICITATION_REQUIRED: Final = -32042
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022

RequestId = int | str
Params = dict[str, Any]


class Request(msgspec.Struct, frozen=True):
    """A message that wants an answer."""

    id: RequestId
    method: str
    params: Params


class Notification(msgspec.Struct, frozen=True):
    """A message that wants none."""

    method: str
    params: Params


class Reply(msgspec.Struct, frozen=True):
    """The answer to a request: ``result`` or ``error`` as raw JSON, the other is None."""

    id: RequestId | None
    result: msgspec.Raw | None = None
    error: msgspec.Raw | None = None


Message = Request | Notification | Reply


class Rejected(Exception):  # noqa: N818 - a classification, not a fault
    """What was sent is not one well-formed message. ``id`` is that of the request, where it could be read."""

    def __init__(
        self,
        code: int,
        message: str,
        request_id: RequestId | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = request_id
        self.data = data


def parse_client_message(body: bytes) -> Message:
    """Classify what a client sent. Raises Rejected."""
    if body.lstrip()[:1] == b"[":
        raise Rejected(INVALID_REQUEST, "Batches are not supported: send one message a request.")
    containers = body.count(b"[") + body.count(b"{")
    if containers > MAX_CONTAINERS:
        raise Rejected(PARSE_ERROR, f"The body has more than {MAX_CONTAINERS} arrays and objects.")
    try:
        document = parse(body)
    except StrictJsonError as error:
        raise Rejected(PARSE_ERROR, f"The body cannot be accepted: {error}.") from None
    if containers > MAX_DEPTH and _too_deep(document):
        raise Rejected(PARSE_ERROR, f"The body nests deeper than {MAX_DEPTH} levels.")
    if not isinstance(document, dict) or document.get("jsonrpc") != "2.0":
        raise Rejected(INVALID_REQUEST, 'The body must be one JSON-RPC object with "jsonrpc": "2.0".')
    return _classify(document)


def _classify(document: dict[str, Any]) -> Message:
    request_id: Any = document.get("id")
    if "id" in document and not _is_request_id(request_id):
        raise Rejected(INVALID_REQUEST, "id must be a string or a whole number.")
    if "method" not in document:
        return _client_reply(document, request_id)
    method, params = document["method"], document.get("params", {})
    if not isinstance(method, str):
        raise Rejected(INVALID_REQUEST, "method must be a string.", request_id)
    if not isinstance(params, dict):
        raise Rejected(INVALID_PARAMS, "params must be an object.", request_id)
    if "result" in document or "error" in document:
        raise Rejected(INVALID_REQUEST, "A message is a request or a response, never both.", request_id)
    if "id" not in document:
        return Notification(method, params)
    return Request(request_id, method, params)


def _client_reply(document: dict[str, Any], request_id: Any) -> Reply:
    if "id" not in document or ("result" in document) == ("error" in document):
        raise Rejected(
            INVALID_REQUEST, "The message has neither a method nor exactly one of result and error."
        )
    if "result" in document:
        return Reply(request_id, result=msgspec.Raw(encode(document["result"])))
    return Reply(request_id, error=msgspec.Raw(encode(document["error"])))


def _is_request_id(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _too_deep(document: object) -> bool:
    """Whether containers nest deeper than MAX_DEPTH; level by level, so that nothing is too deep for it."""
    level: list[object] = [document]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for container in level:
            members = container.values() if isinstance(container, dict) else container
            if isinstance(members, Iterable):
                inner += [member for member in members if isinstance(member, dict | list)]
        if not inner:
            return False
        level = inner
    return True


class _Wire(msgspec.Struct, gc=False):
    """The outer shape of any message from an upstream; what is inside stays raw."""

    jsonrpc: str
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: Params | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_WIRE_DECODER: Final = msgspec.json.Decoder(_Wire)


def parse_upstream_message(data: bytes) -> Message:
    """Classify what an upstream sent. Raises Rejected."""
    try:
        wire = _WIRE_DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Rejected(PARSE_ERROR, "The upstream's message is not JSON-RPC.") from None
    if wire.jsonrpc != "2.0":
        raise Rejected(INVALID_REQUEST, "The upstream's message is not JSON-RPC 2.0.")
    if isinstance(wire.method, str):
        params = wire.params if isinstance(wire.params, dict) else {}
        if isinstance(wire.id, int | str):
            return Request(wire.id, wire.method, params)
        return Notification(wire.method, params)
    request_id = None if wire.id is msgspec.UNSET else wire.id
    if isinstance(wire.result, msgspec.Raw) and not isinstance(wire.error, msgspec.Raw):
        return Reply(request_id, result=wire.result)
    if isinstance(wire.error, msgspec.Raw):
        return Reply(request_id, error=wire.error)
    raise Rejected(
        INVALID_REQUEST, "The upstream's message has neither a method, nor a result, nor an error."
    )


def encode(value: object) -> bytes:
    """JSON, compact."""
    return _ENCODER.encode(value)


_ENCODER: Final = msgspec.json.Encoder()


def encode_request(request_id: RequestId, method: str, params: Params) -> bytes:
    """A request on the wire; empty params are left out."""
    message: dict[str, object] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params:
        message["params"] = params
    return _ENCODER.encode(message)


def encode_notification(method: str, params: Params) -> bytes:
    """A notification on the wire; empty params are left out."""
    message: dict[str, object] = {"jsonrpc": "2.0", "method": method}
    if params:
        message["params"] = params
    return _ENCODER.encode(message)


def encode_reply(request_id: RequestId | None, reply: Reply) -> bytes:
    """A reply on the wire, under the id that its reader knows."""
    member, payload = ("result", reply.result) if reply.result is not None else ("error", reply.error)
    return b'{"jsonrpc":"2.0","id":%b,"%b":%b}' % (
        _ENCODER.encode(request_id),
        member.encode(),
        bytes(payload or b"null"),
    )


def encode_result(request_id: RequestId | None, result: object) -> bytes:
    """A result of our own."""
    return _ENCODER.encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def encode_error(
    request_id: RequestId | None, code: int, message: str, data: dict[str, Any] | None = None
) -> bytes:
    """An error of our own."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data:
        error["data"] = data
    return _ENCODER.encode({"jsonrpc": "2.0", "id": request_id, "error": error})
