"""What a connection may take: time, places, TLS work; who was turned away is in the audit."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

ROOT = Path(__file__).resolve().parent.parent.parent


def prepare(home: Any) -> None:
    """The administrator's certificate."""
    home.certificate("root")


@pytest.fixture
def connect(home: Any) -> Any:
    """Opens TLS connections as nobody."""
    with ExitStack() as stack:

        def one(served: Any) -> ssl.SSLSocket:
            plain = stack.enter_context(socket.create_connection(("localhost", served.port), timeout=20))
            return stack.enter_context(home.tls().wrap_socket(plain, server_hostname="localhost"))

        yield one


@pytest.fixture
def refused(home: Any, caller: Any, wait_until: Any) -> Callable[..., Any]:
    """The audit entry of a refusal."""

    def entry(served: Any, event: str, reason: str) -> Any:
        root = caller(served, home.folder / "clients" / "root")

        def find() -> Any:
            entries = root.ask("GET", f"/audit?event={event}").json["entries"]
            return next((each for each in entries if each["reason"] == reason), None)

        return wait_until(find)

    return entry


def read_all(secured: ssl.SSLSocket) -> bytes:
    received = b""
    try:
        while piece := secured.recv(65536):
            received += piece
    except ssl.SSLEOFError:
        pass
    return received


def answered(served: Any, context: ssl.SSLContext) -> bool:
    """Whether a request gets as much as a byte (in TLS 1.3 a refusal comes after the client's handshake)."""
    try:
        with (
            socket.create_connection(("localhost", served.port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            secured.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return bool(secured.recv(1))
    except OSError:
        return False


def test_half_a_head_is_answered_408_and_closed(home: Any, connect: Any, refused: Any) -> None:
    home.configure("", settings={"limits": {"header_timeout": "1s"}})
    served = home.serve()
    secured = connect(served)
    secured.sendall(b"GET /health/live HTTP/1.1\r\nHost: local")
    received = read_all(secured)
    assert b" 408 " in received.partition(b"\r\n")[0]
    assert b'"reason":"request_timeout"' in received
    assert refused(served, "request_refused", "request_timeout")["address"]


def test_a_body_that_trickles_is_answered_408(home: Any, connect: Any) -> None:
    home.configure("", settings={"limits": {"body_timeout": "1s"}})
    secured = connect(home.serve())
    secured.sendall(
        b"POST /auth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    )
    secured.sendall(b"{")
    received = read_all(secured)
    assert b" 408 " in received.partition(b"\r\n")[0]


def test_an_idle_connection_is_closed(home: Any, connect: Any) -> None:
    home.configure("", settings={"limits": {"idle_timeout": "1s"}})
    secured = connect(home.serve())
    secured.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert read_all(secured).startswith(b"HTTP/1.1 200 ")


def test_an_answer_left_unread_is_cut_off(
    home: Any, start_script: Callable[..., Any], caller: Any, wait_until: Any
) -> None:
    mirror = start_script("tests/servers/mirror.py")
    home.configure(
        f'[[services]]\nname = "mirror"\nprefix = "/mirror/"\nurl = "{mirror.url}"\n',
        settings={"limits": {"send_timeout": "1s"}},
    )
    served = home.serve()
    root = home.folder / "clients" / "root"
    assert len(caller(served, root).ask("GET", "/mirror/large").body) == 5_000_000  # who reads has it all

    def sockets() -> int:
        found = 0
        for each in Path(f"/proc/{served.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found += each.readlink().name.startswith("socket:")
        return found

    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(20)
        before = sockets()
        plain.connect(("localhost", served.port))
        with home.tls(root).wrap_socket(plain, server_hostname="localhost") as secured:
            assert sockets() > before
            secured.sendall(b"GET /mirror/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: sockets() <= before)
            received = 0
            with suppress(OSError):
                while piece := secured.recv(65536):
                    received += len(piece)
    assert received < 5_000_000


def test_a_handshake_that_does_not_end_is_seen(home: Any, refused: Any) -> None:
    home.configure("", settings={"limits": {"handshake_timeout": "1s"}})
    served = home.serve()
    with socket.create_connection(("localhost", served.port), timeout=20) as plain:
        assert plain.recv(1) == b""
    assert refused(served, "tls_refused", "handshake_timeout")["status"] == "failed"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("connections_per_address", "too_many_connections_of_one_address"),
        ("connections", "too_many_connections"),
    ],
)
def test_one_connection_too_many_is_closed_and_its_place_comes_back(
    home: Any, connect: Any, refused: Any, wait_until: Any, limit: str, reason: str
) -> None:
    home.configure("", settings={"limits": {limit: 3}})
    served = home.serve()
    opened = [connect(served) for _ in range(3)]
    with pytest.raises(OSError):
        connect(served)
    for each in opened:
        each.close()

    def comes_in() -> bool:
        try:
            connect(served).close()
        except OSError:
            return False
        return True

    wait_until(comes_in)
    assert refused(served, "tls_refused", reason)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_refused_certificate_is_named_in_the_audit(
    home: Any, tmp_path: Path, refused: Any, version: str
) -> None:
    home.configure("", settings={"tls": {"minimum_version": "1.2"}})
    served = home.serve()
    stranger = trustme.CA().issue_cert("stranger@example.org")
    context = home.tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    stranger.configure_cert(context)
    assert not answered(served, context)
    entry = refused(
        served, "tls_refused", "certificate_verify_failed: unable to get local issuer certificate"
    )
    der = ssl.PEM_cert_to_DER_cert(stranger.cert_chain_pems[0].bytes().decode())
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    assert entry["certificate_thumbprint"] == thumbprint


def test_a_flood_of_key_updates_is_cut_off(home: Any, caller: Any, refused: Any) -> None:
    served = home.serve()
    done = subprocess.run(
        [sys.executable, "tests/servers/key_updates.py", str(served.port), "100000"],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in {0, -13}, done
    assert int(done.stdout or 0) < 100_000
    assert caller(served).ask("GET", "/health/live").status == 200
    assert refused(served, "tls_refused", "records_without_data")


def test_many_failed_handshakes_leave_no_memory_behind(home: Any, caller: Any) -> None:
    served = home.serve()

    def resident() -> int:
        return int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]) * 4096

    def fail(times: int) -> None:
        for _ in range(times):
            with socket.create_connection(("localhost", served.port), timeout=20) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                plain.recv(100)

    fail(300)
    before = resident()
    fail(1500)
    assert resident() - before < 4_000_000
    assert caller(served).ask("GET", "/health/live").status == 200


def test_slow_clients_do_not_slow_the_others(home: Any, connect: Any, caller: Any) -> None:
    served = home.serve()
    good = caller(served)

    def median() -> float:
        times = []
        for _ in range(60):
            begun = time.perf_counter()
            assert good.ask("GET", "/health/live").status == 200
            times.append(time.perf_counter() - begun)
        return sorted(times)[30]

    alone = median()
    for number in range(150):
        head = (
            b"GET / HTTP/1.1\r\nHost: lo"
            if number % 2
            else b"POST /auth/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )
        connect(served).sendall(head)
    assert median() < 10 * alone + 0.05


def test_pages_of_a_configured_origin_may_read_and_no_others(home: Any, caller: Any) -> None:
    home.configure('[cors]\norigins = ["https://app.example.com"]\nheaders = ["X-Mine"]\n')
    one = caller(home.serve())
    mine = {"Origin": "https://app.example.com"}
    preflight = one.ask("OPTIONS", "/mcp", None, {**mine, "Access-Control-Request-Method": "POST"})
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == mine["Origin"]
    assert "X-Mine" in preflight.headers["access-control-allow-headers"]
    assert "POST" in preflight.headers["access-control-allow-methods"]
    answer = one.ask(
        "POST",
        "/mcp",
        '{"jsonrpc":"2.0","id":1,"method":"ping"}',
        {**mine, "Content-Type": "application/json"},
    )
    assert answer.status == 200, answer
    assert answer.headers["access-control-allow-origin"] == mine["Origin"]
    assert "Origin" in answer.headers["vary"]
    assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
    assert one.ask("GET", "/audit", None, mine).headers["access-control-allow-origin"] == mine["Origin"]
    other = one.ask("GET", "/health/live", None, {"Origin": "https://app.example.com.evil.example"})
    assert (other.status, other.json["reason"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["www-authenticate"].startswith("Bearer")
    same = one.ask("GET", "/health/live", None, {"Origin": "https://localhost"})
    assert same.status == 200
    assert "access-control-allow-origin" not in same.headers


def test_another_name_than_the_gateways_is_refused_with_a_challenge(home: Any, caller: Any) -> None:
    answer = caller(home.serve()).ask("GET", "/audit", None, {"Host": "evil.example"})
    assert (answer.status, answer.json["reason"]) == (403, "host_not_allowed")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert "resource_metadata=" in answer.headers["www-authenticate"]


def test_whoever_has_a_certificate_does_not_pay_for_others_behind_the_address(home: Any, caller: Any) -> None:
    home.configure("", settings={"limits": {"requests_per_minute": 6, "burst": 6}})
    served = home.serve()
    wrong = caller(served, token="wrong")
    assert [wrong.ask("GET", "/audit").status for _ in range(8)][-1] == 429
    assert caller(served, home.folder / "clients" / "root").ask("GET", "/audit").status == 200
