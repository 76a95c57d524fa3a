"""What is let into a list, every client can read: checked against the official SDK's own reading of each revision."""

from __future__ import annotations

import copy
from typing import Any

import mcp_types._v2025_11_25 as legacy
import mcp_types._v2026_07_28 as modern
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mcp.definitions import MAX_DEPTH, as_all_clients_take_it, check_definition, tidied
from gateway.mcp.eras import Era
from gateway.mcp.listing import Kind

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": True},
    "required": ["a"],
    "additionalProperties": False,
}
COMMON = {
    "name": "n",
    "title": "t",
    "description": "d",
    "icons": [{"src": "data:,x", "mimeType": "image/png", "sizes": ["48x48"], "theme": "dark"}],
}
ANNOTATIONS = {"audience": ["user", "assistant"], "priority": 1, "lastModified": "2025-01-12T15:00:58Z"}
WHOLE: dict[Kind, dict[str, Any]] = {
    Kind.TOOL: {
        **COMMON,
        "inputSchema": SCHEMA,
        "outputSchema": SCHEMA,
        "annotations": {
            "title": "t",
            "readOnlyHint": True,
            "destructiveHint": True,
            "idempotentHint": False,
            "openWorldHint": False,
        },
        "execution": {"taskSupport": "optional"},
    },
    Kind.PROMPT: {
        **COMMON,
        "arguments": [{"name": "a", "title": "t", "description": "d", "required": True}, {"name": "b"}],
    },
    Kind.RESOURCE: {**COMMON, "uri": "x://y/z", "mimeType": "a/b", "annotations": ANNOTATIONS, "size": 5},
    Kind.TEMPLATE: {**COMMON, "uriTemplate": "x://{y}", "mimeType": "a/b", "annotations": ANNOTATIONS},
}
MODELS = {
    Kind.TOOL: "Tool",
    Kind.PROMPT: "Prompt",
    Kind.RESOURCE: "Resource",
    Kind.TEMPLATE: "ResourceTemplate",
}
VALUES: list[Any] = [
    None,
    True,
    5,
    0.5,
    -1,
    "",
    "x",
    [],
    ["x"],
    [5],
    [{}],
    {},
    {"name": 5},
    {"type": "object"},
]


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_well_formed_is_let_in(kind: Kind, era: Era) -> None:
    check_definition(kind, WHOLE[kind], era)
    check_definition(kind, {**WHOLE[kind], "more": None, "_meta": {"x": 5}}, era)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every member of every object and array within it."""
    members = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    inner = [place for _, one in members if isinstance(one, dict | list) for place in _places(one)]
    return [(value, key) for key, _ in members] + inner


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(Kind)), st.sampled_from(list(Era)), st.data())
def test_what_is_let_in_the_official_sdk_reads(kind: Kind, era: Era, data: st.DataObject) -> None:
    definition = copy.deepcopy(WHOLE[kind])
    holder, key = data.draw(st.sampled_from(_places(definition)))
    if data.draw(st.booleans()):
        holder[key] = data.draw(st.sampled_from(VALUES))
    else:
        del holder[key]
    try:
        check_definition(kind, definition, era)
    except ValueError:
        return
    wire = msgspec.json.decode(msgspec.json.encode(as_all_clients_take_it(kind, definition)))
    getattr(legacy if era is Era.LEGACY else modern, MODELS[kind]).model_validate(wire)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "x",
        "/x",
        "x y://z",
        "x_y://z",
        "1x:y",
        "http://",
        "x://h:99999/",
        "x://h:p/",
        "x://[::1",
        "x://a b/c",
    ],
)
def test_a_resource_whose_uri_is_none_is_left_out(uri: str) -> None:
    with pytest.raises(ValueError, match="its uri is none"):
        check_definition(Kind.RESOURCE, {"name": "n", "uri": uri}, Era.LEGACY)


def test_what_many_servers_write_is_mended() -> None:
    written = {
        "name": "n",
        "title": None,
        "annotations": {"title": None, "readOnlyHint": True},
        "icons": [{"src": "data:,x", "theme": None}],
        "inputSchema": {"properties": {"a": {"default": None}}},
        "_meta": {"x": None},
    }
    mended = tidied(written)
    assert mended == {
        "name": "n",
        "annotations": {"readOnlyHint": True},
        "icons": [{"src": "data:,x"}],
        "inputSchema": {"type": "object", "properties": {"a": {"default": None}}},
        "_meta": {"x": None},
    }
    check_definition(Kind.TOOL, mended, Era.LEGACY)
    with pytest.raises(ValueError, match="inputSchema"):
        check_definition(Kind.TOOL, tidied({"name": "n", "inputSchema": None}), Era.LEGACY)
    for nothing in (None, 5, [None], "n"):
        assert tidied(nothing) == nothing


def test_what_is_nested_too_deep_is_left_out() -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(MAX_DEPTH - 2):
        deep = {"type": "object", "items": deep}
    check_definition(Kind.TOOL, {"name": "n", "inputSchema": deep}, Era.LEGACY)
    with pytest.raises(ValueError, match="more than 100 objects or arrays within one another"):
        check_definition(
            Kind.TOOL, {"name": "n", "inputSchema": {"type": "object", "items": deep}}, Era.LEGACY
        )


@pytest.mark.parametrize("moment", ["2025-01-12", "2025-01-12T15:00:58", "2025-01-12 15:00:58Z", "soon", ""])
def test_what_is_no_moment_is_taken_out_and_a_boolean_schema_becomes_an_object(moment: str) -> None:
    resource = {"name": "n", "uri": "x://y", "annotations": {"lastModified": moment, "priority": 1}}
    check_definition(Kind.RESOURCE, resource, Era.LEGACY)
    assert as_all_clients_take_it(Kind.RESOURCE, resource)["annotations"] == {"priority": 1}
    tool = {"name": "n", "inputSchema": {"type": "object", "properties": {"a": True, "b": False, "c": {}}}}
    properties = as_all_clients_take_it(Kind.TOOL, tool)["inputSchema"]["properties"]
    assert properties == {"a": {}, "b": {"not": {}}, "c": {}}
    assert as_all_clients_take_it(Kind.RESOURCE, WHOLE[Kind.RESOURCE]) == WHOLE[Kind.RESOURCE]
