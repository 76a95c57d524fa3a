"""What the tests share: a gateway's folder, and the real process that serves it."""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import pytest
from hypothesis import settings

from tests.commands import ROOT, Command, ostiary

# How long an example takes says something of the machine alone.
settings.register_profile("ostiary", deadline=None)
settings.load_profile("ostiary")

ADMIN_PASSWORD = "Correct-Horse-7-Battery"


def _read_line(stdout: IO[str], seconds: float) -> str:
    ready, _, _ = select.select([stdout], [], [], seconds)
    return stdout.readline() if ready else ""


@dataclass
class Served:
    """A running ``ostiary serve``."""

    process: Command
    stdout: IO[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self.process.kill()
        self.process.wait(timeout=10)

    def close(self) -> None:
        """Kill it, where it runs, and let go of it."""
        self.kill()
        self.stdout.close()
        self.process.close()


@dataclass
class Home:
    """A folder made by ``ostiary init``, with ways to use it."""

    folder: Path
    served: list[Served] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "ostiary.toml"

    def cli(
        self, *words: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ``ostiary WORDS --config …``."""
        done = ostiary(*words, "--config", str(self.config), stdin=stdin)
        if check:
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.cli(*words, "--json").stdout)

    def configure(self, text: str, *, settings: dict[str, dict[str, Any]] | None = None) -> None:
        """Put ``text`` (tables of TOML) at the end of the configuration, and change scalars of its sections."""
        content = self.config.read_text()
        for section, values in (settings or {}).items():
            lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
            kept, inside = [], False
            for line in content.splitlines():
                if line.startswith("["):
                    inside = line.strip() == f"[{section}]"
                if not (inside and line.split("=")[0].strip() in values):
                    kept.append(line)
            content = "\n".join(kept) + "\n"
            header = f"[{section}]\n"
            content = (
                content.replace(header, header + lines, 1) if header in content else content + header + lines
            )
        self.config.write_text(content + "\n" + text)

    def client(self, name: str, *options: str, password: str | None = None) -> Path:
        """Add a client with a certificate; the folder with its files."""
        extra = ("--password-stdin",) if password else ()
        self.cli("clients", "add", name, *options, *extra, stdin=f"{password}\n" if password else None)
        return self.certificate(name)

    def certificate(self, name: str, *options: str) -> Path:
        """Issue a certificate; the folder with its files."""
        out = self.folder / "clients" / name
        self.cli("certs", "issue", name, "--out", str(out), *options)
        return out

    def serve(self, **environment: str) -> Served:
        """Start the gateway and wait until it accepts connections."""
        log = self.folder / f"serve-{len(self.served)}.log"
        reading, writing = os.pipe()
        stdout = os.fdopen(reading)
        with Path(os.devnull).open() as stdin, os.fdopen(writing, "w") as out, log.open("w") as stderr:
            words = ("serve", "--config", str(self.config))
            variables = {**os.environ, "OSTIARY_SERVER_PORT": "0", **environment}
            process = Command(words, stdin, out, stderr, env=variables)
        line = _read_line(stdout, 60)
        if not line.startswith("ostiary listening on "):
            process.kill()
            process.wait()
            raise AssertionError(f"the gateway did not start: {line!r} {log.read_text()}")
        served = Served(process, stdout, f"https://localhost:{line.strip().rpartition(':')[2]}", log)
        self.served.append(served)
        return served

    def tls(self, client: Path | None = None) -> ssl.SSLContext:
        """The client's side of the handshake."""
        context = ssl.create_default_context(cafile=str(self.folder / "certs" / "ca.pem"))
        if client is not None:
            context.load_cert_chain(client / f"{client.name}.pem", client / f"{client.name}.key")
        return context


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """Waits for the first true value of a condition."""

    def wait(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``ostiary init`` makes; to be copied, never used."""
    folder = tmp_path_factory.mktemp("pristine") / "gateway"
    done = ostiary("init", str(folder), "--admin", "root", "--password-stdin", stdin=f"{ADMIN_PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def prepared(
    request: pytest.FixtureRequest, pristine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A gateway's folder as the module's ``prepare(home)`` leaves it; made once, copied for each test."""
    made = Home(tmp_path_factory.mktemp("prepared") / "gateway")
    shutil.copytree(pristine, made.folder)
    prepare = getattr(request.module, "prepare", None)
    if prepare is not None:
        prepare(made)
    return made.folder


@pytest.fixture
def home(tmp_path: Path, prepared: Path) -> Iterator[Home]:
    """A gateway folder of the test's own; what was served from it is stopped."""
    made = Home(tmp_path / "gateway")
    shutil.copytree(prepared, made.folder)
    yield made
    for served in made.served:
        served.close()
        assert "Traceback" not in served.log.read_text()


@dataclass
class Started:
    """A helper process that printed its address."""

    process: subprocess.Popen[str]
    url: str


@contextmanager
def _scripts() -> Iterator[Callable[..., Started]]:
    running: list[subprocess.Popen[str]] = []

    def start(*command: str) -> Started:
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        running.append(process)
        assert process.stdout is not None
        line = _read_line(process.stdout, 60)
        assert line.startswith("listening on "), f"{command}: {line!r}"
        return Started(process, line.split()[-1])

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def start_script() -> Iterator[Callable[..., Started]]:
    """Starts a script that prints ``listening on URL``; ends it after the test."""
    with _scripts() as start:
        yield start


@pytest.fixture(scope="module")
def start_shared() -> Iterator[Callable[..., Started]]:
    """The same, for all tests of the module."""
    with _scripts() as start:
        yield start


@dataclass(frozen=True)
class Answer:
    """An HTTP response, whole."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """One kept-alive TLS connection to a gateway, as some client or as nobody."""

    def __init__(
        self,
        home: Home,
        served: Served,
        client: Path | None = None,
        token: str | None = None,
        *,
        address: str | None = None,
    ) -> None:
        """``address``: of the loopback network, to call from."""
        self._connection = http.client.HTTPSConnection(
            "localhost",
            served.port,
            context=home.tls(client),
            timeout=20,
            source_address=None if address is None else (address, 0),
        )
        self.token = token
        self._id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request on the connection."""
        sent = dict(headers or {})
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        self._connection.request(method, path, body, sent)
        response = self._connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())

    def form(self, path: str, **fields: str) -> Answer:
        """POST a form."""
        body = urllib.parse.urlencode(fields)
        return self.ask("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded"})

    def rpc(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        path: str = "/mcp",
        session: str | None = None,
    ) -> Answer:
        """POST one JSON-RPC request."""
        self._id += 1
        body = json.dumps({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params or {}})
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if session is not None:
            headers["Mcp-Session-Id"] = session
        return self.ask("POST", path, body, headers)

    def tools(self, path: str = "/mcp") -> list[str]:
        """The names of the tools that the caller is shown."""
        answer = self.rpc("tools/list", path=path)
        assert answer.status == 200, answer
        return [tool["name"] for tool in answer.json["result"]["tools"]]

    def call(self, tool: str, arguments: dict[str, Any] | None = None, *, path: str = "/mcp") -> Any:
        """The JSON-RPC message that answers a tools/call, as JSON or as the last event of a stream."""
        answer = self.rpc("tools/call", {"name": tool, "arguments": arguments or {}}, path=path)
        assert answer.status == 200, answer
        if answer.headers["content-type"] == "application/json":
            return answer.json
        data = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
        return json.loads(data[-1])


@pytest.fixture
def caller(home: Home) -> Iterator[Callable[..., Caller]]:
    """Makes callers of ``home``'s gateway, and closes them."""
    made: list[Caller] = []

    def make(
        served: Served, client: Path | None = None, token: str | None = None, *, address: str | None = None
    ) -> Caller:
        made.append(Caller(home, served, client, token, address=address))
        return made[-1]

    yield make
    for one in made:
        one.close()
