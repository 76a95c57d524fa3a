"""What an upstream replied, in the client's era and in the audit's words."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.mcp.eras import (
    ASKING,
    CACHEABLE,
    Era,
    as_legacy_result,
    as_modern_result,
    own_result,
)
from gateway.mcp.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MISSING_CAPABILITY,
    RESOURCE_NOT_FOUND,
    URL_ELICITATION_REQUIRED,
    Reply,
    encode,
)
from gateway.mcp.request import RequestContext
from gateway.mcp.results import plain, says
from gateway.mcp.upstream import UpstreamError
from gateway.model import Reason
from persistence.records import AuditStatus


def checked(reply: Reply) -> Reply:
    """An upstream's reply that can be read by everybody. Raises UpstreamError where it is none.

    Its JSON was read without its strings: what is in them becomes text, be it in UTF-8 or not, only here.
    """
    payload = reply.error if reply.result is None else reply.result
    try:
        str(payload or b"", "utf-8")
        if reply.result is None:
            _ERROR.decode(payload or b"")
            return reply
        result = bytes(reply.result)
        if result.lstrip()[:1] != b"{":
            raise UpstreamError(Reason.UPSTREAM_INVALID, "The upstream's result is not an object.")
        made = plain(result)
        return reply if made is result else Reply(reply.id, result=msgspec.Raw(made))
    except UnicodeDecodeError:
        raise UpstreamError(Reason.UPSTREAM_INVALID, "The upstream's reply is not in UTF-8.") from None
    except msgspec.MsgspecError:
        detail = "The upstream's error is not an object with code and message."
        raise UpstreamError(Reason.UPSTREAM_INVALID, detail) from None


def for_modern(request: RequestContext, reply: Reply, upstream: Era) -> Reply:
    """An upstream's reply, ``checked``, for a modern client."""
    if reply.result is not None:
        cacheable = request.message.method in CACHEABLE
        result = as_modern_result(bytes(reply.result), upstream=upstream, cacheable=cacheable)
        return Reply(reply.id, result=msgspec.Raw(result))
    code = None if reply.error is None else code_of(reply.error)
    if reply.error is not None and code == URL_ELICITATION_REQUIRED:
        return _urls_to_open(request, reply.error)
    if reply.error is not None and code == RESOURCE_NOT_FOUND:
        error = msgspec.json.decode(reply.error, type=dict[str, msgspec.Raw])
        return Reply(reply.id, error=msgspec.Raw(encode({**error, "code": INVALID_PARAMS})))
    return reply


class _Elicitation(msgspec.Struct):
    url: str
    message: str = ""


class _Elicitations(msgspec.Struct):
    elicitations: list[_Elicitation]


class _UrlsRequired(msgspec.Struct):
    message: str
    data: _Elicitations | None = None


def _urls_to_open(request: RequestContext, error: msgspec.Raw) -> Reply:
    """What a legacy upstream says with a code that the modern era has not: call again once these URLs were opened."""
    try:
        said = msgspec.json.decode(error, type=_UrlsRequired)
    except msgspec.ValidationError:
        return error_reply(INTERNAL_ERROR, "The server wants URLs to be opened, but does not say which.")
    urls = said.data.elicitations if said.data is not None else []
    message = request.message
    if message.method not in ASKING or not urls:
        return error_reply(INTERNAL_ERROR, said.message)
    declared = request.metadata.capabilities.get("elicitation") if request.metadata is not None else None
    if not isinstance(declared, dict) or "url" not in declared:
        missing: dict[str, Any] = {"requiredCapabilities": {"elicitation": {"url": {}}}}
        return error_reply(MISSING_CAPABILITY, said.message, missing)
    answers = message.params.get("inputResponses")
    answers = answers.values() if isinstance(answers, dict) else ()
    if any(isinstance(one, dict) and one.get("action") in {"decline", "cancel"} for one in answers):
        return error_reply(INVALID_REQUEST, said.message)
    asked = {
        f"url{number}": {
            "method": "elicitation/create",
            "params": {"mode": "url", "url": one.url, "message": one.message or said.message},
        }
        for number, one in enumerate(urls)
    }
    return Reply(
        None, result=msgspec.Raw(encode(own_result({"resultType": "input_required", "inputRequests": asked})))
    )


def for_legacy(reply: Reply) -> Reply:
    """A modern upstream's reply, ``checked``, for a legacy client."""
    if reply.result is None:
        return reply
    return Reply(reply.id, result=msgspec.Raw(as_legacy_result(bytes(reply.result))))


def error_reply(code: int, message: str, data: dict[str, Any] | None = None) -> Reply:
    """An error of the gateway's own, in the place of a reply."""
    error = {"code": code, "message": message}
    return Reply(None, error=msgspec.Raw(encode(error if data is None else {**error, "data": data})))


class _ErrorObject(msgspec.Struct):
    code: int
    message: str


_ERROR: Final = msgspec.json.Decoder(_ErrorObject)


def code_of(error: msgspec.Raw) -> int:
    """The JSON-RPC code of an error, ours or ``checked``."""
    return _ERROR.decode(error).code


def _asks(result: bytes) -> bool:
    """Whether the call goes on once the client has answered."""
    try:
        return _TOOL_RESULT.decode(result).resultType == "input_required"
    except msgspec.MsgspecError:
        return False


class _ToolResult(msgspec.Struct):
    isError: bool = False  # noqa: N815 - the protocol's name
    resultType: str = ""  # noqa: N815


_TOOL_RESULT: Final = msgspec.json.Decoder(_ToolResult)


def status_of(reply: Reply) -> tuple[AuditStatus, str | None]:
    """How the call ended, for the audit."""
    if reply.result is None:
        return AuditStatus.ERROR, "upstream_error"
    raw = bytes(reply.result)
    if not says(raw, "isError"):
        return AuditStatus.OK, "input_required" if says(raw, "input_required") and _asks(raw) else None
    try:
        failed = _TOOL_RESULT.decode(raw).isError
    except msgspec.MsgspecError:
        failed = False
    return (AuditStatus.ERROR, "tool_error") if failed else (AuditStatus.OK, None)
