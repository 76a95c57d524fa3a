"""What is malformed or ambiguous goes no further than the edge: a corpus of raw requests against the real process."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Caller, Home
from tests.e2e.corpus import CHUNKED, CORPUS, SERVICE, SMUGGLED, request

CONFIG = """
[[upstreams]]
name = "recorder"
transport = "http"
url = "{recorder}/mcp"

[[tools]]
match = "*"
permissions = ["notes:write"]

[[services]]
name = "mirror"
prefix = "/mirror/"
url = "{recorder}"
permissions = {{ read = ["notes:read"], write = ["notes:write"] }}
"""


class Door:
    """A gateway with something behind it that keeps what it is sent, for all tests of the module."""

    def __init__(self, home: Home, recorder: str) -> None:
        home.configure(CONFIG.format(recorder=recorder))
        home.certificate("root")
        self.home = home
        self.served = home.serve()
        self._recorder = recorder

    def answer(self, *sent: bytes) -> bytes:
        """All that comes back until the gateway closes the connection or says no more. Pieces come one after the other."""
        context = self.home.tls(self.home.folder / "clients" / "root")
        received = b""
        with (
            socket.create_connection(("localhost", self.served.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            with contextlib.suppress(OSError):  # it may be refused while it is still being sent
                for piece in sent:
                    secured.sendall(piece)
                    time.sleep(0.2 if len(sent) > 1 else 0)
            while not whole(received):
                try:
                    piece = secured.recv(65536)
                except OSError:
                    break
                if not piece:
                    break
                received += piece
        return received

    def recorded(self) -> list[str]:
        with urllib.request.urlopen(f"{self._recorder}/recorded") as answer:
            seen: list[str] = json.load(answer)
        return seen

    def caller(self) -> Caller:
        return Caller(self.home, self.served, self.home.folder / "clients" / "root")


def whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    return bool(end) and len(body) >= int(_fields(head).get("content-length", "0"))


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@pytest.fixture(scope="module")
def door(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, start_shared: Callable[..., Any]
) -> Iterator[Door]:
    home = Home(tmp_path_factory.mktemp("corpus") / "gateway")
    shutil.copytree(pristine, home.folder)
    made = Door(home, start_shared("tests/servers/recorder.py").url)
    yield made
    made.served.stop()
    made.served.close()
    assert "Traceback" not in made.served.log.read_text()


@pytest.mark.parametrize("name", CORPUS)
def test_it_is_refused_in_our_form_and_nothing_of_it_is_forwarded(door: Door, name: str) -> None:
    mark = f"m{list(CORPUS).index(name):03d}x"
    sent = request(name, mark)
    received = door.answer(sent)
    head, _, body = received.partition(b"\r\n\r\n")
    version, code, _ = head.split(b" ", 2)
    assert version == b"HTTP/1.1" or (version == b"HTTP/1.0" and b" HTTP/1.0\r\n" in sent)
    status = int(code)
    fields = _fields(head)
    assert 400 <= status < 500, received
    told = json.loads(body)
    if "error" in told:  # of JSON-RPC
        assert told["error"]["code"] < 0
    else:
        assert fields["content-type"].startswith("application/problem+json")
        assert told["status"] == status
        assert told["reason"]
        assert told["request_id"] == fields["x-request-id"]
    assert fields["x-request-id"]
    assert fields["x-content-type-options"] == "nosniff"
    assert "strict-transport-security" in fields
    assert "server" not in fields
    with door.caller() as good:
        assert good.ask("GET", f"/mirror/{mark}good").status == 200
        assert "result" in good.call("note", {"mark": f"{mark}good"})
    seen = [each for each in door.recorded() if mark in each]
    assert all(f"{mark}good" in each for each in seen), seen
    assert len(seen) == 2


def test_what_follows_a_refused_body_in_the_same_breath_is_not_read(door: Door) -> None:
    """The bytes that bring too much framing bring the body's end and another request, too."""
    chunk = f"1;x={'a' * 1000}\r\na\r\n"
    head = SERVICE.replace("{}", "breath") + CHUNKED + "\r\n"
    last = chunk * 6 + "0\r\n\r\n" + SMUGGLED.replace("{}", "breath")
    received = door.answer((head + chunk * 62).encode(), last.encode())
    assert received.startswith(b"HTTP/1.1 400 ")
    assert not [each for each in door.recorded() if "breathsmuggled" in each]
