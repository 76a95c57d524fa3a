"""Crash, stop, reload, and what happens to what is open meanwhile. Through the real process."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
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

[[upstreams]]
name = "bad"
transport = "http"
url = "{bad}"
prefix = "bad_"

[[tools]]
match = "*"
permissions = ["all:use"]
"""


def prepare(home: Any) -> None:
    """Clients and their certificates."""
    home.configure('[roles]\nuser = ["all:use"]\n')
    home.client("alice", "--role", "user")
    home.certificate("root")


@pytest.fixture(scope="module")
def upstreams(start_shared: Callable[..., Any]) -> dict[str, str]:
    return {
        "far": start_shared("tests/servers/everything.py", "http").url,
        "bad": start_shared("tests/servers/misbehaving.py").url,
    }


@pytest.fixture
def door(home: Any, upstreams: dict[str, str]) -> Any:
    """A gateway with three upstreams."""
    script = ROOT / "tests" / "servers" / "everything.py"
    home.configure(CONFIG.format(python=sys.executable, script=script, **upstreams))
    return home


def _client(home: Any, name: str) -> Path:
    return Path(home.folder / "clients" / name)


def _with_upstream(served: Any, caller: Any, wait_until: Any, name: str) -> None:
    """Wait until the upstream answers."""
    nobody = caller(served)
    wait_until(lambda: f"upstream:{name}" not in nobody.ask("GET", "/health/ready").body.decode(), seconds=30)


def _in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def test_after_a_crash_nothing_acknowledged_is_lost(door: Any, caller: Any, wait_until: Any) -> None:
    served = door.serve()
    alice = caller(served, _client(door, "alice"))
    tokens = [alice.ask("GET", "/auth/token").json["access_token"] for _ in range(20)]
    alice.token = tokens[0]
    assert alice.form("/auth/revoke", token=tokens[0]).status == 200
    hanging, _ = _in_background(lambda: caller(served, _client(door, "alice")).call("bad_hang"))
    journal = door.folder / "persistence"
    wait_until(lambda: b"bad_hang" in b"".join(f.read_bytes() for f in journal.glob("journal-*")))
    served.kill()
    hanging.join(10)

    again = door.serve()
    statuses = [caller(again, _client(door, "alice"), token).rpc("ping").status for token in tokens]
    assert statuses == [401] + [200] * 19
    entries = caller(again, _client(door, "root")).ask("GET", "/audit?limit=1000").json["entries"]
    interrupted = [entry for entry in entries if entry["reason"] == "interrupted"]
    assert [(entry["tool_name"], entry["status"], entry["client_id"]) for entry in interrupted] == [
        ("bad_hang", "error", "alice")
    ]
    assert sum(entry["event"] == "token_issued" for entry in entries) == 20


def test_a_damaged_store_is_not_taken_for_a_new_one(door: Any) -> None:
    assert door.serve().stop() == 0
    tokens = door.folder / "persistence" / "tokens.json"
    tokens.write_bytes(tokens.read_bytes()[:-10])
    done = door.cli("serve", check=False)
    assert done.returncode == 1
    assert "tokens.json" in done.stderr
    tokens.unlink()
    done = door.cli("serve", check=False)
    assert done.returncode == 1
    assert "tokens.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stop_lets_calls_finish_and_leaves_nothing_behind(door: Any, caller: Any, wait_until: Any) -> None:
    served = door.serve()
    _with_upstream(served, caller, wait_until, "near")
    alice = caller(served, _client(door, "alice"))
    assert "result" in alice.call("near_echo", {"text": "x"})
    children = wait_until(lambda: _children(served.process.pid))
    slow, outcome = _in_background(
        lambda: caller(served, _client(door, "alice")).call("far_count", {"steps": 2, "seconds": 1.5})
    )
    journal = door.folder / "persistence"
    wait_until(lambda: b"far_count" in b"".join(f.read_bytes() for f in journal.glob("journal-*")))
    assert served.stop() == 0
    slow.join(10)
    assert outcome[0]["result"]["content"][0]["text"] == "counted to 2"
    for child in children:
        wait_until(lambda child=child: not Path(f"/proc/{child}").exists())
    assert not (door.folder / "persistence" / "control.sock").exists()
    entries = json.loads((door.folder / "persistence" / "audit.json").read_text())["entries"]
    assert [entry["status"] for entry in entries if entry["tool_name"] == "far_count"] == ["ok"]


def test_a_crash_leaves_no_child_behind(door: Any, caller: Any, wait_until: Any) -> None:
    served = door.serve()
    _with_upstream(served, caller, wait_until, "near")
    assert "result" in caller(served, _client(door, "alice")).call("near_echo", {"text": "x"})
    children = wait_until(lambda: _children(served.process.pid))
    served.kill()
    for child in children:
        wait_until(lambda child=child: not Path(f"/proc/{child}").exists())


def _open_stream(home: Any, served: Any, client: Path, session: str, token: str) -> Any:
    plain = socket.create_connection(("localhost", served.port), timeout=10)
    secured = home.tls(client).wrap_socket(plain, server_hostname="localhost")
    secured.sendall(
        f"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    assert secured.recv(4096).startswith(b"HTTP/1.1 200 ")
    return secured


@pytest.mark.parametrize("cause", ["revoke", "disable"])
def test_an_open_stream_ends_when_its_caller_is_no_longer_valid(door: Any, caller: Any, cause: str) -> None:
    served = door.serve()
    alice = caller(served, _client(door, "alice"))
    alice.token = alice.ask("GET", "/auth/token").json["access_token"]
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    session = alice.rpc("initialize", hello).headers["mcp-session-id"]
    with _open_stream(door, served, _client(door, "alice"), session, alice.token) as stream:
        door.cli(
            *(
                ["tokens", "revoke", "--client", "alice"]
                if cause == "revoke"
                else ["clients", "disable", "alice"]
            )
        )
        stream.settimeout(5)
        while stream.recv(4096):
            pass
    assert alice.rpc("ping", session=session).status == 401


def test_an_open_stream_does_not_hold_up_the_stop(door: Any, caller: Any) -> None:
    served = door.serve()
    alice = caller(served, _client(door, "alice"))
    alice.token = alice.ask("GET", "/auth/token").json["access_token"]
    session = alice.rpc("initialize", {"protocolVersion": "2025-11-25"}).headers["mcp-session-id"]
    with _open_stream(door, served, _client(door, "alice"), session, alice.token) as stream:
        assert served.stop() == 0  # which waits for less than the drain time
        received = b""
        while piece := stream.recv(4096):
            received += piece
    assert received.endswith(b"0\r\n\r\n")  # the stream came to its end, it did not break off


def test_a_reload_takes_new_certificates_and_keeps_the_old_when_they_are_broken(
    door: Any, caller: Any, wait_until: Any
) -> None:
    served = door.serve()

    def serial() -> str:
        with (
            socket.create_connection(("localhost", served.port), timeout=10) as plain,
            door.tls().wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return str((secured.getpeercert() or {})["serialNumber"])

    first = serial()
    door.cli("certs", "issue-server")
    os.kill(served.process.pid, signal.SIGHUP)
    wait_until(lambda: serial() != first)
    second = serial()
    (door.folder / "certs" / "server.pem").write_text("broken")
    os.kill(served.process.pid, signal.SIGHUP)
    wait_until(lambda: "the old TLS state stays in force" in served.log.read_text())
    assert serial() == second
    assert caller(served).ask("GET", "/health/live").status == 200


def test_commands_work_beside_a_running_server_and_without_one(door: Any, caller: Any) -> None:
    served = door.serve()
    token = caller(served, _client(door, "alice")).ask("GET", "/auth/token").json["access_token"]
    assert [t["client_id"] for t in door.json("tokens", "list")["tokens"]] == ["alice"]
    door.cli("clients", "add", "beside")
    assert served.stop() == 0
    door.cli("clients", "add", "without")
    door.cli("tokens", "revoke", "--client", "alice")
    again = door.serve()
    names = {client["client_id"] for client in door.json("clients", "list")["clients"]}
    assert names == {"root", "alice", "beside", "without"}
    assert caller(again, _client(door, "alice"), token).rpc("ping").status == 401
    actors = {entry["actor"] for entry in door.json("audit", "query", "--event", "admin_change")["entries"]}
    assert len(actors) == 1
    assert None not in actors
