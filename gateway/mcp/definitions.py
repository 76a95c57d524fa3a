"""What a definition in a list must be, as MCP's schema says (2025-11-25 and 2026-07-28, ``schema.ts``).

Clients check a list as a whole: one definition that is not well-formed costs them all others, of all upstreams. So it is
left out. What the schema does not name may be anything. Sans I/O.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType

from gateway.mcp.eras import Era
from gateway.mcp.listing import Kind

MAX_DEPTH: Final = 100
"""Objects and arrays within one another; some readers of JSON take no more than 200, with all that is around them."""
_HOSTED: Final = frozenset({"http", "https", "ws", "wss", "ftp"})
_ODD: Final = re.compile(r'[\x00-\x20\x7f<>"\\^`{|}]')
_MOMENT: Final = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
"""Date, time and offset (ISO 8601)."""
_MAX_PORT: Final = 65535
_MAX_INTEGER: Final = 2**53 - 1

_OF_THE_SCHEMA: Final = frozenset({"annotations", "arguments", "execution", "icons"})
"""Members that are objects, or lists of objects, all of whose members the schema names."""

_Text = str | UnsetType
_Flag = bool | UnsetType


class _Icon(msgspec.Struct, rename="camel"):
    src: str
    mime_type: _Text = UNSET
    sizes: list[str] | UnsetType = UNSET
    theme: Literal["light", "dark"] | UnsetType = UNSET


class _Annotations(msgspec.Struct, rename="camel"):
    audience: list[Literal["user", "assistant"]] | UnsetType = UNSET
    priority: Annotated[float, msgspec.Meta(ge=0, le=1)] | UnsetType = UNSET
    last_modified: _Text = UNSET


class _Named(msgspec.Struct, kw_only=True, rename="camel"):
    name: str
    title: _Text = UNSET
    description: _Text = UNSET
    icons: list[_Icon] | UnsetType = UNSET


class _ObjectSchema(msgspec.Struct, rename={"dialect": "$schema"}):
    type: Literal["object"]
    dialect: _Text = UNSET
    properties: dict[str, dict[str, Any] | bool] | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET


class _AnySchema(msgspec.Struct, rename={"dialect": "$schema"}):
    dialect: _Text = UNSET


class _ToolAnnotations(msgspec.Struct, rename="camel"):
    title: _Text = UNSET
    read_only_hint: _Flag = UNSET
    destructive_hint: _Flag = UNSET
    idempotent_hint: _Flag = UNSET
    open_world_hint: _Flag = UNSET


class _Execution(msgspec.Struct, rename="camel"):
    task_support: Literal["forbidden", "optional", "required"] | UnsetType = UNSET


class _Tool(_Named, kw_only=True):
    input_schema: _ObjectSchema
    annotations: _ToolAnnotations | UnsetType = UNSET
    execution: _Execution | UnsetType = UNSET


class _LegacyTool(_Tool, kw_only=True):
    output_schema: _ObjectSchema | UnsetType = UNSET


class _ModernTool(_Tool, kw_only=True):
    output_schema: _AnySchema | UnsetType = UNSET


class _Argument(msgspec.Struct):
    name: str
    title: _Text = UNSET
    description: _Text = UNSET
    required: _Flag = UNSET


class _Prompt(_Named, kw_only=True):
    arguments: list[_Argument] | UnsetType = UNSET


class _Resource(_Named, kw_only=True):
    uri: str
    mime_type: _Text = UNSET
    annotations: _Annotations | UnsetType = UNSET
    size: Annotated[float, msgspec.Meta(multiple_of=1, ge=-_MAX_INTEGER, le=_MAX_INTEGER)] | UnsetType = UNSET


class _Template(_Named, kw_only=True):
    uri_template: str
    mime_type: _Text = UNSET
    annotations: _Annotations | UnsetType = UNSET


_FORMS: Final = {Kind.PROMPT: _Prompt, Kind.RESOURCE: _Resource, Kind.TEMPLATE: _Template}


def tidied(definition: Any) -> Any:
    """The same without what many servers write and the schema does not allow: null for a member that is not there, and an
    ``inputSchema`` that does not say that it is of an object.
    """
    if not isinstance(definition, dict):
        return definition
    tidy = {
        name: _without_nulls(value) if name in _OF_THE_SCHEMA else value
        for name, value in definition.items()
        if value is not None
    }
    schema = tidy.get("inputSchema")
    if isinstance(schema, dict) and "type" not in schema:
        tidy["inputSchema"] = {"type": "object", **schema}
    return tidy


def _without_nulls(member: Any) -> Any:
    if isinstance(member, list):
        return [_without_nulls(each) if isinstance(each, dict) else each for each in member]
    if isinstance(member, dict):
        return {name: value for name, value in member.items() if value is not None}
    return member


def check_definition(kind: Kind, definition: Any, era: Era) -> None:
    """Whether it is well-formed, of an upstream that speaks that era. Raises ValueError, which says what is not."""
    if not isinstance(definition, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - of whatever is not well-formed
    if _is_deeper(definition, MAX_DEPTH):
        raise ValueError(f"it has more than {MAX_DEPTH} objects or arrays within one another")
    tool = _ModernTool if era is Era.MODERN else _LegacyTool
    try:
        msgspec.convert(definition, type=_FORMS.get(kind, tool))
    except msgspec.ValidationError as error:
        raise ValueError(f"it is malformed: {error}") from None
    if kind is Kind.RESOURCE and not _is_uri(definition["uri"]):
        raise ValueError("its uri is none")


def as_all_clients_take_it(kind: Kind, definition: dict[str, Any]) -> dict[str, Any]:
    """The same definition, without what is well-formed and the official TypeScript SDK nevertheless does not take."""
    if kind is Kind.TOOL:
        schemas = {name: definition[name] for name in ("inputSchema", "outputSchema") if name in definition}
        return {**definition, **{name: _with_objects(schema) for name, schema in schemas.items()}}
    annotations = definition.get("annotations")
    if annotations is None or _MOMENT.fullmatch(annotations.get("lastModified", "")):
        return definition
    kept = {name: value for name, value in annotations.items() if name != "lastModified"}
    return {**definition, "annotations": kept}


def has_modern_output(kind: Kind, definition: dict[str, Any]) -> bool:
    """Whether it is a tool whose output is not an object, which the legacy era does not know."""
    if kind is not Kind.TOOL or "outputSchema" not in definition:
        return False
    try:
        msgspec.convert(definition["outputSchema"], type=_ObjectSchema)
    except msgspec.ValidationError:
        return True
    return False


def _with_objects(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema, with objects in the place of booleans for its properties."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return schema
    objects = {
        name: inner if not isinstance(inner, bool) else {} if inner else {"not": {}}
        for name, inner in properties.items()
    }
    return {**schema, "properties": objects}


def _is_deeper(value: object, depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _is_uri(text: str) -> bool:
    """Whether it has a scheme, and an authority that can be read, where there is one or must be one."""
    try:
        parts = urlsplit(text)
        if not parts.scheme or _ODD.search(parts.netloc) or (parts.port or 0) > _MAX_PORT:
            return False
        return bool(parts.hostname) or parts.scheme not in _HOSTED
    except ValueError:
        return False
