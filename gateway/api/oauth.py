"""The forms of OAuth 2.0: what a request's parameters and client credentials look like, and how errors are answered.

Parameters come as a form (RFC 6749 section 3.2) or as a JSON object with the same names. Nothing may be there twice, and
no secret may be in the URL (RFC 6749 section 2.3.1).
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, unquote, unquote_plus

import msgspec
from aiohttp import web
from msgspec import Meta

from gateway.edge.handler import GatewayRequest, read_body
from gateway.model import Deny, Inbound, Reason, Refused
from gateway.problems import ANSWERS
from gateway.strict_json import StrictJsonError, parse_object

MAX_BODY: Final = 64 * 1024
_MAX_FIELDS: Final = 32
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_IN_URL: Final = frozenset({"scope", "resource", "grant_type"})
"""The parameters that may be in the query of GET; the others are secrets, or mean nothing there."""
_REPEATABLE: Final = "resource"
"""RFC 8707 section 2."""

_Text = Annotated[str, Meta(max_length=16 * 1024)]


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a request to an OAuth endpoint says. Unknown parameters are ignored (RFC 6749 section 3.2)."""

    grant_type: _Text | None = None
    username: _Text | None = None
    password: _Text | None = None
    client_id: _Text | None = None
    client_secret: _Text | None = None
    refresh_token: _Text | None = None
    scope: _Text | None = None
    resource: _Text | tuple[_Text, ...] = ()
    token: _Text | None = None
    token_id: _Text | None = None

    def __repr__(self) -> str:
        return "Parameters(…)"

    @property
    def resources(self) -> tuple[str, ...]:
        """Every ``resource`` (RFC 8707)."""
        return (self.resource,) if isinstance(self.resource, str) else self.resource


@dataclass(frozen=True, slots=True)
class Secret:
    """A name with its password, as sent; never shown."""

    name: str
    readings: tuple[str, ...]
    """The password, once for each way in which it may be meant."""
    is_grant: bool = False
    """Whether it is the ``username`` and ``password`` of a body: the grant itself, not the client's authentication."""

    def __repr__(self) -> str:
        return "Secret(…)"


class CredentialsRefused(Refused):
    """What proves the caller, or was to be exchanged for a token, is not good."""

    def __init__(self, deny: Deny, *, invalid_grant: bool, shown: Deny | None = None) -> None:
        """``invalid_grant``: it is the grant, so that is the error. ``shown``: what the caller may know of ``deny``."""
        super().__init__(deny)
        self.invalid_grant = invalid_grant
        self.shown = shown or deny


def _bad(detail: str) -> Refused:
    return Refused(Deny(Reason.BAD_REQUEST, detail))


# Reading


def url_parameters(request: GatewayRequest) -> Parameters:
    """The parameters in the URL. Raises Refused, for those that must not be there, too."""
    query = request.raw_path.partition("?")[2]
    fields = _fields(query)
    if not fields.keys() <= _IN_URL:
        allowed = ", ".join(sorted(_IN_URL))
        raise _bad(f"Only {allowed} may be in the URL: send credentials in a header or in the body.")
    return _parameters(fields)


async def body_parameters(request: GatewayRequest) -> Parameters:
    """The parameters in the body. Raises Refused."""
    if request.raw_path.partition("?")[2]:
        raise _bad("Send the parameters in the body, not in the URL.")
    body = await read_body(request, MAX_BODY)
    if not body:
        return Parameters()
    content_type = request.content_type
    if content_type not in {_FORM, _JSON} or (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise Refused(Deny(Reason.CONTENT_TYPE, f"Send {_FORM} or {_JSON}, in UTF-8."))
    if content_type == _JSON:
        try:
            return _parameters(parse_object(body))
        except StrictJsonError as error:
            raise _bad(f"The body is not acceptable: {error}.") from None
    try:
        return _parameters(_fields(body.decode()))
    except UnicodeDecodeError:
        raise _bad("The body is not UTF-8.") from None


def _fields(text: str) -> dict[str, Any]:
    """A form's fields; those without a value are left out (RFC 6749 section 3.1)."""
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise _bad("The form cannot be read: write name=value, with & between.") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name == _REPEATABLE:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise Refused(Deny(Reason.AMBIGUOUS_REQUEST, "A parameter is there more than once."))
        else:
            fields[name] = value
    return {name: value for name, value in fields.items() if value != ""}


def _parameters(fields: dict[str, Any]) -> Parameters:
    try:
        return msgspec.convert(fields, Parameters)
    except msgspec.ValidationError:
        raise _bad("A parameter has the wrong type: they are strings of at most 16384 characters.") from None


def basic_secret(field: str) -> Secret | None:
    """The name and password of an ``Authorization: Basic`` field (RFC 7617); None: it is of another scheme.

    RFC 6749 section 2.3.1 form-encodes both, but most clients send them as they are. No name has a ``%``, so one in it
    tells; without it the password is read both ways. Raises Refused.
    """
    scheme, _, value = field.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(value.strip(" "), validate=True).decode()
    except (binascii.Error, ValueError):
        raise _unreadable_basic() from None
    name, colon, password = text.partition(":")
    if not colon:
        raise _unreadable_basic()
    decoded = unquote_plus(password)
    if "%" in name:
        return Secret(unquote(name), (decoded,))
    return Secret(name, (password,) if password == decoded else (password, decoded))


def _unreadable_basic() -> Refused:
    return Refused(
        Deny(
            Reason.INVALID_CREDENTIALS,
            "Authorization: Basic is base64 of name, colon and password, in UTF-8.",
        )
    )


def sent_secret(inbound: Inbound, parameters: Parameters) -> Secret | None:
    """The one password that came with the request. Raises Refused where there is more than one (RFC 6749 2.3)."""
    if len(inbound.authorization) + len(inbound.api_keys) > 1:
        raise _ambiguous()
    basic = basic_secret(inbound.authorization[0]) if inbound.authorization else None
    if (parameters.username is None) != (parameters.password is None):
        raise _bad("username and password belong together.")
    if parameters.client_secret is not None and parameters.client_id is None:
        raise _bad("client_secret needs a client_id.")
    secrets = [basic] if basic is not None else []
    if parameters.username is not None and parameters.password is not None:
        secrets.append(Secret(parameters.username, (parameters.password,), is_grant=True))
    if parameters.client_id is not None and parameters.client_secret is not None:
        secrets.append(Secret(parameters.client_id, (parameters.client_secret,)))
    other_kind = basic is None and bool(inbound.authorization or inbound.api_keys)
    if len(secrets) + other_kind > 1:
        raise _ambiguous()
    secret = secrets[0] if secrets else None
    if secret is not None and parameters.client_id not in {None, secret.name}:
        raise _bad("client_id names another client than the credentials: here a client is its account.")
    return secret


def _ambiguous() -> Refused:
    return Refused(
        Deny(Reason.AMBIGUOUS_CREDENTIALS, "Send one credential: a header, or client_secret, or a password.")
    )


# Answering

_ERRORS: Final = {
    Reason.INVALID_GRANT: "invalid_grant",
    Reason.INVALID_SCOPE: "invalid_scope",
    Reason.INVALID_TARGET: "invalid_target",
    Reason.UNSUPPORTED_GRANT_TYPE: "unsupported_grant_type",
    Reason.UNSUPPORTED_TOKEN_TYPE: "unsupported_token_type",
    Reason.INTERNAL_ERROR: "server_error",
    Reason.RATE_LIMITED: "temporarily_unavailable",
}
"""RFC 6749 section 5.2, RFC 8707 section 2, RFC 7009 section 2.2.1; for other reasons the status decides."""
_BY_STATUS: Final = {401: "invalid_client", 403: "unauthorized_client", 429: "temporarily_unavailable"}
_CLOSING: Final = frozenset({Reason.CERTIFICATE_EXPIRED, Reason.CERTIFICATE_REVOKED})

NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""RFC 6749 section 5.1."""


class OAuthError(msgspec.Struct):
    """RFC 6749 section 5.2, with the reason and the request's id beside it."""

    error: str
    error_description: str
    reason: Reason
    request_id: str


def oauth_error(
    deny: Deny, request_id: str, metadata: str, *, invalid_grant: bool = False, bearer: bool = False
) -> web.Response:
    """The refusal as RFC 6749 section 5.2 has it.

    ``metadata``: the URL of the protected resource's metadata. ``invalid_grant``: what is wrong is the grant, not the
    client's authentication. ``bearer``: the endpoint takes bearer tokens, too.
    """
    status, error = _status_and_error(deny.reason, invalid_grant=invalid_grant)
    description = "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in deny.detail)
    body = msgspec.json.encode(OAuthError(error, description, deny.reason, request_id))
    response = web.Response(status=status, body=body, content_type=_JSON, headers=NO_STORE)
    if status == 401:  # RFC 9110 section 11.6.1: it names every way in
        response.headers.add("WWW-Authenticate", 'Basic realm="ostiary", charset="UTF-8"')
    if status == 403 or error == "invalid_token" or (status == 401 and bearer):
        response.headers.add("WWW-Authenticate", _bearer_challenge(error, description, deny, metadata))
    if deny.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(deny.retry_after)))
    if deny.allow:
        response.headers["Allow"] = ", ".join(deny.allow)
    if deny.reason in _CLOSING:
        response.force_close()
    return response


def _status_and_error(reason: Reason, *, invalid_grant: bool) -> tuple[int, str]:
    status = ANSWERS[reason].status
    if invalid_grant and status < 429:
        return 400, "invalid_grant"
    if status == 401 and reason.startswith("token_"):
        return 401, "invalid_token"  # RFC 6750 section 3.1
    if reason in _ERRORS:
        return status, _ERRORS[reason]
    return status, _BY_STATUS.get(status, "temporarily_unavailable" if status >= 500 else "invalid_request")


def _bearer_challenge(error: str, description: str, deny: Deny, metadata: str) -> str:
    """RFC 6750 section 3, RFC 9728 section 5.1."""
    parts = ['Bearer realm="ostiary"']
    if ANSWERS[deny.reason].status == 403:
        parts += ['error="insufficient_scope"', f'error_description="{description}"']
    elif error == "invalid_token":
        parts += ['error="invalid_token"', f'error_description="{description}"']
    if deny.permissions:
        parts.append(f'scope="{" ".join(deny.permissions)}"')
    parts.append(f'resource_metadata="{metadata}"')
    return ", ".join(parts)
