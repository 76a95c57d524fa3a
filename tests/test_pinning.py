"""How many tools' definitions are kept of one upstream."""

from __future__ import annotations

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


def _pins(stores: JsonStores, mode: Pinning = Pinning.WARN) -> Pins:
    audit = Audit(stores.audit, OnAuditFailure.REFUSE, now=lambda: NOW, monotonic=lambda: 0.0)
    return Pins(stores.collection(TOOL_PINS), mode, audit, now=lambda: NOW)


def _tool(name: object, text: str = "") -> dict[str, Any]:
    return {"name": str(name), "description": text}


async def test_new_tools_beyond_the_bound_are_held_back_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pinning, "MAX_PINS", 3)
    async with store(tmp_path / "store") as stores:
        kept = stores.collection(TOOL_PINS)
        pins = _pins(stores)
        assert [pins.admits("u", _tool(number)) for number in range(10)] == [True] * 3 + [False] * 7
        await until(lambda: len(kept) == 3)
        assert [pins.admits("u", _tool(number)) for number in range(4)] == [True] * 3 + [False]
        assert pins.admits("u", _tool(0, "changed"))  # what is kept may change
        assert pins.admits("other", _tool(9))
        told = [message for message in caplog.messages if "by different names" in message]
        assert told == [
            "upstream u has listed more than 3 tools by different names: those that are new are held back"
        ]
        await until(lambda: len(kept) == 4)
        after_a_restart = _pins(stores)
        assert not after_a_restart.admits("u", _tool(4))
        assert after_a_restart.admits("u", _tool(2))
        assert _pins(stores, Pinning.OFF).admits("u", _tool(4))
