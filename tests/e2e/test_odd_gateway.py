"""The bridge and the client's commands at a gateway that breaks off or answers oddly."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.modern import META, VERSION

ROOT = Path(__file__).resolve().parent.parent.parent
MODERN = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}}
UNUSABLE = "answers something else than was asked; is it an Ostiary gateway?"
NO_MESSAGE = "the gateway answers what is no message; is it an Ostiary gateway?"
BROKEN = "the gateway broke off its answer; try again"
NO_REPLY = "the gateway ended its answer without a reply; try again"


@pytest.fixture(scope="module")
def gateway(pristine: Path, start_shared: Callable[..., Any]) -> str:
    certs = pristine / "certs"
    script = "tests/servers/odd_gateway.py"
    return str(start_shared(script, str(certs / "server.pem"), str(certs / "server.key")).url)


@pytest.fixture
def environment(pristine: Path, tmp_path: Path) -> dict[str, str]:
    """Of a command with a home of its own; OSTIARY_TOKEN is what it presents."""
    ca = str(pristine / "certs" / "ca.pem")
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OSTIARY_CA": ca, "OSTIARY_TOKEN": "abc"}


@dataclass
class Host:
    """What a host does with its bridge: one request after the other."""

    process: subprocess.Popen[bytes]
    messages: list[Any] = field(default_factory=list)
    """Whatever the bridge has written."""
    asked: list[object] = field(default_factory=list)

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def tell(self, method: str, **params: Any) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode())

    def ask(self, method: str, **params: Any) -> Any:
        """The reply."""
        number = len(self.asked) + 1
        self.asked.append(number)
        self.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode())
        return self.hear(lambda message: message.get("id") == number)

    def call(self, name: str, **params: Any) -> Any:
        return self.ask("tools/call", name=name, arguments={}, **params)

    def refusal(self, name: str, **params: Any) -> str:
        return str(self.call(name, **params)["error"]["message"])

    def hear(self, wanted: Callable[[Any], bool]) -> Any:
        """The next such message. A line that is none fails the test."""
        while True:
            message = self.read()
            if wanted(message):
                return message

    def read(self) -> Any:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 30)[0], "nothing comes"
        message = json.loads(self.process.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        self.messages.append(message)
        return message

    def end(self) -> tuple[int, bytes]:
        """The exit code, and what is on stderr; what was still said is read."""
        out, err = self.process.communicate(timeout=30)
        self.messages += [json.loads(line) for line in out.splitlines()]
        return self.process.returncode, err


@pytest.fixture
def host(gateway: str, environment: dict[str, str]) -> Iterator[Host]:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "bridge", gateway],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    yield Host(process)
    process.kill()
    process.communicate()


def test_whatever_the_gateway_does_the_bridge_answers_once_and_goes_on(host: Host) -> None:
    client = {"name": "host", "version": "1"}
    opened = host.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
    assert opened["result"]["serverInfo"]["name"] == "odd"
    host.tell("notifications/initialized", case="cut")

    # what is no message, or no reply to the request
    for case in ("no json", "html", "a list", "no version", "no object", "both", "neither", "odd error"):
        assert host.refusal(case) == NO_MESSAGE, case
    for case in ("no utf-8", "deep"):
        assert host.refusal(case) == NO_MESSAGE, case
    for case in ("another's", "as text", "empty"):
        assert host.refusal(case) == f"the gateway {UNUSABLE}", case

    # what breaks off
    assert host.refusal("cut") == BROKEN
    assert "the connection" in host.refusal("gone")
    assert host.refusal("stream without reply") == NO_REPLY
    for case in ("cut", "large", "gone"):
        host.tell("notifications/progress", case=case)
    assert "result" in host.ask("ping")

    # what is a message is passed on, and a refusal is one, too
    assert "result" in host.call("stream")
    assert [each["params"] for each in host.messages if "method" in each and "id" not in each].count(
        {"data": "call"}
    ) == 1
    assert host.call("unnamed refusal")["error"] == {"code": -32000, "message": "no"}
    assert host.call("large refusal")["error"]["data"] == {"status": 502}

    # a session that is gone, also where the next one is not had at once
    assert "result" in host.call("good")
    for case in ("forgotten", "forgotten, and not opened"):
        host.call(case)
        assert "result" in host.ask("ping")

    # in the era without sessions
    assert host.ask("tools/list", _meta=MODERN)["result"] == {"tools": 5}
    assert host.call("empty refusal", _meta=MODERN)["error"]["data"] == {"status": 400}
    assert host.call("mismatch", _meta=MODERN)["error"]["code"] == -32020
    assert host.refusal("cut", _meta=MODERN) == BROKEN
    assert host.ask("subscriptions/listen", _meta=MODERN)["error"]["message"] == f"the gateway {UNUSABLE}"

    # lines of the host that are none
    for line, answered in ((b"{}", None), (b'{"jsonrpc":"2.0","id":-1,"method":"ping","params":5}', -1)):
        host.send(line)
        assert host.read()["id"] == answered

    # the session's stream: refused twice, oddly, then with one message among what is none
    heard = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "stream"}}
    if heard not in host.messages:
        host.hear(lambda message: message == heard)

    assert host.end() == (0, b"")
    answered = [message["id"] for message in host.messages if "method" not in message]
    assert sorted(number for number in answered if number not in {None, -1}) == host.asked


@pytest.mark.parametrize(
    ("token", "words", "told"),
    [
        ("html", ("whoami",), UNUSABLE),
        ("cut", ("whoami",), BROKEN),
        ("deep", ("whoami",), UNUSABLE),
        ("lines", ("whoami",), "403 one two\N{REPLACEMENT CHARACTER}[2J"),
        ("abc", ("tools",), UNUSABLE),
        ("abc", ("call", "deep"), NO_MESSAGE),
        ("abc", ("call", "another's"), UNUSABLE),
        ("abc", ("call", "cut"), BROKEN),
    ],
)
def test_a_command_says_so_in_one_line(
    gateway: str, environment: dict[str, str], token: str, words: tuple[str, ...], told: str
) -> None:
    _is_refused(environment | {"OSTIARY_TOKEN": token, "OSTIARY_GATEWAY": gateway}, words, told)


@pytest.mark.parametrize("case", ["no token", "a broken token", "a token for ever"])
def test_no_token_is_kept_that_is_none(gateway: str, environment: dict[str, str], case: str) -> None:
    words = ("login", gateway, "--username", case, "--password-stdin")
    _is_refused(environment, words, UNUSABLE)
    assert not list(Path(environment["HOME"]).glob(".ostiary/token"))


def _is_refused(environment: dict[str, str], words: tuple[str, ...], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        input="secret\n", capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ostiary: ")
    assert line.endswith(told)
