"""How many tools' definitions are kept of one upstream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import Audit
from gateway.config.values import OnAuditFailure, Pinning
from gateway.mcp import pinning
from gateway.mcp.pinning import Pins
from persistence import JsonStores
from persistence.records import TOOL_PINS
from tests.stores import NOW, store, until


def _pins(stores: JsonStores, mode: Pinning = Pinning.WARN, now: Callable[[], float] = lambda: NOW) -> Pins:
    audit = Audit(stores.audit, OnAuditFailure.REFUSE, now=lambda: NOW, monotonic=lambda: 0.0)
    return Pins(stores.collection(TOOL_PINS), mode, audit, now=now)


def _tool(name: object, text: str = "") -> dict[str, Any]:
    return {"name": str(name), "description": text}


async def test_new_tools_beyond_the_bound_are_held_back_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pinning, "MAX_PINS", 3)
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(TOOL_PINS)
        pins = _pins(stores)
        assert [pins.admits("u", "tool", _tool(number)) for number in range(10)] == [True] * 3 + [False] * 7
        await until(lambda: len(kept) == 3)
        assert [pins.admits("u", "tool", _tool(number)) for number in range(4)] == [True] * 3 + [False]
        assert pins.admits("u", "tool", _tool(0, "changed"))  # what is kept may change
        assert pins.admits("other", "tool", _tool(9))
        (told,) = [message for message in caplog.messages if "by different names" in message]
        assert told.startswith("upstream u has listed more than 3 things by different names")
        assert told.endswith("those that are new are held back; `ostiary tools forget u` makes room")
        await until(lambda: len(kept) == 4)
        after_a_restart = _pins(stores)
        assert not after_a_restart.admits("u", "tool", _tool(4))
        assert after_a_restart.admits("u", "tool", _tool(2))
        assert _pins(stores, Pinning.OFF).admits("u", "tool", _tool(4))


async def test_what_is_listed_no_more_is_marked_and_makes_room_once_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "MAX_PINS", 2)
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(TOOL_PINS)
        pins = _pins(stores)
        assert pins.admits("u", "tool", _tool("a"))
        assert pins.admits("u", "prompt", _tool("a"))
        await until(lambda: len(kept) == 2)
        assert {pin.pin_id for pin in kept} == {"u/a", "u:prompt/a"}
        pins.gathered("u", [("prompt", "a")])
        await until(lambda: kept.get("u/a").gone_since is not None)  # type: ignore[union-attr]
        assert kept.get("u:prompt/a").gone_since is None  # type: ignore[union-attr]
        assert pins.admits("u", "tool", _tool("a"))  # it is back
        await until(lambda: kept.get("u/a").gone_since is None)  # type: ignore[union-attr]
        assert not pins.admits("u", "tool", _tool("b"))
        await kept.remove("u/a")
        pins.renew("u")
        assert pins.admits("u", "tool", _tool("b"))
        assert pins.admits("u", "resource", _tool("c"))  # they come and go with the data


async def test_what_changes_again_and_again_is_told_of_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with store(tmp_path / "store") as stores:
        seconds = iter(range(10_000))
        pins = _pins(stores, now=lambda: NOW + next(seconds))
        for number in range(1000):
            assert pins.admits("u", "tool", _tool("a", f"text {number}"))
        told = [message for message in caplog.messages if "the definition of the tool 'a'" in message]
        assert 5 <= len(told) <= 10
        pins.admits("u", "tool", _tool("b"))
        assert "the definition of the tool 'b'" in caplog.messages[-1]
