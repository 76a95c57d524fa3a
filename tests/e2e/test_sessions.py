"""What sessions cost, through the real process: a caller does not choose how many there are upstream."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = """
[[upstreams]]
name = "far"
transport = "http"
url = "{far}"
prefix = "far_"

[[upstreams]]
name = "near"
transport = "stdio"
command = ["{python}", "{script}", "stdio"]
prefix = "near_"
sessions = "client"

[[tools]]
match = "*_echo"
access = "public"
"""


def prepare(home: Any) -> None:
    """A client and its certificate."""
    home.configure('[roles]\nuser = ["all:use"]\n')
    home.client("alice", "--role", "user")


@pytest.fixture(scope="module")
def far(start_shared: Callable[..., Any]) -> Any:
    return start_shared("tests/servers/everything.py", "http")


@pytest.fixture
def door(home: Any, far: Any) -> Any:
    """A gateway with one upstream of each transport, at which clients have sessions of their own."""
    script = ROOT / "tests" / "servers" / "everything.py"
    home.configure(CONFIG.format(far=far.url, python=sys.executable, script=script))
    return home


def _opened(far: Any) -> int:
    with urllib.request.urlopen(far.url.replace("/mcp", "/state")) as answer:
        return int(json.load(answer)["sessions"])


def _children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _open(caller: Any, capabilities: dict[str, Any]) -> str:
    hello = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "t"}}
    answer = caller.rpc("initialize", hello)
    assert answer.status == 200, answer
    return str(answer.headers["mcp-session-id"])


def _echo(caller: Any, session: str) -> None:
    for prefix in ("far", "near"):
        params = {"name": f"{prefix}_echo", "arguments": {"text": "hello"}}
        answer = caller.rpc("tools/call", params, session=session)
        assert b"hello" in answer.body, answer


def test_visitors_share_one_upstream_session_whatever_they_declare(
    door: Any, far: Any, caller: Any, wait_until: Any
) -> None:
    served = door.serve()
    alice = caller(served, door.folder / "clients" / "alice")
    hers = _open(alice, {})
    _echo(alice, hers)
    opened, processes = _opened(far), _children(served.process.pid)
    visitor = caller(served)
    _echo(visitor, _open(visitor, {"sampling": {}}))
    wait_until(lambda: len(_children(served.process.pid)) == len(processes) + 1)
    for number in range(20):
        _echo(visitor, _open(visitor, {f"x{number}": {}, "roots": {"listChanged": number % 2 == 0}}))
    assert _opened(far) == opened + 1
    assert len(_children(served.process.pid)) == len(processes) + 1
    assert processes <= _children(served.process.pid)
    _echo(alice, hers)
    assert _opened(far) == opened + 1


def test_what_mcp_does_not_define_makes_no_session_of_its_own(door: Any, far: Any, caller: Any) -> None:
    served = door.serve()
    alice = caller(served, door.folder / "clients" / "alice")
    _echo(alice, _open(alice, {}))
    opened = _opened(far)
    for number in range(20):
        _echo(alice, _open(alice, {"experimental": {f"x{number}": {}}, "padding": "x" * 100_000}))
    assert _opened(far) == opened
