"""Log messages of a legacy server: who asked for which gets those, whatever others asked for, and waits for nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.modern import META, Modern

CONFIG = """
[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = ""
timeout = "20s"
sessions = "shared"

[[tools]]
match = "*"
access = "public"
"""
CALL = {"name": "talk", "arguments": {}}


@pytest.fixture
def anybody(home: Any, start_script: Callable[..., Any], caller: Callable[..., Any]) -> Any:
    home.configure(CONFIG.format(url=start_script("tests/servers/talkative.py").url))
    return caller(home.serve())


def _heard(answer: Any) -> tuple[list[str], str]:
    """The levels of the log messages that came, and those that the server was asked for."""
    events = [line.removeprefix("data: ") for line in answer.body.decode().splitlines() if "{" in line]
    *said, result = map(json.loads, events)
    return [one["params"]["level"] for one in said], result["result"]["content"][0]["text"]


def test_a_level_is_asked_for_once(anybody: Any) -> None:
    modern = Modern(anybody)

    def call(level: str | None) -> tuple[list[str], str]:
        meta = {} if level is None else {f"{META}logLevel": level}
        return _heard(modern.ask("tools/call", CALL, meta=meta))

    assert call(None) == ([], "")
    began = time.monotonic()
    assert call("info") == (["info", "error"], "info")
    assert time.monotonic() - began < 5, "not the upstream's time limit"
    assert call("error") == (["error"], "info"), "less is a matter of the gateway"
    assert call("debug") == (["debug", "info", "error"], "info debug")
    began = time.monotonic()
    assert call("info") == (["info", "error"], "info debug")
    assert time.monotonic() - began < 0.9, "the server is not asked again"


def test_a_session_hears_what_it_asked_for(anybody: Any) -> None:
    client = {"name": "t", "version": "1"}
    opening = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    first, second = (anybody.rpc("initialize", opening).headers["mcp-session-id"] for _ in range(2))
    assert anybody.rpc("logging/setLevel", {"level": "error"}, session=first).json["result"] == {}
    assert anybody.rpc("logging/setLevel", {"level": "info"}, session=second).json["result"] == {}
    for _ in range(2):
        assert _heard(anybody.rpc("tools/call", CALL, session=second))[0] == ["info", "error"]
        assert _heard(anybody.rpc("tools/call", CALL, session=first))[0] == ["error"]
