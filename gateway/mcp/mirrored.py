"""What the headers of a modern request repeat of its body, so that proxies need not read it (MCP 2026-07-28, transports).

``MCP-Protocol-Version``, ``Mcp-Method`` and ``Mcp-Name`` repeat what the message says; ``Mcp-Param-*`` the arguments that
a tool's schema marks with ``x-mcp-header``. Who acts on the one must not be told anything else by the other. Sans I/O.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.mcp.messages import HEADER_MISMATCH, Params, Rejected, RequestId

VERSION_HEADER: Final = "MCP-Protocol-Version"
METHOD_HEADER: Final = "Mcp-Method"
NAME_HEADER: Final = "Mcp-Name"
PARAMETER: Final = "Mcp-Param-"
NAMED: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    **dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId"),
}
"""The methods with an ``Mcp-Name``, and the parameter that it repeats."""

_ENCODED: Final = re.compile(r"=\?base64\?(.*)\?=")
_PLAIN: Final = re.compile(r"[\x20-\x7e]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL: Final = re.compile(r"(-?[0-9]{1,16})(?:\.0+)?")
_TYPES: Final = frozenset({"string", "integer", "boolean"})
_MAX_INTEGER: Final = 2**53 - 1
_INNER: Final = frozenset(
    {
        "items",
        "contains",
        "unevaluatedItems",
        "additionalProperties",
        "propertyNames",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
        "allOf",
        "anyOf",
        "oneOf",
        "prefixItems",
    }
)
_INNER_BY_NAME: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})


class Headers(Protocol):
    """The header fields of a request; names are compared without regard to case."""

    def getall(self, name: str, default: list[str], /) -> Sequence[str]:
        """Every value of that name."""

    def __contains__(self, name: object, /) -> bool:
        """Whether there is any."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """An argument that is repeated in a header."""

    path: tuple[str, ...]
    """Where it is: the names of nested properties."""
    header: str
    integer: bool = False
    """Whether the two are compared as numbers."""


def check_request(headers: Headers, version: str, method: str, params: Params, message_id: RequestId) -> None:
    """Whether the standard headers say what the body says. Raises Rejected."""
    _check(headers, VERSION_HEADER, version, message_id, encoded=False)
    _check(headers, METHOD_HEADER, method, message_id, encoded=False)
    key = NAMED.get(method)
    name = params.get(key) if key is not None else None
    if isinstance(name, str):
        _check(headers, NAME_HEADER, name, message_id)


def check_repeated(headers: Headers, method: str, params: Params, message_id: RequestId) -> None:
    """Whether a legacy request, which needs none of these headers, has none that says something else. Raises Rejected."""
    if METHOD_HEADER in headers:
        _check(headers, METHOD_HEADER, method, message_id, encoded=False)
    if NAME_HEADER in headers:
        name = params.get(NAMED.get(method, ""))
        _check(headers, NAME_HEADER, name if isinstance(name, str) else None, message_id)


def check_arguments(
    headers: Headers,
    mirrored: Sequence[Mirrored],
    arguments: object,
    message_id: RequestId,
    *,
    needed: bool = True,
) -> None:
    """Whether every argument that a header should repeat is repeated, and nothing else is. Raises Rejected.

    ``needed``: whether headers must be there; where they are, they must agree in any case.
    """
    for one in mirrored:
        if not needed and one.header not in headers:
            continue
        _check(headers, one.header, _rendered(arguments, one.path), message_id, number=one.integer)


def argument_headers(mirrored: Sequence[Mirrored], arguments: object) -> list[tuple[str, str]]:
    """The ``Mcp-Param-*`` fields of a call."""
    values = ((one.header, _rendered(arguments, one.path)) for one in mirrored)
    return [(header, encode_value(value)) for header, value in values if value is not None]


def request_headers(version: str, method: str, params: Params) -> list[tuple[str, str]]:
    """The standard fields of a request."""
    fields = [(VERSION_HEADER, version), (METHOD_HEADER, method)]
    name = params.get(NAMED.get(method, ""))
    return [*fields, (NAME_HEADER, encode_value(name))] if isinstance(name, str) else fields


def encode_value(value: str) -> str:
    """The value as a header may carry it."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _ENCODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def decode_value(field: str) -> str | None:
    """What a header carries; None: nothing that ``encode_value`` could have made."""
    encoded = _ENCODED.fullmatch(field)
    if encoded is None:
        return field if _PLAIN.fullmatch(field) else None
    try:
        data = base64.b64decode(encoded[1], validate=True)
        return data.decode() if base64.b64encode(data).decode() == encoded[1] else None
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def mirrored_in(schema: object) -> tuple[Mirrored, ...]:
    """What a tool's ``inputSchema`` marks. Raises ValueError where it marks what it may not."""
    found: dict[str, Mirrored] = {}
    for path, inner in _positions(schema):
        if "x-mcp-header" not in inner:
            continue
        token = inner["x-mcp-header"]
        if not path:
            raise ValueError("x-mcp-header is not on a property that can be reached by its name")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ValueError("x-mcp-header is not a header's name")
        kind = inner.get("type")
        if not isinstance(kind, str) or kind not in _TYPES:
            raise ValueError("x-mcp-header is on something other than a string, an integer or a boolean")
        if token.lower() in found:
            raise ValueError("two properties have the same x-mcp-header")
        found[token.lower()] = Mirrored(path, PARAMETER + token, integer=kind == "integer")
    return tuple(found.values())


def _positions(root: object) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every schema within a schema, with the names that lead to it; () where no names alone do."""
    waiting: list[tuple[tuple[str, ...] | None, object]] = [((), root)]
    while waiting:
        path, schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        yield path or (), schema
        for word, inner in schema.items():
            if word == "properties" and isinstance(inner, dict):
                waiting += [(None if path is None else (*path, name), one) for name, one in inner.items()]
            elif word in _INNER:
                waiting += [(None, one) for one in (inner if isinstance(inner, list) else [inner])]
            elif word in _INNER_BY_NAME and isinstance(inner, dict):
                waiting += [(None, one) for one in inner.values()]


def _rendered(arguments: object, path: Sequence[str]) -> str | None:
    """The argument as text; None where there is none that a header could carry."""
    value = arguments
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value) if abs(value) <= _MAX_INTEGER else None
    return value if isinstance(value, str) else None


def _check(
    headers: Headers,
    name: str,
    value: str | None,
    message_id: RequestId,
    *,
    number: bool = False,
    encoded: bool = True,
) -> None:
    """``number``: whether values are compared as numbers; ``encoded``: whether the Base64 form may stand for one."""
    fields = headers.getall(name, [])
    if not fields and value is None:
        return
    if len(fields) > 1:
        raise Rejected(HEADER_MISMATCH, f"Header mismatch: {name} is there more than once.", message_id)
    if not fields:
        raise Rejected(HEADER_MISMATCH, f"Header mismatch: {name} is missing.", message_id)
    said = decode_value(fields[0]) if encoded else fields[0]
    if said is None or value is None or not _equal(said, value, number=number):
        detail = f"Header mismatch: {name} does not say what the body says."
        raise Rejected(HEADER_MISMATCH, detail, message_id)


def _equal(said: str, value: str, *, number: bool) -> bool:
    if said == value:
        return True
    match = _DECIMAL.fullmatch(said) if number else None
    return match is not None and value.lstrip("-").isdigit() and int(match[1]) == int(value)
