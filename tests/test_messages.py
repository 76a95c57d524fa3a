"""What a client or an upstream sends becomes one classified message, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.messages import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_DEPTH,
    PARSE_ERROR,
    Notification,
    Rejected,
    Reply,
    Request,
    encode_reply,
    encode_request,
    parse_client_message,
    parse_upstream_message,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)
PARAMS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=4)


def test_each_kind_is_told_apart() -> None:
    assert parse_client_message(b'{"jsonrpc":"2.0","id":1,"method":"ping"}') == Request(1, "ping", {})
    assert parse_client_message(b'{"jsonrpc":"2.0","method":"n","params":{"a":1}}') == Notification(
        "n", {"a": 1}
    )
    reply = parse_client_message(b'{"jsonrpc":"2.0","id":"x","result":{"a":[1]}}')
    assert isinstance(reply, Reply)
    assert reply.id == "x"
    assert bytes(reply.result or b"") == b'{"a":[1]}'


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", PARSE_ERROR),
        (b"{", PARSE_ERROR),
        (b"\xff", PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":{"y":1,"\\u0079":2}}}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":NaN}}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":1e999}}', PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":' + b"9" * 5000 + b"}}", PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":"\\ud800"}}', PARSE_ERROR),
        (b"[" * 100_000, INVALID_REQUEST),
        (b'{"a":' + b"[" * 100_000, PARSE_ERROR),
        (b'{"a":[' + b"{}," * 50_000 + b"{}]}", PARSE_ERROR),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", PARSE_ERROR),
        (b"[]", INVALID_REQUEST),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', INVALID_REQUEST),
        (b'"ping"', INVALID_REQUEST),
        (b'{"id":1,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}', INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","result":{}}', INVALID_REQUEST),
    ],
)
def test_what_is_not_one_message_is_refused(body: bytes, code: int) -> None:
    with pytest.raises(Rejected) as rejected:
        parse_client_message(body)
    assert rejected.value.code == code


def test_brackets_in_strings_are_not_depth() -> None:
    text = "[{" * 500 + '\\"'
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "a", "params": {"x": text}}).encode()
    message = parse_client_message(body)
    assert isinstance(message, Request)
    assert message.params["x"] == text


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused_or_read(body: bytes) -> None:
    try:
        parse_client_message(body)
    except Rejected:
        return


@given(
    st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    st.text(min_size=1),
    PARAMS,
)
def test_what_is_forwarded_is_what_was_read(request_id: Any, method: str, params: dict[str, Any]) -> None:
    method = method.encode("utf-8", "ignore").decode()
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()
    message = parse_client_message(body)
    assert isinstance(message, Request)
    again = parse_client_message(encode_request(message.id, message.method, message.params))
    assert again == message
    assert again.params == params


@given(JSON)
def test_an_upstreams_result_is_passed_on_as_it_is(result: Any) -> None:
    wire = json.dumps({"jsonrpc": "2.0", "id": 7, "result": result}).encode()
    reply = parse_upstream_message(wire)
    assert isinstance(reply, Reply)
    passed_on = json.loads(encode_reply("mine", reply))
    assert passed_on == {"jsonrpc": "2.0", "id": "mine", "result": json.loads(json.dumps(result))}


@given(st.binary(max_size=200))
def test_an_upstreams_rubbish_is_refused(data: bytes) -> None:
    try:
        parse_upstream_message(data)
    except Rejected:
        return
