"""What an HTTP answer says that is no result: to the request alone, or of the session, or of the era."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.mcp.exchange import invalid, messages_in, unavailable
from gateway.mcp.messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    UNSUPPORTED_VERSION,
    Rejected,
    Reply,
)
from gateway.mcp.upstream import UpstreamError
from gateway.outbound.client import Response, ResponseError

MAX_REFUSAL: Final = 64 * 1024
"""Bytes that are read of an answer that is not 200."""
_OF_MODERN_REQUESTS: Final = frozenset({HEADER_MISMATCH, MISSING_CAPABILITY, INVALID_PARAMS})
"""What the modern era says with 400 of a single request."""


class ErrorAnswer:
    """An answer that is not 200."""

    def __init__(self, status: int, body: bytes, request_id: int | None = None) -> None:
        """``request_id``: of the request that it answers, where that is one."""
        self.status = status
        self._body = body
        try:
            messages = messages_in(body)
        except Rejected:
            messages = []
        errors = [one for one in messages if isinstance(one, Reply) and one.error is not None]
        self.reply = next(
            (error for error in errors if request_id is not None and error.id == request_id), None
        )
        """The JSON-RPC error with which the request is answered, if it is."""
        self.error = None if not errors else errors[0].error
        """The JSON-RPC error that it is, if it is one, whatever it answers."""

    def forgets_session(self) -> bool:
        """Whether the server knows the session no longer. It should say 404; some say 400 and speak of the session.

        What speaks of it as the answer to the request is that answer: the server took the request, whatever it lacks.
        """
        speaks_of_it = self.status == 400 and self.reply is None and b"session" in self._body.lower()
        return self.status == 404 or speaks_of_it

    def doubts_era(self, *, modern: bool) -> bool:
        """Whether it would be explained by the server speaking no longer the era in which it was asked."""
        code = None if self.error is None else error_code(self.error)
        if code == UNSUPPORTED_VERSION:
            return True
        if not modern:
            return self.status in {400, 404}
        return (
            self.reply is None
            if self.status == 404
            else self.status == 400 and code not in _OF_MODERN_REQUESTS
        )


class _Code(msgspec.Struct):
    code: int


_CODE: Final = msgspec.json.Decoder(_Code)


def error_code(error: msgspec.Raw) -> int | None:
    """The code of what a server gave for a JSON-RPC error; None: it has none."""
    try:
        return _CODE.decode(error).code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


async def refused(response: Response, request_id: int | None = None) -> ErrorAnswer:
    """An answer that is not 200, to that request. A body that is too large, or none, says nothing. Raises OutboundError."""
    try:
        body = await response.read(MAX_REFUSAL)
    except ResponseError:
        body = b""
    return ErrorAnswer(response.status, body, request_id)


def refusal(name: str, status: int) -> UpstreamError:
    """What an answer with that status comes to, where it says no more. ``name``: the upstream's."""
    what = f"answered with HTTP status {status}"
    if status in {401, 403, 404, 429} or status >= 500:
        return unavailable(name, what)
    return invalid(name, what)
