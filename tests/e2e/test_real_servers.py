"""Servers of others, from npm and PyPI, behind one gateway at once: one dies under load, and only its own callers notice.

``make servers LOAD=20`` runs it by itself, with so many seconds for each phase, and shows who called what.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.npm.packages import NODE, available, install, module

BIN = Path(__file__).resolve().parent.parent.parent / ".venv" / "peers" / "bin"
SECONDS = float(os.environ.get("LOAD_SECONDS", "1"))
"""How long each phase lasts."""
PATIENCE = 60
"""Seconds in which what has died must be back, and in which no call may be without an answer."""
pytestmark = [
    pytest.mark.skipif(
        not available() and "CI" not in os.environ, reason="the servers need npm: apt-get install npm"
    ),
    pytest.mark.timeout(600 + 10 * SECONDS),
]
ROLES = """
[roles]
user = ["all:use"]

[[tools]]
match = "*"
permissions = ["all:use"]
"""
UPSTREAM = """
[[upstreams]]
name = "{name}"
prefix = "{name}_"
"""
CONVERSION = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}


@dataclass
class Calls:
    """What became of the calls of one server's tool."""

    upstream: str
    tool: str
    arguments: dict[str, Any]
    answer: str
    """What each good answer has in it."""
    good: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """By what was told of it."""
    longest: float = 0.0
    """Seconds that the slowest of them took."""

    async def make(self, client: Client, ending: asyncio.Event) -> None:
        """Call without pause, until that happens."""
        while not ending.is_set():
            begun = time.monotonic()
            try:
                result = await client.call_tool(f"{self.upstream}_{self.tool}", self.arguments)
                text = str(result.content[0].text)
                problem = None if self.answer in text and not result.is_error else text
            except MCPError as error:
                problem = str(error)
            self.longest = max(self.longest, time.monotonic() - begun)
            if problem is None:
                self.good += 1
            else:
                self.failed[problem] += 1
                await asyncio.sleep(0.02)


def prepare(home: Any) -> None:
    """Who calls: a client with a certificate, as often as it likes."""
    home.configure(ROLES, settings={"limits": {"requests_per_minute": 0}})
    home.client("alice", "--role", "user")


def _stdio(name: str, *command: object, **environment: object) -> str:
    env = "".join(f"{key} = {json.dumps(str(value))}, " for key, value in environment.items()).rstrip(", ")
    words = json.dumps([str(word) for word in command])
    return f'{UPSTREAM.format(name=name)}transport = "stdio"\ncommand = {words}\nenv = {{ {env} }}\n'


def _http(name: str, port: int) -> str:
    return f'{UPSTREAM.format(name=name)}transport = "http"\nurl = "http://127.0.0.1:{port}/mcp"\n'


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class OverHttp:
    """A server that listens on a port, and can be killed and started again there."""

    def __init__(self, *command: object, port: int, **environment: str) -> None:
        self.port = port
        self._command = [str(word) for word in command]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, **self._environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def _served_over_http() -> Iterator[dict[str, OverHttp]]:
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(int(free.getsockname()[1]))
    everything = module("server-everything", "dist/index.js")
    servers = {
        "everything": OverHttp(NODE, everything, "streamableHttp", port=ports[0], PORT=str(ports[0])),
        "proxied": OverHttp(
            BIN / "mcp-proxy", "--port", ports[1], "--", BIN / "mcp-server-time", port=ports[1]
        ),
    }
    try:
        for server in servers.values():
            server.start()
        yield servers
    finally:
        for server in servers.values():
            server.kill()


def _child(gateway: int, program: str) -> int | None:
    """The process id of the gateway's child that runs it."""
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == gateway and program in (folder / "cmdline").read_text():
                return int(folder.name)
        except (OSError, ValueError, IndexError):
            continue
    return None


@asynccontextmanager
async def _under_load(home: Any, served: Any, all_calls: list[Calls]) -> AsyncIterator[None]:
    """Every tool is called without pause: every other one by a client of the legacy era."""
    alice = home.folder / "clients" / "alice"
    tasks: list[asyncio.Task[None]] = []
    ending = asyncio.Event()

    async def call(calls: Calls, mode: str, begun: asyncio.Event) -> None:
        async with (
            httpx2.AsyncClient(verify=home.tls(alice), timeout=PATIENCE) as http,
            Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode=mode) as client,
        ):
            begun.set()
            await calls.make(client, ending)

    for number, calls in enumerate(all_calls):
        begun = asyncio.Event()
        tasks.append(asyncio.create_task(call(calls, "legacy" if number % 2 else "auto", begun)))
        await asyncio.wait_for(begun.wait(), PATIENCE)
    try:
        yield
    finally:
        ending.set()
        await asyncio.gather(*tasks)


async def _until(condition: Callable[[], Any]) -> Any:
    """Wait for its first true value."""
    async with asyncio.timeout(PATIENCE):
        while not (value := condition()):  # noqa: ASYNC110 - what happens in other processes has no event
            await asyncio.sleep(0.02)
        return value


async def _more(calls: list[Calls]) -> None:
    """Let the phase last, and at least until each has had another good answer."""
    before = [one.good for one in calls]
    await asyncio.sleep(SECONDS)
    await _until(lambda: all(one.good > had for one, had in zip(calls, before, strict=True)))


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A folder with a file, and a repository."""
    install()
    folder = tmp_path / "papers"
    subprocess.run(["git", "init", "-q", folder / "repository"], check=True)
    (folder / "note.txt").write_text("a note")
    return folder


async def test_one_dies_and_the_others_do_not_notice(
    home: Any, caller: Any, wait_until: Any, papers: Path
) -> None:
    all_calls = {
        "everything": Calls("everything", "echo", {"message": "hello"}, "Echo: hello"),
        "proxied": Calls("proxied", "convert_time", CONVERSION, "21:00"),
        "time": Calls("time", "convert_time", CONVERSION, "21:00"),
        "files": Calls("files", "read_text_file", {"path": str(papers / "note.txt")}, "a note"),
        "git": Calls("git", "git_status", {"repo_path": str(papers / "repository")}, "No commits yet"),
        "memory": Calls("memory", "read_graph", {}, "entities"),
        "thinking": Calls(
            "thinking",
            "sequentialthinking",
            {"thought": "so", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1},
            "thoughtHistoryLength",
        ),
    }
    with _served_over_http() as over_http:
        home.configure(
            "".join(_http(name, server.port) for name, server in over_http.items())
            + _stdio("time", BIN / "mcp-server-time")
            + _stdio("files", NODE, module("server-filesystem", "dist/index.js"), papers)
            + _stdio("git", BIN / "mcp-server-git")
            + _stdio(
                "memory", NODE, module("server-memory", "dist/index.js"), MEMORY_FILE_PATH=papers / "graph"
            )
            + _stdio(
                "thinking",
                NODE,
                module("server-sequential-thinking", "dist/index.js"),
                DISABLE_THOUGHT_LOGGING="true",
            )
        )
        wait_until(lambda: all(_accepts(server.port) for server in over_http.values()), seconds=PATIENCE)
        served = home.serve()
        alice = caller(served, home.folder / "clients" / "alice")
        names = {f"{name}_{calls.tool}" for name, calls in all_calls.items()}
        wait_until(lambda: names <= set(alice.tools()), seconds=PATIENCE)

        everything, times = all_calls["everything"], all_calls["time"]
        others = [calls for name, calls in all_calls.items() if name not in {"everything", "time"}]
        async with _under_load(home, served, list(all_calls.values())):
            await _more(list(all_calls.values()))
            assert not any(calls.failed for calls in all_calls.values()), all_calls

            over_http["everything"].kill()
            await _until(lambda: everything.failed)
            await _more([*others, times])
            over_http["everything"].start()
            await _more([everything, *others, times])
            assert not times.failed

            before = _child(served.process.pid, "mcp-server-time")
            assert before is not None
            os.kill(before, signal.SIGKILL)
            await _until(lambda: _child(served.process.pid, "mcp-server-time") not in {None, before})
            await _more([*others, everything, times])

    for calls in all_calls.values():
        print(
            f"{calls.upstream:<12}{calls.good:>8} good {calls.longest * 1000:>8.0f} ms the longest  {dict(calls.failed)}"
        )
    assert not any(calls.failed for calls in others), others
    assert all(reason.startswith("Upstream everything ") for reason in everything.failed), everything
    assert all(reason.startswith("Upstream time ") for reason in times.failed), times
