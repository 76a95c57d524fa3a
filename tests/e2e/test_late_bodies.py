"""Who is let in by the head of a request, and holds back its body, is judged by what holds once the body is there."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.conftest import Home, Served

PASSWORD = "Purple-Kettle-81-Moor"
CLIENTS = ("disabled", "forgotten", "reset", "revoked", "demoted", "unchanged", "promoted")


def prepare(home: Home) -> None:
    home.configure('[roles]\nboss = ["*:*"]\nreader = ["files:read"]\n')
    for name in CLIENTS:
        role = "reader" if name == "promoted" else "boss"
        home.cli("clients", "add", name, "--role", role, "--password-stdin", stdin=f"{PASSWORD}\n")
    home.certificate("disabled")


@pytest.fixture
def served(home: Home) -> Served:
    home.configure("", settings={"limits": {"login_per_minute": 1000}})
    return home.serve()


class Slow:
    """A request whose head and first bytes are there."""

    def __init__(
        self, home: Home, served: Served, path: str, body: Any, token: str | None, client: Path | None = None
    ) -> None:
        self._body = json.dumps(body).encode()
        plain = socket.create_connection(("localhost", served.port), timeout=20)
        self._connection = home.tls(client).wrap_socket(plain, server_hostname="localhost")
        proof = "" if token is None else f"Authorization: Bearer {token}\r\n"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost:{served.port}\r\nContent-Type: application/json\r\n"
            f"{proof}Content-Length: {len(self._body)}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        self._connection.sendall(head.encode() + self._body[:4])

    def rest(self) -> tuple[int, dict[str, Any]]:
        """Send it, and read the answer."""
        self._connection.sendall(self._body[4:])
        answer = b""
        while piece := self._connection.recv(65536):
            answer += piece
        self._connection.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


def token_of(caller: Any, served: Served, name: str) -> str:
    body = json.dumps({"username": name, "password": PASSWORD})
    answer = caller(served).ask("POST", "/auth/login", body, {"Content-Type": "application/json"})
    token: str = answer.json["access_token"]
    return token


REQUESTS: Sequence[tuple[str, dict[str, Any]]] = (
    ("/auth/api-keys", {"name": "left behind", "scopes": ["files:read"]}),
    ("/admin/api/clients", {"client_id": "back-door", "roles": ["boss"]}),
    (
        "/mcp",
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}},
    ),
)


def test_what_was_taken_meanwhile_is_gone(home: Home, served: Served, caller: Any) -> None:
    taken = {
        "disabled": ("clients", "disable", "disabled"),
        "forgotten": ("clients", "erase", "forgotten"),
        "reset": ("clients", "set-password", "reset", "--password-stdin"),
        "revoked": ("tokens", "revoke", "--client", "revoked"),
        "demoted": ("clients", "roles", "demoted", "--remove-role", "boss", "--add-role", "reader"),
    }
    slow = {}
    for name in taken:
        token = token_of(caller, served, name)
        slow[name] = [Slow(home, served, path, body, token) for path, body in REQUESTS]
    certified = Slow(home, served, *REQUESTS[0], None, home.folder / "clients" / "disabled")
    for name, words in taken.items():
        home.cli(*words, stdin="Walnut-Ferry-42-Loft\n" if name == "reset" else None)
    reasons = {
        name: {(status, answer["reason"]) for status, answer in (each.rest() for each in requests)}
        for name, requests in slow.items()
    }
    assert reasons == {
        "disabled": {(401, "client_disabled")},
        "forgotten": {(401, "token_revoked")},
        "reset": {(401, "token_revoked")},
        "revoked": {(401, "token_revoked")},
        "demoted": {(409, "conflict")},
    }
    assert certified.rest()[1]["reason"] == "client_disabled"
    assert home.json("api-keys", "list")["api_keys"] == []
    assert "back-door" not in {each["client_id"] for each in home.json("clients", "list")["clients"]}


def test_who_lost_nothing_goes_on(home: Home, served: Served, caller: Any) -> None:
    path, body = REQUESTS[0]
    slow = [
        Slow(home, served, path, body, token_of(caller, served, name)) for name in ("unchanged", "promoted")
    ]
    home.cli("clients", "roles", "promoted", "--add-role", "boss")
    assert [each.rest()[0] for each in slow] == [201, 201]


def test_a_service_is_sent_nothing_of_what_comes_too_late(
    home: Home, caller: Any, start_script: Callable[..., Any]
) -> None:
    recorder = start_script("tests/servers/recorder.py")
    home.configure(
        f'[[services]]\nname = "notes"\nprefix = "/notes/"\nurl = "{recorder.url}"\n'
        'permissions = { read = ["files:read"], write = ["files:read"] }\n'
    )
    served = home.serve()
    late = Slow(home, served, "/notes/1", {"text": "written too late"}, token_of(caller, served, "disabled"))
    good = Slow(home, served, "/notes/2", {"text": "written in time"}, token_of(caller, served, "unchanged"))
    home.cli("clients", "disable", "disabled")
    status, answer = late.rest()
    assert (status, answer["reason"]) == (401, "client_disabled")
    assert good.rest() == (200, {"from": "service"})
    with urllib.request.urlopen(f"{recorder.url}/recorded", timeout=10) as recorded:
        received = "".join(json.load(recorded))
    assert "in time" in received
    assert "too late" not in received
    entries = home.json("audit", "query", "--client", "disabled", "--event", "data_mutation")["entries"]
    assert [(entry["status"], entry["reason"]) for entry in entries] == [("error", "client_disabled")]
