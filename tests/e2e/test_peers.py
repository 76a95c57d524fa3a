"""MCP software of others works through the gateway: the SDK's 1.x client, and servers from PyPI over stdio and HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = ROOT / ".venv" / "peers" / "bin"
CONFIG = """
[roles]
user = ["all:use"]

[[upstreams]]
name = "far"
transport = "http"
url = "{far}"
prefix = "far_"

[[upstreams]]
name = "time"
transport = "stdio"
command = ["{bin}/mcp-server-time"]
prefix = "time_"

[[upstreams]]
name = "git"
transport = "stdio"
command = ["{bin}/mcp-server-git"]
prefix = "git_"

[[upstreams]]
name = "proxied"
transport = "http"
url = "http://127.0.0.1:{port}/mcp"
prefix = "proxied_"

[[tools]]
match = "far_fail"
permissions = ["all:fail"]

[[tools]]
match = "*"
permissions = ["all:use"]
"""


@pytest.fixture
def proxied(wait_until: Any) -> Iterator[int]:
    """mcp-proxy, which serves mcp-server-time over streamable HTTP; its port."""
    assert BIN.exists(), "the peers are not installed: run `make setup`"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [BIN / "mcp-proxy", "--port", str(port), "--", BIN / "mcp-server-time"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: _accepts(port), seconds=30)
        yield port
        process.terminate()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_1x_client_and_three_servers_of_others(
    home: Any, start_script: Callable[..., Any], proxied: int, caller: Any, tmp_path: Path
) -> None:
    far = start_script("tests/servers/everything.py", "http")
    home.configure(CONFIG.format(far=far.url, bin=BIN, port=proxied))
    alice = home.client("alice", "--role", "user")
    served = home.serve()
    done = subprocess.run(
        [
            BIN / "python", ROOT / "tests" / "peers" / "client_1x.py", f"{served.url}/mcp",
            home.folder / "certs" / "ca.pem", alice / "alice.pem", alice / "alice.key",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout)
    assert saw["version"] == "2025-11-25"
    assert {"far_echo", "time_get_current_time", "git_git_log", "proxied_convert_time"} <= set(saw["tools"])
    assert saw["progress"] == [1, 2]
    assert saw["counted"] == "counted to 2"
    assert saw["asked"] == "accept: blue"
    assert saw["time"] == saw["proxied"] == "Europe/Paris"
    assert saw["unknown"] == "Unknown tool: far_fail"

    subprocess.run(["git", "init", "-q", tmp_path / "repo"], check=True)
    result = caller(served, alice).call("git_git_status", {"repo_path": str(tmp_path / "repo")})["result"]
    assert not result.get("isError")
    assert "Traceback" not in served.log.read_text()
