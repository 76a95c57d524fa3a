"""The official SDKs' clients, through mutual TLS, with upstreams of both eras: one of each, and what each saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.everything_rules import EVERYTHING_RULES
from tests.npm.packages import MODULES, NODE, available, install

ROOT = Path(__file__).resolve().parent.parent.parent
SDK = ROOT / "tests" / "sdk"
needs_npm = pytest.mark.skipif(
    not available() and "CI" not in os.environ, reason="the SDK needs npm: apt-get install npm"
)
pytestmark = pytest.mark.timeout(300)
UPSTREAM = """
[[upstreams]]
name = "{name}"
transport = "http"
url = "{url}"
prefix = "{name}_"
"""
CONFIG = (
    EVERYTHING_RULES
    + """
[roles]
user = ["all:use"]

[[upstreams]]
name = "near"
transport = "stdio"
command = ["{python}", "{script}", "stdio"]
prefix = "near_"
"""
)
TOOLS = ["echo", "count", "favourite", "wish", "add_tool", "touch"]
NAMES = [f"{upstream}_{tool}" for upstream in ("old", "new", "near") for tool in TOOLS]
ASKING = {
    "favourite": {"asked": ["Which colour?"], "answered": "accept: blue"},
    "wish": {
        "asked": ["Which wish?"],
        "answered": "accept: {'colour': 'blue', 'wish': 'rain'} after asked once",
    },
}
"""What asks the user in the legacy and in the modern era, and what comes of it."""
SEEN = {
    "tools": TOOLS,
    "prompts": ["greet"],
    "resources": ["everything://static"],
    "templates": ["everything://item/{name}"],
    "echo": "ünï ☃",
    "counted": "counted to 3",
    "progress": [1, 2, 3],
    "prompt": "Say hello to Ada.",
    "resource": "static text",
    "item": "item 7",
    "after": "still here",
}


def prepare(home: Any) -> None:
    """A client with a certificate, and the administrator's."""
    home.configure(CONFIG.format(python=sys.executable, script=ROOT / "tests" / "servers" / "everything.py"))
    home.client("alice", "--role", "user")
    home.certificate("root")


@pytest.fixture(scope="module")
def upstreams(start_shared: Callable[..., Any]) -> str:
    eras = {
        "old": start_shared("tests/servers/everything.py", "http", "0", "legacy"),
        "new": start_shared("tests/servers/everything.py", "http", "0", "modern"),
    }
    return "".join(UPSTREAM.format(name=name, url=upstream.url) for name, upstream in eras.items())


@pytest.mark.parametrize(
    ("sdk", "version"),
    [
        ("Python 1.x", "2025-11-25"),
        ("Python 2.x legacy", "2025-11-25"),
        ("Python 2.x auto", "2026-07-28"),
        pytest.param("TypeScript 1.x", "2025-11-25", marks=needs_npm),
        pytest.param("TypeScript 2.x legacy", "2025-11-25", marks=needs_npm),
        pytest.param("TypeScript 2.x auto", "2026-07-28", marks=needs_npm),
    ],
)
def test_one_of_each(home: Any, upstreams: str, caller: Any, wait_until: Any, sdk: str, version: str) -> None:
    home.configure(upstreams)
    served = home.serve()
    alice, root = (caller(served, home.folder / "clients" / name) for name in ("alice", "root"))
    wait_until(lambda: sorted(alice.tools()) == sorted(NAMES), seconds=60)
    near = "wish" if version == "2026-07-28" else "favourite"
    saw = _drive(home, served, sdk, old="favourite", new="wish", near=near)

    assert sorted(saw.pop("all")) == sorted(NAMES)
    for upstream, asking in {"old": "favourite", "new": "wish", "near": near}.items():
        seen = saw.pop(upstream)
        assert seen.pop("version") == version
        assert seen.pop("secret").endswith("Unknown resource: everything://secret")
        assert seen.pop("hidden").endswith("Unknown tool: fail")
        assert "enough" in seen.pop("cancelled")
        assert seen == SEEN | ASKING[asking]
        wait_until(lambda name=f"{upstream}_count": _statuses(root, name) == ["cancelled", "ok"])
    assert saw == {}


def _drive(home: Any, served: Any, sdk: str, **asking: str) -> Any:
    """What the client saw."""
    if sdk.startswith("TypeScript"):
        install()
    alice = home.folder / "clients" / "alice"
    done = subprocess.run(
        [
            *_program(sdk),
            *(sdk, served.url, home.folder / "certs" / "ca.pem", alice / "alice.pem", alice / "alice.key"),
            *(f"{upstream}={tool}" for upstream, tool in asking.items()),
        ],
        env={**os.environ, "OSTIARY_MODULES": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _program(sdk: str) -> tuple[object, Path]:
    if sdk.startswith("TypeScript"):
        return NODE, SDK / "client.mjs"
    if sdk == "Python 1.x":
        return ROOT / ".venv" / "peers" / "bin" / "python", SDK / "client_1x.py"
    return sys.executable, SDK / "client_2x.py"


def _statuses(root: Any, tool: str) -> list[str]:
    """How the calls of it ended, the newest first."""
    return [entry["status"] for entry in root.ask("GET", f"/audit?tool_name={tool}").json["entries"]]
