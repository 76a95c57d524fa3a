"""How each refusal is answered: the one table from Reason to HTTP status, challenge, JSON-RPC code and audit event.

Errors are ``application/problem+json`` (RFC 9457), with ``reason`` and ``request_id`` beside the standard members.
401 and 403 carry ``WWW-Authenticate`` (RFC 6750 section 3, RFC 9728 section 5.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from gateway.mcp.messages import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    RequestId,
    encode_error,
)
from gateway.model import Deny, Reason
from persistence.records import AuditStatus


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of the table."""

    status: int
    """HTTP (RFC 9110 section 15)."""
    title: str
    code: int = INVALID_REQUEST
    """JSON-RPC, where the request has an id. None of the gateway's own: 2026-07-28 leaves no room for them."""
    challenge: str | None = None
    """``error`` of the Bearer challenge (RFC 6750 section 3.1); "" for a challenge without one."""
    event: str | None = None
    """The audit event of such a refusal at the edge; None: nobody was refused, so there is none."""
    outcome: AuditStatus = AuditStatus.FAILED


def _unauthenticated(title: str, challenge: str = "invalid_token") -> Answer:
    return Answer(401, title, challenge=challenge, event="auth_failed")


def _malformed(status: int, title: str, code: int = INVALID_REQUEST) -> Answer:
    return Answer(status, title, code, event="request_refused", outcome=AuditStatus.DENIED)


def _forbidden(title: str) -> Answer:
    return Answer(403, title, challenge="", event="access_denied", outcome=AuditStatus.DENIED)


ANSWERS: Final[dict[Reason, Answer]] = {
    Reason.AUTHENTICATION_REQUIRED: _unauthenticated("Authentication is required", challenge=""),
    Reason.INVALID_CREDENTIALS: _unauthenticated("The credentials are wrong", challenge=""),
    Reason.TOKEN_MALFORMED: _unauthenticated("The token is malformed"),
    Reason.TOKEN_EXPIRED: _unauthenticated("The token has expired"),
    Reason.TOKEN_NOT_YET_VALID: _unauthenticated("The token is not valid yet"),
    Reason.TOKEN_SIGNATURE: _unauthenticated("The token's signature is wrong"),
    Reason.TOKEN_ISSUER: _unauthenticated("The token is from another issuer"),
    Reason.TOKEN_AUDIENCE: _unauthenticated("The token is for another audience"),
    Reason.TOKEN_TYPE: _unauthenticated("The token is of the wrong type"),
    Reason.TOKEN_REVOKED: _unauthenticated("The token was revoked"),
    Reason.TOKEN_UNKNOWN: _unauthenticated("The token is unknown"),
    Reason.CERTIFICATE_MISMATCH: _unauthenticated("The certificate and the token disagree"),
    Reason.CERTIFICATE_REQUIRED: _unauthenticated("A client certificate is required"),
    Reason.CERTIFICATE_EXPIRED: _unauthenticated("The client certificate has expired"),
    Reason.CERTIFICATE_REVOKED: _unauthenticated("The client certificate was revoked"),
    Reason.CERTIFICATE_UNTRUSTED: _unauthenticated("The client certificate's CA is not trusted"),
    Reason.CRL_EXPIRED: _unauthenticated("The list of revoked certificates is out of date"),
    Reason.CERTIFICATE_UNMAPPED: _unauthenticated("The client certificate names no client"),
    Reason.CLIENT_DISABLED: _unauthenticated("The client is disabled"),
    Reason.CLIENT_UNKNOWN: _unauthenticated("The client is unknown"),
    Reason.API_KEY_UNKNOWN: _unauthenticated("The API key is unknown"),
    Reason.API_KEY_EXPIRED: _unauthenticated("The API key has expired"),
    Reason.UNSUPPORTED_CREDENTIALS: _unauthenticated("The credentials are of an unsupported kind"),
    Reason.PERMISSION_DENIED: Answer(
        403,
        "Permission denied",
        challenge="insufficient_scope",
        event="access_denied",
        outcome=AuditStatus.DENIED,
    ),
    Reason.HOST_NOT_ALLOWED: _forbidden("The Host is not one of this gateway's names"),
    Reason.ORIGIN_NOT_ALLOWED: _forbidden("The Origin is not allowed"),
    Reason.TENANT_MISMATCH: _forbidden("The tenant is not the caller's"),
    Reason.NOT_FOUND: _malformed(404, "Not found", METHOD_NOT_FOUND),
    Reason.METHOD_NOT_ALLOWED: _malformed(405, "The method is not allowed"),
    Reason.API_KEY_NOT_FOUND: _malformed(404, "The API key is unknown"),
    Reason.SESSION_UNKNOWN: _malformed(404, "The session is unknown"),
    Reason.BAD_REQUEST: _malformed(400, "Bad request"),
    Reason.AMBIGUOUS_CREDENTIALS: Answer(
        400, "The credentials are ambiguous", challenge="invalid_request", event="auth_failed"
    ),
    Reason.AMBIGUOUS_REQUEST: _malformed(400, "Ambiguous request"),
    Reason.BODY_TOO_LARGE: _malformed(413, "The body is too large"),
    Reason.CONTENT_ENCODING: _malformed(415, "Content-Encoding is not supported"),
    Reason.CONTENT_TYPE: _malformed(415, "The media type is not supported"),
    Reason.NOT_ACCEPTABLE: _malformed(406, "Not acceptable"),
    Reason.PROTOCOL_VERSION: _malformed(400, "The MCP revision is not supported"),
    Reason.PASSWORD_REJECTED: _malformed(400, "The password cannot be used"),
    Reason.EMAIL_CODE_INVALID: _malformed(400, "The e-mail address is not proven"),
    Reason.MFA_REQUIRED: _unauthenticated("A second factor is required", challenge=""),
    Reason.MFA_CODE_INVALID: _unauthenticated("The code is wrong", challenge=""),
    Reason.MFA_SESSION_INVALID: _unauthenticated("The sign-in has expired", challenge=""),
    Reason.CONFLICT: _malformed(409, "Conflict with what is there"),
    Reason.REGISTRATION_CLOSED: Answer(
        403, "Nobody may register here", challenge="", event="access_denied", outcome=AuditStatus.DENIED
    ),
    Reason.INVALID_GRANT: Answer(400, "Invalid grant", event="auth_failed"),
    Reason.INVALID_SCOPE: Answer(400, "Invalid scope", event="auth_failed"),
    Reason.INVALID_TARGET: Answer(400, "Invalid target", event="auth_failed"),
    Reason.UNSUPPORTED_GRANT_TYPE: _malformed(400, "Unsupported grant type"),
    Reason.UNSUPPORTED_TOKEN_TYPE: _malformed(400, "Unsupported token type"),
    Reason.RATE_LIMITED: Answer(
        429, "Too many requests", INTERNAL_ERROR, event="rate_limited", outcome=AuditStatus.DENIED
    ),
    Reason.REQUEST_TIMEOUT: _malformed(408, "The request did not arrive in time"),
    Reason.UPSTREAM_UNAVAILABLE: Answer(502, "The upstream is not available", INTERNAL_ERROR),
    Reason.UPSTREAM_INVALID: Answer(502, "The upstream gave no valid answer", INTERNAL_ERROR),
    Reason.UPSTREAM_TIMEOUT: Answer(504, "The upstream did not answer in time", INTERNAL_ERROR),
    Reason.STORE_UNAVAILABLE: Answer(503, "The gateway cannot keep its records now", INTERNAL_ERROR),
    Reason.NOT_IMPLEMENTED: Answer(501, "Not implemented", METHOD_NOT_FOUND),
    Reason.INTERNAL_ERROR: Answer(500, "Internal error", INTERNAL_ERROR),
    Reason.INTERRUPTED: Answer(500, "Interrupted", INTERNAL_ERROR),
}


class Problem(msgspec.Struct):
    """RFC 9457 section 3, with the reason and the request's id beside it."""

    type: str
    title: str
    status: int
    detail: str
    reason: Reason
    request_id: str


class Problems:
    """Turns a Deny into a response."""

    def __init__(self, public_url: str) -> None:
        self._metadata = f"{public_url.rstrip('/')}/.well-known/oauth-protected-resource/mcp"

    def response(self, deny: Deny, request_id: str) -> web.Response:
        """The problem document."""
        answer = ANSWERS[deny.reason]
        body = msgspec.json.encode(
            Problem(
                type=f"urn:ostiary:problem:{deny.reason}",
                title=answer.title,
                status=answer.status,
                detail=deny.detail,
                reason=deny.reason,
                request_id=request_id,
            )
        )
        response = web.Response(status=answer.status, body=body, content_type="application/problem+json")
        self._set_headers(response, deny, answer)
        return response

    def json_rpc(self, deny: Deny, request_id: str, message_id: RequestId | None) -> web.Response:
        """The refusal as a JSON-RPC error, where the caller's request has an id."""
        answer = ANSWERS[deny.reason]
        response = web.Response(
            status=answer.status,
            body=json_rpc_error(deny, request_id, message_id),
            content_type="application/json",
        )
        self._set_headers(response, deny, answer)
        return response

    def _set_headers(self, response: web.Response, deny: Deny, answer: Answer) -> None:
        response.headers["Cache-Control"] = "no-store"
        if answer.challenge is not None:
            response.headers["WWW-Authenticate"] = self._challenge(deny, answer.challenge)
        if deny.allow:
            response.headers["Allow"] = ", ".join(deny.allow)
        if deny.retry_after is not None:
            response.headers["Retry-After"] = str(seconds_to_wait(deny.retry_after))

    def _challenge(self, deny: Deny, error: str) -> str:
        parts = ['Bearer realm="ostiary"']
        if error:
            parts += [f'error="{error}"', f'error_description="{_quotable(deny.detail)}"']
        if deny.permissions:
            parts.append(f'scope="{" ".join(deny.permissions)}"')
        parts.append(f'resource_metadata="{self._metadata}"')
        return ", ".join(parts)


def json_rpc_error(deny: Deny, request_id: str, message_id: RequestId | None) -> bytes:
    """The refusal as a JSON-RPC error message."""
    data: dict[str, str | int] = {"reason": deny.reason.value, "request_id": request_id}
    if deny.retry_after is not None:
        data["retry_after"] = seconds_to_wait(deny.retry_after)
    return encode_error(message_id, ANSWERS[deny.reason].code, deny.detail, data)


def seconds_to_wait(seconds: float) -> int:
    """As ``Retry-After`` says it."""
    return max(1, math.ceil(seconds))


def _quotable(text: str) -> str:
    """``text`` as RFC 6750 section 3 allows it in error_description."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
