"""Upstreams that are child processes: well-behaved ones, and ones that do everything wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from gateway.config.values import SandboxSettings, Sessions, StdioUpstream
from gateway.mcp import stdio_host, stdio_process, stdio_session, upstream_stdio
from gateway.mcp.eras import Era
from gateway.mcp.messages import Message, Notification, Reply, Request
from gateway.mcp.stdio_host import StdioHost
from gateway.mcp.upstream import (
    GATEWAY,
    CancelledByCaller,
    EraChangedError,
    Forgot,
    SessionKey,
    UpstreamError,
)
from gateway.mcp.upstream_stdio import StdioUpstreamServer
from gateway.mcp.watching import PATIENCE
from gateway.model import Reason

ALICE = SessionKey(("t", "alice"))
NOBODY = SessionKey((None, None))
BOB = SessionKey(("t", "bob"))

CHILD = '''
"""An MCP server without any library; what it does with a call is the name of the tool."""
import json, os, resource, signal, subprocess, sys, time

def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()

opened, cancelled, heard, waiting = 0, [], [], []
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--silent" in sys.argv:
    time.sleep(600)
if "--dies" in sys.argv:
    sys.exit(3)
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    params = message.get("params", {})
    name, arguments = params.get("name"), params.get("arguments", {})
    if method == "initialize":
        opened += 1
        send({"id": id, "result": {"protocolVersion": "2024-11-05", "capabilities": params["capabilities"],
              "serverInfo": {"name": "child", "version": "1"}}})
    elif method is None:
        heard.append(message)
        if id == 78:
            send({"id": late, "result": message.get("error", {}).get("code")})
            continue
        if waiting:
            send({"id": waiting.pop(), "result": message.get("result", message.get("error"))})
    elif id is None:
        heard.append(message)
        if method == "notifications/cancelled":
            cancelled.append(params)
    elif name == "echo":
        send({"id": id, "result": arguments})
    elif name == "about":
        limits = {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")}
        status = dict(l.split(":", 1) for l in open("/proc/self/status"))
        send({"id": id, "result": {"pid": os.getpid(), "pgid": os.getpgid(0), "sid": os.getsid(0),
              "env": dict(os.environ), "limits": limits, "cwd": os.getcwd(), "opened": opened, "uid": os.getuid(),
              "cancelled": cancelled, "heard": heard, "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
              "no_new_privs": status["NoNewPrivs"].strip(), "ignored": int(status["SigIgn"], 16)}})
    elif name == "hang":
        pass
    elif name == "later":
        waiting.append(id)
    elif name == "late work":
        send({"method": "notifications/message", "params": {"secret": "of the one before"}})
        send({"id": 78, "method": "sampling/createMessage", "params": {}})
        late = id
    elif name == "answer the first":
        send({"id": waiting.pop(), "result": None})
        send({"id": id, "result": None})
    elif name == "babble":
        while arguments["times"] != 0:
            arguments["times"] -= 1
            sys.stdout.write(arguments["line"] + "\\n")
        sys.stdout.flush()
        send({"id": id, "result": None})
    elif name == "die":
        os._exit(7)
    elif name == "last words":
        send({"id": id, "result": "bye"})
        os._exit(0)
    elif name == "close":
        os.close(1)
        time.sleep(600)
    elif name == "noise":
        print("this is no message")
        print("\\x1b[31mevil\\x1b[0m" * 100)
        print('{"jsonrpc": "1.0"}')
        print("")
        send({"id": 424242, "result": "of nobody"})
        send({"id": "1", "result": "of nobody"})
        send({"id": id, "result": "after the noise"})
    elif name == "flood":
        sys.stdout.write("x" * arguments["size"]); sys.stdout.flush()
    elif name == "complain":
        for number in range(arguments["lines"]):
            print(f"line {number} " + "y" * arguments.get("width", 0), file=sys.stderr)
        sys.stderr.flush()
        send({"id": id, "result": None})
    elif name == "family":
        script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        child.stdout.readline()
        send({"id": id, "result": child.pid})
    elif name == "open many":
        try:
            files = [open("/dev/null") for _ in range(500)]
        except OSError as error:
            send({"id": id, "result": error.errno})
    elif name == "use much":
        try:
            block = bytearray(arguments["bytes"])
            send({"id": id, "result": "had it"})
        except MemoryError:
            send({"id": id, "result": "MemoryError"})
    elif name == "progress":
        token = params["_meta"]["progressToken"]
        for t in (token, token + 1000, str(token)):
            send({"method": "notifications/progress", "params": {"progressToken": t, "progress": 1}})
        send({"id": id, "result": token == id})
    elif name == "say":
        send({"method": arguments["method"], "params": {"x": 1}})
        if not arguments.get("wait"):
            send({"id": id, "result": None})
    elif name == "ask":
        waiting.append(id)
        send({"id": 77, "method": arguments.get("method", "elicitation/create"), "params": {}})
    elif name == "quit politely":
        send({"id": id, "result": None})
open("ended-well", "w").close()
if "--stays" in sys.argv:
    time.sleep(600)
'''


@asynccontextmanager
async def child_of(
    folder: Path,
    *arguments: str,
    heard: list[tuple[SessionKey, Notification | Request]] | None = None,
    grace: float = 1.0,
    idle: float = 600.0,
    forgot: Forgot = lambda _key: None,
    command: tuple[str, ...] | None = None,
    logs: Path | None = None,
    **settings: Any,
) -> AsyncIterator[StdioUpstreamServer]:
    script = folder / "child.py"
    script.write_text(CHILD)
    host = StdioHost(lambda: 0.0, logs)
    upstream = StdioUpstreamServer(
        StdioUpstream(
            "local",
            command or (sys.executable, "-u", "child.py", *arguments),
            settings.pop("where", folder),
            **{"timeout": 20.0, "environment": (("PATH", "/usr/bin:/bin"),), **settings},
        ),
        lambda key, message: heard.append((key, message)) if heard is not None else None,
        host,
        forgot,
        grace=grace,
        idle_seconds=idle,
    )
    try:
        yield upstream
    finally:
        await upstream.close()
        await host.keeper.close()


async def ask(upstream: StdioUpstreamServer, name: str, key: SessionKey = ALICE, **arguments: Any) -> Any:
    """The result of a call."""
    async with upstream.request(key, "tools/call", {"name": name, "arguments": arguments}) as exchange:
        while not isinstance(message := await exchange.receive(), Reply):
            pass
    return json.loads(bytes(message.result or message.error or b"null"))


async def failure(
    upstream: StdioUpstreamServer, name: str = "echo", key: SessionKey = ALICE, **arguments: Any
) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await ask(upstream, name, key, **arguments)
    assert "local" in caught.value.detail
    return caught.value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def started_with(pid: int) -> set[bytes]:
    return set(Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0").split(b"\0"))


async def until_dead(pid: int) -> None:
    while alive(pid):  # noqa: ASYNC110 - the loop has no event for it
        await asyncio.sleep(0.01)


OF_AN_ERA = """
import json, os, sys

for line in sys.stdin:
    message = json.loads(line)
    modern = open("era").read() == "modern"
    result = None
    if message.get("method") == ("server/discover" if modern else "initialize"):
        result = {"supportedVersions": ["2026-07-28"], "protocolVersion": "2025-11-25", "capabilities": {}}
    elif message.get("method") == "tools/call":
        if message["params"]["name"] == "die":
            os._exit(0)
        result = "modern" if modern else "legacy"
    said = {"error": {"code": -32601, "message": "?"}} if result is None else {"result": result}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}), flush=True)
"""


async def test_a_command_that_changed_its_era_is_asked_in_the_other(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(OF_AN_ERA)
    forgotten: list[SessionKey | None] = []
    command = (sys.executable, "-u", "server.py")
    async with child_of(tmp_path, command=command, forgot=forgotten.append) as upstream:
        (tmp_path / "era").write_text("legacy")
        key = SessionKey(ALICE.owner, era=await upstream.era_for(ALICE))
        assert await ask(upstream, "echo", key) == "legacy"
        for era in (Era.MODERN, Era.LEGACY, Era.MODERN):
            (tmp_path / "era").write_text(era.value)
            assert (await failure(upstream, "die", key)).reason is Reason.UPSTREAM_UNAVAILABLE
            with pytest.raises(EraChangedError):
                await ask(upstream, "echo", key)
            assert forgotten.pop() is None
            key = SessionKey(ALICE.owner, era=await upstream.era_for(ALICE))
            assert await ask(upstream, "echo", key) == era.value


CHOOSY = """
import json, sys

for line in sys.stdin:
    message = json.loads(line)
    method, params = message.get("method"), message.get("params", {})
    said = {"result": {"supportedVersions": ["2026-07-28"], "capabilities": {}}}
    if method == "subscriptions/listen":
        meta = {"io.modelcontextprotocol/subscriptionId": message["id"]}
        said = {"method": "notifications/subscriptions/acknowledged", "params": {"_meta": meta}}
        if "d://bad" in params["notifications"]["resourceSubscriptions"]:
            said = {"error": {"code": -32602, "message": "no"}}
    if "id" in message:
        said = said if "method" in said else {"id": message["id"], **said}
        print(json.dumps({"jsonrpc": "2.0", **said}), flush=True)
"""


async def test_what_a_modern_one_does_not_tell_of_is_known(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(CHOOSY)
    async with child_of(tmp_path, command=(sys.executable, "-u", "server.py")) as upstream:
        await upstream.describe()
        for uri in ("d://bad", "d://good"):
            upstream.watch(uri)
        began = asyncio.get_running_loop().time()
        assert await upstream.watched(["d://bad", "d://good", "d://never"]) == {"d://bad"}
        assert asyncio.get_running_loop().time() - began < PATIENCE, "it has said so"


class TestCalls:
    async def test_a_thousand_share_one_process(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            info = await upstream.describe()
            assert (info.protocol_version, info.server_info["name"]) == ("2024-11-05", "child")

            async def caller(number: int) -> None:
                key = ALICE if number % 2 else BOB
                for turn in range(20):
                    assert await ask(upstream, "echo", key, n=number, t=turn) == {"n": number, "t": turn}

            await asyncio.gather(*(caller(number) for number in range(50)))
            assert (await ask(upstream, "about"))["opened"] == 1

    async def test_a_large_answer_and_a_large_question(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            text = "x" * 5_000_000
            assert (await ask(upstream, "echo", text=text))["text"] == text

    async def test_progress_comes_back_under_the_callers_own_token(self, tmp_path: Path) -> None:
        params = {"name": "progress", "_meta": {"progressToken": "mine"}}
        async with child_of(tmp_path) as upstream:
            async with upstream.request(ALICE, "tools/call", params) as exchange:
                progress = await exchange.receive()
                assert progress == Notification(
                    "notifications/progress", {"progressToken": "mine", "progress": 1}
                )
                done = await exchange.receive()
            assert isinstance(done, Reply)
            assert bytes(done.result or b"") == b"true"
        assert params["_meta"] == {"progressToken": "mine"}

    async def test_noise_is_skipped_and_logged_harmlessly(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "ostiary.mcp.local")
        async with child_of(tmp_path) as upstream:
            assert await ask(upstream, "noise") == "after the noise"
        assert "this is no message" in caplog.text
        assert "\x1b" not in caplog.text
        assert max(map(len, caplog.text.splitlines())) < 1200

    def test_works_on_uvloop_too(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with child_of(tmp_path) as upstream:
                assert await ask(upstream, "echo", a=1) == {"a": 1}
                grandchild = await ask(upstream, "family")
                about = await ask(upstream, "about")
                assert about["pid"] == about["pgid"] == about["sid"]
                assert (await failure(upstream, "die")).reason is Reason.UPSTREAM_UNAVAILABLE
                await until_dead(grandchild)
                assert await ask(upstream, "echo", a=2) == {"a": 2}
                assert "flooded" in (await failure(upstream, "babble", line="x", times=-1)).detail

        uvloop.run(run())


class TestWhatComesUnasked:
    async def test_belongs_to_the_only_request_under_way(self, tmp_path: Path) -> None:
        heard: list[tuple[SessionKey, Notification | Request]] = []
        async with child_of(tmp_path, heard=heard) as upstream:
            params = {"name": "say", "arguments": {"method": "notifications/message"}}
            async with upstream.request(ALICE, "tools/call", params) as exchange:
                assert await exchange.receive() == Notification("notifications/message", {"x": 1})
        assert heard == []

    @pytest.mark.parametrize(
        "method", ["notifications/tools/list_changed", "notifications/resources/updated"]
    )
    async def test_never_to_a_request_where_it_cannot(self, tmp_path: Path, method: str) -> None:
        heard: list[tuple[SessionKey, Notification | Request]] = []
        async with child_of(tmp_path, heard=heard) as upstream:
            assert await ask(upstream, "say", method=method) is None
        assert heard == [(GATEWAY, Notification(method, {"x": 1}))]

    async def test_is_unsolicited_where_nobody_can_tell(self, tmp_path: Path) -> None:
        heard: list[tuple[SessionKey, Notification | Request]] = []
        async with child_of(tmp_path, heard=heard) as upstream:
            hanging = {"name": "hang"}
            async with upstream.request(ALICE, "tools/call", hanging):
                assert await ask(upstream, "say", BOB, method="notifications/message") is None
        assert heard == [(GATEWAY, Notification("notifications/message", {"x": 1}))]

    async def test_a_ping_is_answered(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            assert await ask(upstream, "ask", method="ping") == {}

    async def test_a_question_goes_to_the_caller_and_its_answer_back(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            async with upstream.request(ALICE, "tools/call", {"name": "ask"}) as exchange:
                assert await exchange.receive() == Request(77, "elicitation/create", {})
                stolen, own = (msgspec.Raw(json.dumps({"by": by}).encode()) for by in ("bob", "alice"))
                await upstream.respond(BOB, 77, Reply(1, result=stolen))
                await upstream.respond(ALICE, 78, Reply(1, result=stolen))
                await upstream.respond(ALICE, 77, Reply(1, result=own))
                await upstream.respond(ALICE, 77, Reply(1, result=stolen))
                done = await exchange.receive()
            assert isinstance(done, Reply)
            assert json.loads(bytes(done.result or b"")) == {"by": "alice"}

    @pytest.mark.parametrize("held", [False, True])
    async def test_a_question_that_could_be_anybodys_is_refused(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, held: bool
    ) -> None:
        other = {"name": "ask" if held else "hang"}
        async with child_of(tmp_path) as upstream, upstream.request(BOB, "tools/call", other) as exchange:
            if held:
                await exchange.receive()
                exchange.hold()
            refusal = await ask(upstream, "ask")
        assert refusal["code"] == -32603
        for said in (refusal["message"], caplog.messages[-1]):
            assert 'with sessions = "client" each client has its own process' in said

    @pytest.mark.parametrize("first", [ALICE, NOBODY])
    @pytest.mark.parametrize("sessions", list(Sessions))
    async def test_what_a_call_that_was_given_up_still_says_reaches_nobody_else(
        self, tmp_path: Path, first: SessionKey, sessions: Sessions
    ) -> None:
        if sessions is Sessions.CLIENT and first is ALICE:
            second = ALICE  # nobody else can come there
        else:
            second = BOB if first is ALICE else NOBODY
        async with child_of(tmp_path, sessions=sessions) as upstream:
            async with upstream.request(first, "tools/call", {"name": "later"}):
                pass
            expected = await self._late_work(upstream, second)
            assert bool(expected) == (second is ALICE)
            await ask(upstream, "answer the first", second)
            assert await self._late_work(upstream, second)  # now it can be nobody's but the caller's

    async def test_the_same_holds_after_too_many_to_remember(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stdio_session, "MAX_UNANSWERED", 2)
        async with child_of(tmp_path) as upstream:
            for key in (BOB, ALICE, ALICE):
                async with upstream.request(key, "tools/call", {"name": "hang"}):
                    pass
            assert not await self._late_work(upstream, ALICE)

    async def _late_work(self, upstream: StdioUpstreamServer, key: SessionKey) -> list[Message]:
        """What a call gets besides its answer; where that is nothing, the child's question was refused."""
        got: list[Message] = []
        async with upstream.request(key, "tools/call", {"name": "late work"}) as exchange:
            while not isinstance(message := await exchange.receive(), Reply):
                got.append(message)
                if isinstance(message, Request):
                    await upstream.respond(key, message.id, Reply(1, result=msgspec.Raw(b"{}")))
        assert bytes(message.result or b"") == (b"null" if got else b"-32603")
        return got

    async def test_a_question_of_a_clients_own_process_is_that_clients(self, tmp_path: Path) -> None:
        heard: list[tuple[SessionKey, Notification | Request]] = []
        async with child_of(tmp_path, heard=heard, sessions=Sessions.CLIENT) as upstream:
            upstream.listen(ALICE)
            async with (
                upstream.request(ALICE, "tools/call", {"name": "hang"}),
                upstream.request(ALICE, "tools/call", {"name": "ask"}) as exchange,
            ):
                while not heard:  # noqa: ASYNC110 - the callback has no event
                    await asyncio.sleep(0.01)
                assert heard == [(ALICE, Request(77, "elicitation/create", {}))]
                await upstream.respond(ALICE, 77, Reply(1, result=msgspec.Raw(b'"yes"')))
                done = await exchange.receive()
            assert isinstance(done, Reply)
            assert bytes(done.result or b"") == b'"yes"'


class TestLimits:
    async def test_the_deadline_reaches_the_child(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, timeout=2.0) as upstream:
            await upstream.describe()
            assert (await failure(upstream, "hang")).reason is Reason.UPSTREAM_TIMEOUT
            about = await ask(upstream, "about")
            assert [each["reason"] for each in about["cancelled"]] == ["timed out"]

    async def test_leaving_and_cancelling_reach_the_child(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, max_concurrency=2) as upstream:
            async with upstream.request(ALICE, "tools/call", {"name": "hang"}):
                pass
            async with upstream.request(ALICE, "tools/call", {"name": "hang"}) as exchange:
                reading = asyncio.create_task(exchange.receive())
                await asyncio.sleep(0)
                await exchange.cancel("enough")
                with pytest.raises(CancelledByCaller):
                    await reading
                await exchange.cancel("again")
            about = await ask(upstream, "about")
            assert [each["reason"] for each in about["cancelled"]] == ["abandoned", "enough"]
            ids = [each["requestId"] for each in about["cancelled"]]
            assert len(set(ids)) == 2

    async def test_no_more_at_once_than_allowed(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, max_concurrency=1, timeout=2.0) as upstream:
            await upstream.describe()
            async with upstream.request(ALICE, "tools/call", {"name": "hang"}):
                assert (await failure(upstream)).reason is Reason.UPSTREAM_TIMEOUT
            await ask(upstream, "echo")

    async def test_a_handshake_that_never_comes(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, "--silent", timeout=0.5, grace=0.1) as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_TIMEOUT

    async def test_one_that_comes_late_and_breaks_off_is_no_fault(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        late = (
            "import json, sys, time; first = json.loads(input()); time.sleep(0.6);"
            'print(json.dumps({"jsonrpc": "2.0", "id": first["id"], "error": {"code": -32601, "message": "?"}}), flush=True);'
            "sys.stdin.read()"
        )
        command = (sys.executable, "-u", "-c", late)
        async with child_of(tmp_path, command=command, timeout=2, grace=0.1) as upstream:
            with pytest.raises(UpstreamError):
                await upstream.describe()
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_a_line_that_is_too_long_ends_the_child(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stdio_process, "MAX_MESSAGE", 100_000)
        async with child_of(tmp_path) as upstream:
            error = await failure(upstream, "flood", size=300_000)
            assert error.reason is Reason.UPSTREAM_UNAVAILABLE

    @pytest.mark.parametrize(
        "line",
        [
            "no message",
            '{"jsonrpc":"2.0","method":"notifications/message","params":{}}',
            '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}',
            '{"jsonrpc":"2.0","id":424242,"result":{}}',
            '{"jsonrpc":"2.0","id":1,"method":"ping"}',
            "[]",
            "x" * 100_000,
        ],
    )
    async def test_one_that_floods_its_output_is_ended(
        self, tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with child_of(tmp_path) as upstream:
            pid = (await ask(upstream, "about"))["pid"]
            error = await failure(upstream, "babble", line=line, times=-1)
            assert error.reason is Reason.UPSTREAM_UNAVAILABLE
            assert "flooded" in error.detail
            await until_dead(pid)
            await ask(upstream, "echo")
        said = [record for record in caplog.records if "the process is ended" in record.getMessage()]
        assert len(said) == 1

    async def test_one_that_answers_in_between_may_say_much(self, tmp_path: Path) -> None:
        line = '{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
        async with child_of(tmp_path) as upstream:
            pid = (await ask(upstream, "about"))["pid"]
            for _ in range(5):
                async with upstream.request(
                    ALICE, "tools/call", {"name": "babble", "arguments": {"line": line, "times": 900}}
                ) as exchange:
                    got = 0
                    while not isinstance(await exchange.receive(), Reply):
                        got += 1
                assert got == 900
            assert (await ask(upstream, "about"))["pid"] == pid

    async def test_its_output_waits_while_the_gateway_is_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stdio_process, "MAX_TURN_SECONDS", 0.0)
        async with child_of(tmp_path) as upstream:
            text = "x" * 3_000_000
            assert (await ask(upstream, "echo", text=text))["text"] == text

        async def again() -> None:
            async with child_of(tmp_path) as upstream:
                assert (await ask(upstream, "echo", text=text))["text"] == text

        await asyncio.to_thread(uvloop.run, again())

    async def test_what_it_complains_of_is_logged_within_bounds(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "ostiary.mcp.local")
        async with child_of(tmp_path) as upstream:
            await ask(upstream, "complain", lines=2, width=5000)
            await ask(upstream, "complain", lines=2000)
            await ask(upstream, "echo")
        lines = [record.getMessage() for record in caplog.records if record.name == "ostiary.mcp.local"]
        assert any("] stderr: line 0 yyy" in line for line in lines)
        assert max(map(len, lines)) < 2100
        assert len(lines) < 500

    async def test_its_log_is_a_file_that_is_put_aside_when_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(stdio_host, "LOG_BYTES", 4000)
        logs = tmp_path / "logs"
        logs.mkdir()
        async with child_of(tmp_path, logs=logs) as upstream:
            for _ in range(3):
                await ask(upstream, "complain", lines=80)
                await ask(upstream, "echo")
            files = sorted(path.name for path in logs.iterdir())
            assert files == ["local.log", "local.log.1", "local.log.2", "local.log.3"][: len(files)]
            assert len(files) > 1
            assert all(path.stat().st_mode & 0o777 == 0o600 for path in logs.iterdir())
            assert all(path.stat().st_size <= 4000 for path in logs.iterdir())
            (logs / "local.log").unlink()
            (logs / "local.log").symlink_to("elsewhere")
            await asyncio.sleep(1.0)  # the next second's lines
            await ask(upstream, "complain", lines=1)
            await ask(upstream, "echo")
        assert not (logs / "elsewhere").exists()
        assert "local.log cannot be written" in caplog.text

    async def test_a_keeper_that_was_killed_is_started_again(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, sessions=Sessions.CLIENT) as upstream:
            await ask(upstream, "echo")
            keeper = upstream._host.keeper
            first = keeper._process
            assert first is not None
            first.kill()
            first.wait()
            await ask(upstream, "echo", BOB)
            second = keeper._process
            assert second is not None
            assert second.poll() is None
            family = [await ask(upstream, "family", key) for key in (ALICE, BOB)]
            assert second.stdin is not None
            second.stdin.close()  # as if the gateway were gone
            for grandchild in family:
                await until_dead(grandchild)


class TestDying:
    async def test_in_the_middle_of_a_call(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            hanging = asyncio.create_task(failure(upstream, "hang"))
            first = await ask(upstream, "about")
            assert (await failure(upstream, "die")).reason is Reason.UPSTREAM_UNAVAILABLE
            assert (await hanging).reason is Reason.UPSTREAM_UNAVAILABLE
            second = await ask(upstream, "about")
            assert first["pid"] != second["pid"]

    async def test_is_told_as_the_end_of_what_it_knew_and_its_orderly_end_is_not(
        self, tmp_path: Path
    ) -> None:
        forgotten: list[SessionKey | None] = []
        async with child_of(tmp_path, sessions=Sessions.CLIENT, forgot=forgotten.append) as upstream:
            for key in (ALICE, BOB):
                await ask(upstream, "about", key)
            await failure(upstream, "die")
            await ask(upstream, "about")
            await upstream.end(ALICE)
        assert forgotten == [ALICE]

    async def test_last_words_are_heard(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            assert await ask(upstream, "last words") == "bye"

    async def test_one_that_closes_its_output_is_ended(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, grace=0.2) as upstream:
            pid = (await ask(upstream, "about"))["pid"]
            assert (await failure(upstream, "close")).reason is Reason.UPSTREAM_UNAVAILABLE
            await until_dead(pid)
            await ask(upstream, "echo")

    async def test_again_and_again_makes_calls_fail_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream_stdio, "FIRST_PAUSE", 0.3)
        async with child_of(tmp_path) as upstream:
            await failure(upstream, "die")
            await failure(upstream, "die")  # started again at once, but not a third time
            assert "keeps ending" in (await failure(upstream)).detail
            await asyncio.sleep(0.35)
            await ask(upstream, "echo")

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            (("/nowhere/at/all",), "not found"),
            (("no-such-program",), "not found"),
            (("./child.py",), "cannot be executed"),
            ((sys.executable, "child.py", "--dies"), "ended"),
        ],
    )
    async def test_before_it_lives(self, tmp_path: Path, command: tuple[str, ...], words: str) -> None:
        async with child_of(tmp_path, command=command) as upstream:
            with pytest.raises(UpstreamError) as caught:
                await upstream.describe()
        assert caught.value.reason is Reason.UPSTREAM_UNAVAILABLE
        assert words in caught.value.detail

    async def test_in_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, where=tmp_path / "gone") as upstream:
            assert (await failure(upstream)).reason is Reason.UPSTREAM_UNAVAILABLE


class TestEnding:
    async def test_a_polite_child_ends_by_itself(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, grace=20.0) as upstream:
            pid = (await ask(upstream, "about"))["pid"]
        assert not alive(pid)
        assert (tmp_path / "ended-well").exists()
        assert (await failure(upstream)).reason is Reason.UPSTREAM_UNAVAILABLE

    @pytest.mark.parametrize("arguments", [("--stays",), ("--stays", "--deaf")])
    async def test_a_stubborn_one_is_made_to(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        async with child_of(tmp_path, *arguments, grace=0.2) as upstream:
            pid = (await ask(upstream, "about"))["pid"]
        assert not alive(pid)

    async def test_its_descendants_end_with_it(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            pid = await ask(upstream, "family")
            assert alive(pid)
        await until_dead(pid)

    async def test_the_descendants_of_one_that_died_end_too(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            pid = await ask(upstream, "family")
            await failure(upstream, "die")
            await until_dead(pid)

    async def test_it_dies_with_a_gateway_that_is_killed(self, tmp_path: Path) -> None:
        (tmp_path / "child.py").write_text(CHILD)
        gateway = tmp_path / "gateway_process.py"
        gateway.write_text(
            f"""
import asyncio, json, pathlib, sys
sys.path.insert(0, {str(Path(upstream_stdio.__file__).parents[2])!r})
from gateway.config.values import StdioUpstream
from gateway.mcp.stdio_host import StdioHost
from gateway.mcp.upstream import GATEWAY
from gateway.mcp.upstream_stdio import StdioUpstreamServer

async def main():
    folder = pathlib.Path({str(tmp_path)!r})
    settings = StdioUpstream("local", (sys.executable, "child.py", "--stays"), folder)
    upstream = StdioUpstreamServer(settings, lambda key, message: None, StdioHost(lambda: 0.0))
    async with upstream.request(GATEWAY, "tools/call", {{"name": "about"}}) as exchange:
        reply = await exchange.receive()
    print(json.loads(bytes(reply.result))["pid"], flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(gateway), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        pid = int(await process.stdout.readline())
        assert alive(pid)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await until_dead(pid)


class TestClients:
    async def test_each_has_its_own_process(self, tmp_path: Path) -> None:
        capable = SessionKey(("t", "alice"), b'{"roots":{}}')
        async with child_of(tmp_path, sessions=Sessions.CLIENT) as upstream:
            keys = (ALICE, BOB, capable)
            abouts = [await ask(upstream, "about", key) for key in (*keys, *keys)]
            assert len({about["pid"] for about in abouts}) == 3
            await upstream.end(BOB)
            assert not alive(abouts[1]["pid"])
            assert alive(abouts[0]["pid"])
            await upstream.notify(BOB, "notifications/x", {})
            await upstream.notify(ALICE, "notifications/roots/list_changed", {})
            heard = (await ask(upstream, "about", ALICE))["heard"]
            assert [each["method"] for each in heard] == [
                "notifications/initialized",
                "notifications/roots/list_changed",
            ]

    async def test_shared_is_not_ended_for_one(self, tmp_path: Path) -> None:
        async with child_of(tmp_path) as upstream:
            first = await ask(upstream, "about", ALICE)
            await upstream.end(ALICE)
            assert (await ask(upstream, "about", BOB))["pid"] == first["pid"]

    async def test_there_are_not_too_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(upstream_stdio, "MAX_PROCESSES", 2)
        monkeypatch.setattr(upstream_stdio, "RECENT_SECONDS", 0.0)
        third = SessionKey(("t", "carol"))
        async with child_of(tmp_path, sessions=Sessions.CLIENT) as upstream:
            alice = await ask(upstream, "about", ALICE)
            await ask(upstream, "about", BOB)
            await ask(upstream, "about", third)  # in the place of the one that has been idle longest
            await until_dead(alice["pid"])
            hanging = {"name": "hang"}
            async with (
                upstream.request(BOB, "tools/call", hanging),
                upstream.request(third, "tools/call", hanging),
            ):
                with pytest.raises(UpstreamError, match="too many"):
                    await ask(upstream, "echo", ALICE)

    async def test_nobody_costs_another_client_its_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream_stdio, "MAX_PROCESSES", 3)
        monkeypatch.setattr(upstream_stdio, "MAX_PROCESSES_OF_ONE", 2)
        bobs = [BOB, SessionKey(BOB.owner, b'{"roots":{}}'), SessionKey(BOB.owner, b'{"sampling":{}}')]
        async with child_of(tmp_path, sessions=Sessions.CLIENT) as upstream:
            alice = await ask(upstream, "about", ALICE)
            pids = [(await ask(upstream, "about", key))["pid"] for key in bobs]
            await until_dead(pids[0])  # his own gave way
            assert (await ask(upstream, "about", ALICE))["pid"] == alice["pid"]
            with pytest.raises(UpstreamError, match="too many sessions") as caught:
                await ask(upstream, "echo", SessionKey(("t", "carol")))  # all were used a moment ago
            assert caught.value.reason is Reason.UPSTREAM_UNAVAILABLE
            await upstream.describe()  # the gateway itself always has room
            assert [alive(pid) for pid in pids] == [False, True, True]

    async def test_idle_ones_are_ended(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, sessions=Sessions.CLIENT, idle=0.1) as upstream:
            about = await ask(upstream, "about")
            await until_dead(about["pid"])
            assert (await ask(upstream, "about"))["pid"] != about["pid"]


class TestTheSandbox:
    async def test_nothing_leaks_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OSTIARY_SECRET_KEY", "do not tell")
        leak = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(leak, True)
        environment = (("PATH", "/usr/bin:/bin"), ("TZ", "UTC"))
        async with child_of(tmp_path, environment=environment) as upstream:
            about = await ask(upstream, "about")
            started = started_with(about["pid"])
        os.close(leak)
        # its own interpreter may add LC_CTYPE; what it was started with is what counts
        assert started == {b"PATH=/usr/bin:/bin", b"TZ=UTC"}
        assert set(about["env"]) - {"LC_CTYPE"} == {"PATH", "TZ"}
        assert about["cwd"] == str(tmp_path)
        assert leak not in about["fds"][:-1]
        assert about["pid"] == about["pgid"] == about["sid"]
        assert about["no_new_privs"] == "1"
        reserved = 0b11 << 31  # 32 and 33 are the C library's own, and nobody's to set
        assert not about["ignored"] & ~(reserved | 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)

    async def test_its_limits_are_in_force(self, tmp_path: Path) -> None:
        sandbox = SandboxSettings(memory=256 << 20, open_files=64, processes=1000)
        async with child_of(tmp_path, sandbox=sandbox) as upstream:
            limits = (await ask(upstream, "about"))["limits"]
            assert limits["RLIMIT_DATA"] == [256 << 20] * 2
            assert limits["RLIMIT_NOFILE"] == [64] * 2
            assert limits["RLIMIT_CORE"] == [0, 0]
            assert limits["RLIMIT_AS"] == list(resource.getrlimit(resource.RLIMIT_AS))
            if os.geteuid() != 0:
                assert limits["RLIMIT_NPROC"] == [1000] * 2
            assert await ask(upstream, "open many") == 24  # EMFILE
            assert await ask(upstream, "use much", bytes=64 << 20) == "had it"
            assert await ask(upstream, "use much", bytes=512 << 20) == "MemoryError"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")
    async def test_another_user(self, tmp_path: Path) -> None:
        sandbox = SandboxSettings(user="nobody", processes=50)
        command = ("/bin/sh", "-c", SHELL_SERVER)
        async with child_of(tmp_path, command=command, sandbox=sandbox, where=Path("/")) as upstream:
            told = (await upstream.describe()).server_info
        assert told["user"] == str(pwd.getpwnam("nobody").pw_uid)
        assert told["processes"] == "50"

    async def test_a_user_that_is_not_there(self, tmp_path: Path) -> None:
        async with child_of(tmp_path, sandbox=SandboxSettings(user="no-such-user")) as upstream:
            assert "sandbox" in (await failure(upstream)).detail


SHELL_SERVER = r"""
read line
id=$(printf %s "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
max=$(sed -n 's/^Max processes *\([0-9]*\) .*/\1/p' /proc/self/limits)
said='"protocolVersion":"2025-06-18","capabilities":{}'
echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{$said,\"serverInfo\":{\"user\":\"$(id -u)\",\"processes\":\"$max\"}}}"
read line
"""
SDK_SERVER = """
from mcp.server.mcpserver import Context, MCPServer
server = MCPServer("official")

@server.tool()
async def work(steps: int, ctx: Context) -> str:
    for step in range(steps):
        await ctx.report_progress(step, steps)
    return f"did {steps}"

server.run("stdio")
"""


async def test_the_official_server(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SDK_SERVER)
    came: list[Message] = []
    params = {"name": "work", "arguments": {"steps": 3}, "_meta": {"progressToken": 9}}
    async with child_of(tmp_path, command=(sys.executable, "server.py")) as upstream:
        assert (await upstream.describe()).protocol_version == "2026-07-28"
        async with upstream.request(ALICE, "tools/call", params) as exchange:
            while not isinstance(message := await exchange.receive(), Reply):
                came.append(message)
    assert [note.params["progressToken"] for note in came if isinstance(note, Notification)] == [9] * 3
    assert b"did 3" in bytes(message.result or b"")
