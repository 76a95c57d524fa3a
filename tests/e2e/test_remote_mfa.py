"""``ostiary login`` where the gateway wants a second factor, which is played here as the contract has it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Gate:
    """What answers, and what it was sent."""

    url: str
    ca: Path
    received: list[tuple[str, Any]] = field(default_factory=list)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.received.append((self.path, body))
            if self.path == "/auth/login":
                self.answer(200, {"mfa_required": True, "mfa_session_token": "m.f.a", "expires_in": 300})
            elif body == {"mfa_session_token": "m.f.a", "code": "123456"}:
                self.answer(
                    200,
                    {
                        "access_token": "a.b.c",
                        "token_type": "Bearer",
                        "expires_in": 900,
                        "refresh_token": "r",
                    },
                )
            else:
                self.answer(401, {"detail": "The code is wrong.", "reason": "invalid_credentials"})

        def do_GET(self) -> None:
            self.answer(200, {"client_id": "alice", "authorization": self.headers["Authorization"]})

        def answer(self, status: int, document: dict[str, Any]) -> None:
            raw = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made = Gate(f"https://localhost:{server.server_port}", tmp_path / "ca.pem")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def _login(gate: Gate, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    who = ("--ca", str(gate.ca), "--username", "alice", "--password-stdin")
    return subprocess.run(
        [sys.executable, "-m", "gateway", "login", gate.url, *who, *words],
        input="Correct-Horse-7-Staple\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        timeout=60,
        check=False,
    )


def test_the_code_is_the_second_step(gate: Gate, tmp_path: Path) -> None:
    done = _login(gate, tmp_path, "--code", "123456")
    assert (done.returncode, done.stdout) == (0, f"Signed in at {gate.url} as alice.\n")
    assert gate.received == [
        ("/auth/login", {"username": "alice", "password": "Correct-Horse-7-Staple"}),
        ("/auth/login/mfa", {"mfa_session_token": "m.f.a", "code": "123456"}),
    ]
    kept = json.loads((tmp_path / ".ostiary" / "token").read_text())["gateways"][gate.url]
    assert (kept["access_token"], kept["refresh_token"]) == ("a.b.c", "r")


def test_without_a_code_or_with_a_wrong_one_nobody_is_signed_in(gate: Gate, tmp_path: Path) -> None:
    without = _login(gate, tmp_path)
    assert (without.returncode, without.stderr) == (
        1,
        "ostiary: a second factor is wanted: give it with --code\n",
    )
    wrong = _login(gate, tmp_path, "--code", "000000")
    assert (wrong.returncode, "The code is wrong" in wrong.stderr) == (1, True)
    assert not (tmp_path / ".ostiary" / "token").exists()
