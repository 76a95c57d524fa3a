"""The headers that repeat the body, against the official SDK's reading of the same text."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared import inbound as sdk
from multidict import CIMultiDict

from gateway.mcp.messages import HEADER_MISMATCH, Rejected
from gateway.mcp.mirrored import (
    argument_headers,
    check_arguments,
    check_repeated,
    check_request,
    decode_value,
    encode_value,
    mirrored_in,
    request_headers,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXTS


@given(TEXTS)
def test_any_text_survives_and_is_written_as_the_sdk_writes_it(text: str) -> None:
    field = encode_value(text)
    assert decode_value(field) == text
    assert field == sdk.encode_header_value(text)
    assert field.isascii()
    assert field == field.strip()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30) | st.just("=?base64?YQ=?="))
def test_what_a_field_says_is_what_the_sdk_reads(field: str) -> None:
    assert decode_value(field) == sdk.decode_header_value(field)


@pytest.mark.parametrize(
    "field", ["ünï", "a\x7f", "a\tb\x01", "=?base64?YQ?=", "=?base64?/w==?=", "=?base64?YR==?="]
)
def test_what_no_header_may_say(field: str) -> None:
    assert decode_value(field) is None


PROPERTY = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "integer", "boolean", "number", "object", ["string"]])},
    optional={"x-mcp-header": st.sampled_from(["Region", "region", "Shard", "", "no good", 7])},
)
SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), PROPERTY)}
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner)}
        ),
        st.fixed_dictionaries({"allOf": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries({"properties": st.just({}), "items": inner}),
        st.fixed_dictionaries({"$defs": st.dictionaries(st.sampled_from("ab"), inner)}),
    ),
    max_leaves=4,
)


@given(SCHEMAS)
def test_a_schema_may_mark_what_the_sdk_says_it_may(schema: Any) -> None:
    wrong = sdk.find_invalid_x_mcp_header(schema)
    if wrong is not None:
        with pytest.raises(ValueError, match="x-mcp-header"):
            mirrored_in(schema)
    else:
        found = {one.path: one.header.removeprefix("Mcp-Param-") for one in mirrored_in(schema)}
        assert found == sdk.x_mcp_header_map(schema)


SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "shard": {"type": "integer", "x-mcp-header": "Shard"},
        "where": {"type": "object", "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry"}}},
    },
}


def _refused(fields: Any, arguments: Any) -> bool:
    try:
        check_arguments(fields, mirrored_in(SCHEMA), arguments, 1)
    except Rejected as rejected:
        return (rejected.code, rejected.id) == (HEADER_MISMATCH, 1)
    return False


@given(
    st.fixed_dictionaries(
        {}, optional={"region": VALUES, "shard": VALUES, "where": st.fixed_dictionaries({"dry": VALUES})}
    ),
    st.dictionaries(
        st.sampled_from(["Mcp-Param-Region", "mcp-param-shard", "Mcp-Param-Dry"]), TEXTS.map(encode_value)
    ),
)
def test_headers_and_arguments_agree_or_are_refused(arguments: Any, other: dict[str, str]) -> None:
    own = argument_headers(mirrored_in(SCHEMA), arguments)
    assert dict(own) == sdk.mcp_param_headers(sdk.x_mcp_header_map(SCHEMA), arguments)
    assert not _refused(CIMultiDict(own), arguments)
    mixed = CIMultiDict({**dict(own), **other})
    assert _refused(mixed, arguments) == (
        sdk.validate_mcp_param_headers(SCHEMA, arguments, mixed) is not None
    )


@pytest.mark.parametrize(
    ("value", "said", "refused"),
    [
        (42, "42.0", False),
        (42, "42", False),
        (42, "43", True),
        (42, "4_2", True),
        (42, "42.5", True),
        (42.0, "42", False),
    ],
)
def test_whole_numbers_are_compared_as_numbers(value: float, said: str, refused: bool) -> None:
    assert _refused(CIMultiDict({"Mcp-Param-Shard": said}), {"shard": value}) == refused


def test_a_text_of_digits_is_compared_as_text() -> None:
    assert _refused(CIMultiDict({"Mcp-Param-Region": "042"}), {"region": "42"})


@pytest.mark.parametrize(
    ("header", "value"), [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/list")]
)
def test_what_proxies_act_on_is_never_encoded(header: str, value: str) -> None:
    fields = CIMultiDict({"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"})
    check_request(fields, "2026-07-28", "tools/list", {}, 1)
    fields[header] = f"=?base64?{base64.b64encode(value.encode()).decode()}?="
    with pytest.raises(Rejected) as caught:
        check_request(fields, "2026-07-28", "tools/list", {}, 1)
    assert caught.value.code == HEADER_MISMATCH


@pytest.mark.parametrize(
    ("fields", "agrees"),
    [
        ([], True),
        ([("Mcp-Method", "tools/call"), ("mcp-name", "x")], True),
        ([("Mcp-Name", "=?base64?eA==?=")], True),
        ([("Mcp-Method", "tools/list")], False),
        ([("Mcp-Method", "tools/call"), ("Mcp-Method", "tools/call")], False),
        ([("Mcp-Name", "harmless")], False),
    ],
)
def test_a_legacy_request_needs_no_headers_but_none_that_says_something_else(
    fields: list[tuple[str, str]], agrees: bool
) -> None:
    headers = CIMultiDict(fields)
    if agrees:
        check_repeated(headers, "tools/call", {"name": "x"}, 1)
        return
    with pytest.raises(Rejected) as caught:
        check_repeated(headers, "tools/call", {"name": "x"}, 1)
    assert caught.value.code == HEADER_MISMATCH


def test_nor_does_a_legacy_call_repeat_arguments_wrongly() -> None:
    mirrored = mirrored_in(
        {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    )
    check_arguments(CIMultiDict(), mirrored, {"region": "eu"}, 1, needed=False)
    check_arguments(CIMultiDict({"Mcp-Param-Region": "eu"}), mirrored, {"region": "eu"}, 1, needed=False)
    with pytest.raises(Rejected):
        check_arguments(CIMultiDict({"Mcp-Param-Region": "us"}), mirrored, {"region": "eu"}, 1, needed=False)


def test_a_field_twice_is_refused() -> None:
    fields = CIMultiDict([("Mcp-Param-Region", "a"), ("Mcp-Param-Region", "a")])
    assert _refused(fields, {"region": "a"})
    twice = CIMultiDict([*request_headers("2026-07-28", "tools/call", {"name": "x"}), ("Mcp-Name", "x")])
    with pytest.raises(Rejected):
        check_request(twice, "2026-07-28", "tools/call", {"name": "x"}, 1)


@given(TEXTS)
def test_what_the_gateway_sends_it_would_accept(name: str) -> None:
    for method, params in (
        ("tools/call", {"name": name}),
        ("resources/read", {"uri": name}),
        ("tools/list", {}),
    ):
        fields = CIMultiDict(request_headers("2026-07-28", method, params))
        check_request(fields, "2026-07-28", method, params, 1)
