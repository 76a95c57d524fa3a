"""What is kept open for clients: for how long, and how much of it one of them may have."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.mcp import held_calls, listeners
from gateway.mcp.held_calls import HeldCall, HeldCalls
from gateway.mcp.listeners import Listener, Listeners
from gateway.mcp.sessions import Owner, counted_as
from gateway.mcp.upstream import GATEWAY
from gateway.model import ANONYMOUS, ClientContext

ALICE = counted_as(ClientContext(client_id="alice", tenant_id="t"), "192.0.2.1")
HERE, NEAR, AWAY = (
    counted_as(ANONYMOUS, address) for address in ("2001:db8::1", "2001:db8::2", "2001:db8:1::1")
)


def _call(counted: Owner, context: Any = None) -> HeldCall:
    exchange: Any = None
    return HeldCall(counted, GATEWAY, context or AsyncExitStack(), exchange, 1, {"method": "roots/list"})


async def test_a_call_that_is_held_anew_is_given_up_when_it_would_have_been(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_calls, "HOLD_SECONDS", 0.5)
    ended = asyncio.Event()
    context = AsyncExitStack()
    context.callback(ended.set)
    held = HeldCalls()
    name = held.hold(_call(ALICE, context))
    monkeypatch.setattr(held_calls, "HOLD_SECONDS", 3600.0)
    for _ in range(3):
        call = held.take(name)
        assert call is not None
        name = held.hold(call)
    await asyncio.wait_for(ended.wait(), 30)
    assert held.take(name) is None


async def test_anonymous_callers_are_counted_by_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_calls, "MAX_HELD_OF_ONE", 2)
    monkeypatch.setattr(held_calls, "MAX_HELD_ANONYMOUS", 3)
    held = HeldCalls()
    for _ in range(2):
        assert held.room_for(HERE)
        held.hold(_call(HERE))
    assert not held.room_for(NEAR)
    assert held.room_for(AWAY)
    held.hold(_call(AWAY))
    assert not held.room_for(AWAY)  # so many of nobody's are enough
    assert held.room_for(ALICE)
    await held.close()
    assert held.room_for(HERE)


def test_so_are_their_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MAX_LISTENERS_OF_ONE", 2)
    monkeypatch.setattr(listeners, "MAX_LISTENERS_ANONYMOUS", 3)
    opened = Listeners()
    for number in range(2):
        assert opened.room_for(HERE)
        opened.add(Listener(number, GATEWAY, None, ANONYMOUS, HERE))
    assert not opened.room_for(NEAR)
    assert opened.room_for(AWAY)
    opened.add(Listener(2, GATEWAY, None, ANONYMOUS, AWAY))
    assert not opened.room_for(AWAY)
    assert opened.room_for(ALICE)
