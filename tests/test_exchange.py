"""Ids, progress tokens and the handshake, as they go on the wire."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.mcp.exchange import Ticket, messages_in, server_info, ticket_of
from gateway.mcp.messages import Notification, Rejected, Reply, parse_upstream_message
from gateway.mcp.upstream import SessionKey, UpstreamError
from gateway.model import Reason

KEY = SessionKey(("tenant", "client"))
TOKENS = st.one_of(st.integers(-(2**53), 2**53), st.text())


def progress(token: object) -> Notification:
    return Notification("notifications/progress", {"progressToken": token, "progress": 1})


@given(st.lists(TOKENS, min_size=1, max_size=20))
def test_tokens_of_several_callers_never_mix(tokens: list[int | str]) -> None:
    tickets = {
        number: Ticket(number, KEY, "tools/call", {"name": "t", "_meta": {"progressToken": token, "x": 1}})
        for number, token in enumerate(tokens, 1)
    }
    for number, token in enumerate(tokens, 1):
        before = copy.deepcopy(tickets[number].params)
        wire = json.loads(tickets[number].encode())
        assert wire["id"] == wire["params"]["_meta"]["progressToken"] == number
        assert wire["params"]["_meta"]["x"] == 1
        assert tickets[number].params == before
        owner = ticket_of(progress(number), tickets)
        assert owner is tickets[number]
        restored = owner.restore(progress(number)).params["progressToken"]
        assert restored == token
        assert type(restored) is type(token)


@given(st.one_of(st.none(), st.booleans(), st.floats(), st.text(), st.integers(3), st.integers(max_value=0)))
def test_progress_of_no_request_is_nobodys(token: object) -> None:
    tickets = {
        1: Ticket(1, KEY, "m", {"_meta": {"progressToken": "a"}}),
        2: Ticket(2, KEY, "m", {}),
    }
    assert ticket_of(progress(token), tickets) is None
    assert ticket_of(progress(2), tickets) is None  # it asked for none


@pytest.mark.parametrize("meta", [None, [], {}, {"progressToken": None}, {"progressToken": True}, "x"])
def test_params_without_a_token_go_on_as_they_are(meta: object) -> None:
    ticket = Ticket(1, KEY, "m", {"_meta": meta, "a": 1})
    assert json.loads(ticket.encode())["params"] == {"_meta": meta, "a": 1}


def test_a_batch_is_its_messages() -> None:
    assert messages_in(b' [{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","method":"x"}]')[1] == (
        Notification("x", {})
    )


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


@given(st.one_of(st.binary(), st.binary().map(lambda rest: b"[" + rest)))
def test_rubbish_is_rejected(data: bytes) -> None:
    assume(not _is_json(data))
    with pytest.raises(Rejected):
        messages_in(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"1",
        b'"x"',
        b"{}",
        b"[1]",
        b"[{}]",
        b'{"jsonrpc":"1.0","method":"x"}',
        b'{"jsonrpc":"2.0","id":1}',
        b'[{"jsonrpc":"2.0","method":"x"},{"jsonrpc":"2.0"}]',
        b'{"jsonrpc":"2.0","method":"x"} {}',
        b"[" * 100_000,
    ],
)
def test_json_that_is_no_message_is_rejected(data: bytes) -> None:
    with pytest.raises(Rejected):
        messages_in(data)


@pytest.mark.parametrize(
    "said",
    [
        '"error":{"code":-32602,"message":"no"}',
        '"result":{}',
        '"result":[]',
        '"result":{"protocolVersion":"1999-01-01","capabilities":{}}',
        '"result":{"protocolVersion":1,"capabilities":{}}',
        '"result":{"protocolVersion":"2025-11-25","capabilities":[]}',
    ],
)
def test_a_handshake_that_is_none_is_invalid(said: str) -> None:
    reply = parse_upstream_message(b'{"jsonrpc":"2.0","id":1,%b}' % said.encode())
    assert isinstance(reply, Reply)
    with pytest.raises(UpstreamError) as caught:
        server_info("files", reply)
    assert caught.value.reason is Reason.UPSTREAM_INVALID
    assert "files" in caught.value.detail
