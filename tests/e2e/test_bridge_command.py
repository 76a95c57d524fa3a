"""``ostiary bridge``, as a host starts it: the official SDK over stdio, a real gateway behind it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp.types import ElicitResult

from tests.commands import ROOT, ostiary

PASSWORD = "Correct-Horse-7-Staple"
CONFIG = """
[roles]
user = ["all:use"]

[[upstreams]]
name = "far"
transport = "http"
url = "{url}"
prefix = "far_"

[[tools]]
match = "*_fail"
permissions = ["nobody:ever"]

[[tools]]
match = "*"
permissions = ["all:use"]

[[prompts]]
match = "*"
permissions = ["all:use"]
"""
MODES = ("legacy", "2026-07-28", "auto")


def prepare(home: Any) -> None:
    """Alice has a certificate and a password."""
    home.configure('[roles]\nuser = ["all:use"]\n')
    home.client("alice", "--role", "user", password=PASSWORD)
    home.certificate("root")


@pytest.fixture
def upstream(start_script: Callable[..., Any]) -> Any:
    return start_script("tests/servers/everything.py", "http")


@pytest.fixture
def door(home: Any, upstream: Any) -> Any:
    home.configure(CONFIG.format(url=upstream.url).replace('[roles]\nuser = ["all:use"]\n', ""))
    return home


def _words(door: Any, url: str) -> list[str]:
    """A command that needs no sign-in: the certificate is enough."""
    folder = door.folder / "clients" / "alice"
    files = ["--ca", f"{folder}/ca.pem", "--cert", f"{folder}/alice.pem", "--key", f"{folder}/alice.key"]
    return ["-m", "gateway", "bridge", url, *files]


def _environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}


def _host(door: Any, served: Any, tmp_path: Path, path: str = "", **options: Any) -> Client:
    words = _words(door, served.url + path)
    parameters = StdioServerParameters(
        command=sys.executable, args=words, env=_environment(tmp_path), cwd=ROOT
    )
    return Client(parameters, **options)


def _run(tmp_path: Path, words: list[str], stdin: str) -> str:
    """What a command prints that ends well."""
    done = ostiary(*words, stdin=stdin, env=_environment(tmp_path))
    done.check_returncode()
    return done.stdout


def _text(result: Any) -> str:
    return str(result.content[0].text)


@pytest.mark.parametrize("mode", MODES)
async def test_one_of_each(door: Any, tmp_path: Path, mode: str) -> None:
    served = door.serve()
    heard: list[float] = []

    async def progress(done: float, _total: float | None, _message: str | None) -> None:
        heard.append(done)

    async with _host(door, served, tmp_path, mode=mode) as host:
        names = [tool.name for tool in (await host.list_tools()).tools]
        assert {"far_echo", "far_count", "far_favourite"} <= set(names)
        assert "far_fail" not in names
        assert _text(await host.call_tool("far_echo", {"text": "ünï ☃\nline"})) == "ünï ☃\nline"
        counted = await host.call_tool("far_count", {"steps": 3, "seconds": 0.1}, progress_callback=progress)
        assert (_text(counted), heard) == ("counted to 3", [1, 2, 3])
        prompt = await host.get_prompt("far_greet", {"name": "Ada"})
        assert prompt.messages[0].content.text == "Say hello to Ada."
        with pytest.raises(MCPError, match="Unknown tool: far_fail"):
            await host.call_tool("far_fail")
        many = await asyncio.gather(*(host.call_tool("far_echo", {"text": str(n)}) for n in range(50)))
        assert [_text(one) for one in many] == [str(n) for n in range(50)]


async def test_one_upstream_alone(door: Any, tmp_path: Path) -> None:
    served = door.serve()
    async with _host(door, served, tmp_path, "/mcp/far") as host:
        assert "echo" in [tool.name for tool in (await host.list_tools()).tools]
        assert _text(await host.call_tool("echo", {"text": "hi"})) == "hi"


async def test_what_the_server_asks_and_tells_reaches_the_host(door: Any, tmp_path: Path) -> None:
    served = door.serve()
    told = asyncio.Event()

    async def ask(_context: Any, _params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"colour": "green"})

    async def hear(message: Any) -> None:
        if "list_changed" in str(getattr(message, "method", "")):
            told.set()

    async with _host(
        door, served, tmp_path, mode="legacy", elicitation_callback=ask, message_handler=hear
    ) as host:
        assert _text(await host.call_tool("far_favourite")) == "accept: green"
        await host.list_tools()
        for number in range(10):  # the server speaks on a stream that may not be open at the first call
            await host.call_tool("far_add_tool", {"name": f"more_{number}"})
            try:
                await asyncio.wait_for(told.wait(), 1)
                break
            except TimeoutError:
                continue
        assert told.is_set()


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_cancelling_reaches_the_upstream(
    door: Any, tmp_path: Path, caller: Any, upstream: Any, mode: str
) -> None:
    served = door.serve()
    async with _host(door, served, tmp_path, mode=mode) as host:
        began = asyncio.Event()

        async def progress(*_: Any) -> None:
            began.set()

        call = asyncio.create_task(
            host.call_tool("far_count", {"steps": 100, "seconds": 30}, progress_callback=progress)
        )
        await asyncio.wait_for(began.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert _text(await host.call_tool("far_echo", {"text": "still here"})) == "still here"
        root = caller(served, door.folder / "clients" / "root")
        for _attempt in range(100):
            ended = root.ask("GET", "/audit?tool_name=far_count").json["entries"]
            if ended:
                break
            await asyncio.sleep(0.05)
        assert [entry["status"] for entry in ended] == ["cancelled"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_gateway_that_comes_back_is_used_again(door: Any, tmp_path: Path, mode: str) -> None:
    served = door.serve()
    async with _host(door, served, tmp_path, mode=mode) as host:
        assert _text(await host.call_tool("far_echo", {"text": "one"})) == "one"
        served.stop()
        with pytest.raises(MCPError, match="is the gateway running there"):
            await host.call_tool("far_echo", {"text": "nobody"})
        door.serve(OSTIARY_SERVER_PORT=str(served.port))
        assert _text(await host.call_tool("far_echo", {"text": "two"})) == "two"
        assert _text(await host.call_tool("far_echo", {"text": "three"})) == "three"


async def test_signed_in_by_password_it_renews_its_token(door: Any, tmp_path: Path) -> None:
    door.configure("", settings={"tokens": {"access_ttl": "2s"}})
    served = door.serve()
    ca = str(door.folder / "certs" / "ca.pem")
    words = ["login", served.url, "--ca", ca, "--username", "alice", "--password-stdin"]
    _run(tmp_path, words, PASSWORD + "\n")
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "gateway", "bridge", served.url],
        env=_environment(tmp_path),
        cwd=ROOT,
    )
    async with Client(parameters, mode="legacy") as host:
        for text in ("one", "two", "three"):
            assert _text(await host.call_tool("far_echo", {"text": text})) == text
            await asyncio.sleep(1.5)
    assert door.json("audit", "query", "--event", "token_refreshed")["entries"]
    door.cli("tokens", "revoke", "--client", "alice")
    said = _run(tmp_path, ["bridge", served.url], '{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    assert f"sign in: ostiary login {served.url}" in json.loads(said)["error"]["message"]


async def test_arguments_that_headers_repeat(home: Any, tmp_path: Path) -> None:
    """A host over stdio sends no headers: the bridge makes them, also for a tool that nobody has listed yet."""
    script = ROOT / "tests" / "servers" / "marked.py"
    upstream = f'[[upstreams]]\nname = "m"\ntransport = "stdio"\ncommand = ["{sys.executable}", "{script}"]\n'
    home.configure(upstream + '[[tools]]\nmatch = "*"\naccess = "public"\n')
    served = home.serve()
    for lists_first in (False, True):
        async with _host(home, served, tmp_path, mode="2026-07-28") as host:
            if lists_first:
                await host.list_tools()
            for region in ("north", "süd", " west "):
                assert _text(await host.call_tool("where", {"region": region})) == region
    refused = home.json("audit", "query", "--event", "request_refused")["entries"]
    assert len(refused) == 1, (
        "the gateway wants the header, and the bridge has learnt which by the second call"
    )


# Lines as they are


def _start(door: Any, served: Any, tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *_words(door, served.url)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=_environment(tmp_path),
    )


def test_what_is_under_way_at_the_end_is_answered_and_then_it_ends(door: Any, tmp_path: Path) -> None:
    process = _start(door, door.serve(), tmp_path)
    call = {"name": "far_count", "arguments": {"steps": 2, "seconds": 1}}
    sent = [
        "not json",
        "",
        json.dumps({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": call}),
        '{"jsonrpc":"2.0","id":2,"method":"ping","id":2}',
        '{"jsonrpc":"2.0","id":3,"method":"ping"}',
    ]
    out, err = process.communicate("\n".join(sent), timeout=60)
    answers = {answer["id"]: answer for answer in map(json.loads, out.splitlines())}
    assert (process.returncode, err) == (0, "")
    assert answers[None]["error"]["code"] == -32700
    assert answers["a"]["result"]["content"][0]["text"] == "counted to 2"
    assert answers[2]["error"]["code"] == -32700
    assert answers[3]["result"] == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(door: Any, tmp_path: Path, number: int) -> None:
    process = _start(door, door.serve(), tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write('{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def test_nobody_signed_in_and_no_certificate_is_said_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "bridge", "https://localhost:1"],
        capture_output=True, text=True, cwd=ROOT, env=_environment(tmp_path), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ostiary: nobody is signed in; sign in: ostiary login https://localhost:1\n"


# A line that breaks


@pytest.fixture
async def wire(door: Any) -> Any:
    """What carries bytes to the gateway, until it is cut."""

    class Wire:
        def __init__(self) -> None:
            self.port = 0
            self.target = 0
            self.open: set[asyncio.StreamWriter] = set()

        async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self.open |= {writer, far_writer}
            await asyncio.gather(self.pour(reader, far_writer), self.pour(far_reader, writer))

        async def pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while piece := await reader.read(1 << 16):
                    writer.write(piece)
            except ConnectionError:
                pass
            finally:
                writer.close()

        def cut(self) -> None:
            for writer in self.open:
                writer.transport.abort()
            self.open.clear()

    made = Wire()
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    made.cut()


async def test_an_answer_that_broke_off_is_taken_up_again(door: Any, tmp_path: Path, wire: Any) -> None:
    served = door.serve()
    wire.target = served.port
    heard: list[float] = []
    began = asyncio.Event()

    async def progress(done: float, _total: float | None, _message: str | None) -> None:
        heard.append(done)
        began.set()

    words = _words(door, f"https://localhost:{wire.port}")
    parameters = StdioServerParameters(
        command=sys.executable, args=words, env=_environment(tmp_path), cwd=ROOT
    )
    async with Client(parameters, mode="legacy") as host:
        call = asyncio.create_task(
            host.call_tool("far_count", {"steps": 6, "seconds": 6}, progress_callback=progress)
        )
        await asyncio.wait_for(began.wait(), 20)
        wire.cut()
        assert _text(await call) == "counted to 6"
        assert heard == [1, 2, 3, 4, 5, 6]
