"""Messages of one era as messages of the other."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.eras import (
    Era,
    as_legacy_request,
    as_legacy_result,
    as_modern_request,
    as_modern_result,
    at_least,
    modern_capabilities,
)
from gateway.mcp.input_rounds import required_by
from gateway.mcp.messages import Reply
from gateway.mcp.replies import checked, for_legacy, for_modern
from gateway.mcp.request_state import RequestStates, binding_of
from gateway.mcp.results import members, plain, with_members
from gateway.mcp.upstream import UpstreamError

META = "io.modelcontextprotocol/"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
RESULTS = st.dictionaries(
    st.sampled_from(["content", "resultType", "ttlMs", "cacheScope", "_meta", "x"]), JSON, max_size=4
)


def modern(result: dict[str, Any], upstream: Era, *, cacheable: bool = False) -> Any:
    return json.loads(as_modern_result(json.dumps(result).encode(), upstream=upstream, cacheable=cacheable))


@given(RESULTS, st.booleans())
def test_a_legacy_result_is_complete_whatever_it_says(result: dict[str, Any], cacheable: bool) -> None:
    made = modern(result, Era.LEGACY, cacheable=cacheable)
    assert made["resultType"] == "complete"
    if cacheable:
        assert made["cacheScope"] == "private"
        assert "ttlMs" in made
    kept = set(result) - {"resultType", "ttlMs", "cacheScope"}
    assert {name: made[name] for name in kept} == {name: result[name] for name in kept}


@given(RESULTS)
def test_a_legacy_client_sees_nothing_of_the_modern_era(result: dict[str, Any]) -> None:
    made = json.loads(as_legacy_result(json.dumps(result).encode()))
    assert made == {
        key: value for key, value in result.items() if key not in {"resultType", "ttlMs", "cacheScope"}
    }


def test_what_a_modern_upstream_lets_be_kept_by_all_is_kept_by_one() -> None:
    said = {"resultType": "complete", "contents": [], "ttlMs": 5000, "cacheScope": "public"}
    assert modern(said, Era.MODERN, cacheable=True) == {**said, "cacheScope": "private"}
    asked = {"resultType": "input_required", "requestState": "s"}
    assert modern(asked, Era.MODERN, cacheable=True) == asked


@given(
    st.dictionaries(st.sampled_from(["name", "arguments", "_meta"]), st.dictionaries(st.text("ab/"), JSON))
)
def test_a_request_there_and_back(params: Any) -> None:
    there = as_modern_request(params, b"{}", "info")
    assert there["_meta"][f"{META}protocolVersion"] == "2026-07-28"
    assert there["_meta"][f"{META}logLevel"] == "info"
    back = as_legacy_request({**there, "inputResponses": {}, "requestState": "x"})
    assert back == {key: value for key, value in params.items() if key != "_meta" or value}


def test_capabilities_in_the_words_of_the_modern_era() -> None:
    declared = b'{"elicitation":{"form":{}},"roots":{"listChanged":true},"tasks":{"list":{}}}'
    assert json.loads(modern_capabilities(declared)) == {"elicitation": {"form": {}}, "roots": {}}


@pytest.mark.parametrize(
    ("level", "wanted", "sent"),
    [
        ("info", "info", True),
        ("debug", "info", False),
        ("error", "info", True),
        ("info", None, False),
        (7, "info", False),
    ],
)
def test_log_messages_only_as_far_as_they_were_asked_for(
    level: object, wanted: str | None, sent: bool
) -> None:
    assert at_least(level, wanted) is sent


@pytest.mark.parametrize("result", ["5", '"resultType"', "null", ' ["resultType"]'])
def test_a_result_that_is_no_object_goes_nowhere(result: str) -> None:
    with pytest.raises(UpstreamError, match="not an object"):
        checked(Reply(1, result=msgspec.Raw(result.encode())))


@pytest.mark.parametrize(
    "error",
    [
        b"5",
        b"null",
        b"[]",
        b"{}",
        b'{"code":-32000}',
        b'{"code":"-32000","message":""}',
        b'{"code":1,"message":2}',
    ],
)
def test_an_error_that_is_no_error_goes_nowhere(error: bytes) -> None:
    with pytest.raises(UpstreamError, match="not an object with code and message"):
        checked(Reply(1, error=msgspec.Raw(error)))
    assert checked(Reply(1, error=msgspec.Raw(b'{"code":1,"message":"m","data":[]}'))).error is not None


def test_what_asks_is_known_in_escapes_too() -> None:
    text = b'{"result\\u0054ype":"input\\u005frequired","request\\u0053tate":"s"}'
    required = required_by(checked(Reply(1, result=msgspec.Raw(text))))
    assert required is not None
    assert required.request_state == "s"


URL_REQUIRED = {"code": -32042, "message": "Sign in.", "data": {"elicitations": [{"url": "https://x/"}]}}


@pytest.mark.parametrize(
    ("error", "method", "responses", "code"),
    [
        (URL_REQUIRED, "tools/call", {"url0": {"action": "decline"}}, -32600),
        (URL_REQUIRED, "completion/complete", {}, -32603),
        ({**URL_REQUIRED, "data": {"elicitations": []}}, "tools/call", {}, -32603),
        ({**URL_REQUIRED, "data": {"elicitations": [{"url": 5}]}}, "tools/call", {}, -32603),
        ({"code": -32042, "message": "Sign in."}, "tools/call", {}, -32603),
    ],
)
def test_a_code_of_the_legacy_era_stays_there(error: Any, method: str, responses: Any, code: int) -> None:
    request: Any = Mock()
    request.message.method, request.message.params = method, {"inputResponses": responses}
    request.metadata.capabilities = {"elicitation": {"url": {}}}
    reply = for_modern(request, Reply(1, error=msgspec.Raw(json.dumps(error).encode())), Era.LEGACY)
    assert json.loads(bytes(reply.error or b""))["code"] == code


def test_what_is_not_in_utf_8_goes_nowhere() -> None:
    for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf"):
        for reply in (
            Reply(1, result=msgspec.Raw(b'{"content":[{"text":"%b"}]}' % bad)),
            Reply(1, error=msgspec.Raw(b'{"code":1,"message":"m","data":"%b"}' % bad)),
        ):
            with pytest.raises(UpstreamError, match="not in UTF-8"):
                checked(reply)


@pytest.mark.parametrize(
    "result", [b"{}", b"{ }", b" {\n\t}\r\n", b'{ "x":1}', b' {\n"x" : 1 }', b'{"cacheScope":"public"}']
)
@pytest.mark.parametrize("cacheable", [True, False])
def test_white_space_changes_nothing(result: bytes, cacheable: bool) -> None:
    made = json.loads(as_modern_result(result, upstream=Era.LEGACY, cacheable=cacheable))
    assert made["resultType"] == "complete"
    assert made.get("x") == json.loads(result).get("x")


@given(RESULTS, st.sampled_from(["", " ", "\n\t"]))
def test_members_are_added_and_found(result: dict[str, Any], space: str) -> None:
    text = f"{space}{{{space}{json.dumps(result)[1:-1]}{space}}}".encode()
    made = json.loads(with_members(text, b'"new":1'))
    assert made == {"new": 1, **json.loads(text)}
    found = members(text, "x", "ttlMs")
    assert found is not None or not {"x", "ttlMs"} & set(result)
    assert plain(text) is text or b"\\u00" in text


@given(RESULTS, st.data())
def test_a_name_in_escapes_is_that_name(result: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(result)
    for name in result:
        at = data.draw(st.integers(0, len(name) - 1))
        text = text.replace(f'"{name}":', f'"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}":', 1)
    request: Any = Mock()
    request.message.method = "resources/read"
    reply = checked(Reply(1, result=msgspec.Raw(text.encode())))
    for upstream in Era:
        made = json.loads(bytes(for_modern(request, reply, upstream).result or b""))
        assert made.get("cacheScope", "private") == "private"
    assert json.loads(bytes(for_legacy(reply).result or b"")) == {
        key: value for key, value in result.items() if key not in {"resultType", "ttlMs", "cacheScope"}
    }


class TestRequestState:
    """A state opens for whom and what it was made, and not for ever."""

    def test_it_comes_to_an_end(self) -> None:
        time = [0.0]
        states = RequestStates(bytes(32), now=lambda: time[0])
        sealed = states.seal(b"a", 10, upstream="secret")
        opened = states.open(sealed, b"a")
        assert opened is not None
        assert opened.upstream == "secret"
        assert "secret" not in sealed
        time[0] = 10.0
        assert states.open(sealed, b"a") is None

    @given(st.binary(max_size=60), st.binary(min_size=1, max_size=8))
    def test_nothing_else_opens(self, data: bytes, binding: bytes) -> None:
        states = RequestStates(bytes(32), now=lambda: 0.0)
        assert states.open(data.decode("latin-1"), binding) is None
        sealed = states.seal(binding, 10, held="x")
        assert states.open(sealed, binding + b"x") is None
        assert RequestStates(b"1" * 32, now=lambda: 0.0).open(sealed, binding) is None

    @given(st.integers(0, 200), st.integers(1, 255))
    def test_a_changed_byte_is_noticed(self, at: int, change: int) -> None:
        states = RequestStates(bytes(32), now=lambda: 0.0)
        sealed = bytearray(states.seal(b"b", 10, upstream="s" * 40).encode())
        sealed[at % len(sealed)] ^= change
        text = sealed.decode("latin-1")
        assert states.open(text, b"b") is None

    def test_what_a_state_is_bound_to(self) -> None:
        one = (("t", "a"), "files", "tools/call", "read", {"arguments": {"x": 1}})
        others = [
            (("t", "b"), *one[1:]),
            (one[0], "other", *one[2:]),
            (*one[:2], "prompts/get", *one[3:]),
            (*one[:3], "write", one[4]),
            (*one[:4], {"arguments": {"x": 2}}),
        ]
        assert len({binding_of(*each) for each in [one, *others]}) == 6  # type: ignore[arg-type]
