"""Bad input of every kind: a clear error, the right status, an audit entry where someone was refused, still serving."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.commands import ostiary

JSON = {"Content-Type": "application/json"}
CONFIG = """
[[upstreams]]
name = "good"
transport = "http"
url = "{good}"
prefix = "good_"

[[upstreams]]
name = "bad"
transport = "http"
url = "{bad}"
prefix = "bad_"
timeout = "3s"

[[tools]]
match = "*"
access = "public"
"""


def prepare(home: Any) -> None:
    """The administrator's certificate."""
    home.certificate("root")


@pytest.fixture(scope="module")
def upstreams(start_shared: Callable[..., Any]) -> dict[str, str]:
    return {
        "good": start_shared("tests/servers/everything.py", "http").url,
        "bad": start_shared("tests/servers/misbehaving.py").url,
    }


@pytest.fixture
def door(home: Any, upstreams: dict[str, str]) -> Any:
    """A gateway with a good and a bad upstream."""
    home.configure(CONFIG.format(**upstreams))
    return home


def _raw(door: Any, served: Any, request: bytes) -> bytes:
    """What comes back for these very bytes."""
    with (
        socket.create_connection(("localhost", served.port), timeout=10) as plain,
        door.tls().wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            piece = secured.recv(65536)
            if not piece:
                break
            received += piece
        return received


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("not json", 400, -32700),
        (
            '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"good_echo","name":"good_fail"}}',
            400,
            -32700,
        ),
        ('{"jsonrpc":"2.0","id":1,"method":"x","params":' + '{"a":' * 100 + "1" + "}" * 101, 400, -32700),
        ("[" * 100_000, 400, -32600),
        ("[]", 400, -32600),
        ('{"id":1,"method":"ping"}', 400, -32600),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}', 400, -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}', 200, -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bad"}}', 200, -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"no/such"}', 200, -32601),
        ('{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}', 200, -32602),
    ],
)
def test_a_bad_message_is_refused_with_its_code(
    door: Any, caller: Any, body: str, status: int, code: int
) -> None:
    served = door.serve()
    one = caller(served)
    answer = one.ask("POST", "/mcp", body, JSON)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    if status == 400 and code == -32700:
        assert answer.json["id"] is None
    assert "good_echo" in one.tools()


def test_a_discovery_that_says_nothing_of_itself_is_malformed(door: Any, caller: Any) -> None:
    body = '{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{}}'
    answer = caller(door.serve()).ask("POST", "/mcp", body, {**JSON, "MCP-Protocol-Version": "2026-07-28"})
    assert answer.status == 400
    assert answer.json["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "reason"),
    [
        ("GET", "/nothing", {}, None, 404, "not_found"),
        ("GET", "/mcp/nothing", {"Accept": "text/event-stream"}, None, 404, "not_found"),
        ("POST", "/mcp/nothing", JSON, "{}", 404, "not_found"),
        ("PUT", "/mcp", {}, None, 405, "method_not_allowed"),
        ("HEAD", "/auth/token", {}, None, 405, None),
        ("GET", "/mcp", {}, None, 406, "not_acceptable"),
        ("GET", "/mcp", {"Accept": "text/event-stream"}, None, 400, "bad_request"),
        ("POST", "/mcp", {"Content-Type": "text/plain"}, "{}", 415, "content_type"),
        ("POST", "/mcp", {**JSON, "Content-Encoding": "gzip"}, "{}", 415, "content_encoding"),
        ("POST", "/mcp", {**JSON, "Accept": "text/html"}, "{}", 406, "not_acceptable"),
        ("POST", "/mcp", {**JSON, "Mcp-Session-Id": "nobodys"}, '{"jsonrpc":"2.0","id":1,"method":"ping"}', 404,
         "session_unknown"),
        ("GET", "/audit", {}, None, 401, "authentication_required"),
        ("GET", "/audit", {"Host": "evil.example.com"}, None, 403, "host_not_allowed"),
        ("POST", "/mcp", {**JSON, "Origin": "https://evil.example.com"}, "{}", 403, "origin_not_allowed"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_its_reason(
    door: Any, caller: Any, method: str, path: str, headers: dict[str, str], body: str | None, status: int,
    reason: str | None,
) -> None:  # fmt: skip
    served = door.serve()
    one = caller(served)
    answer = one.ask(method, path, body, headers)
    assert answer.status == status, answer
    if reason is not None:
        problem = answer.headers["content-type"].startswith("application/problem+json")
        told = answer.json if problem else answer.json["error"]["data"]
        assert told["reason"] == reason
        assert told["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if status == 405:
        assert answer.headers["allow"]
    assert caller(served).ask("GET", "/health/live").status == 200


@pytest.mark.parametrize(
    "head",
    [
        "GARBAGE",
        "GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        "GET /health/live HTTP/1.1\r\n",
        "GET http://evil.example/health/live HTTP/1.1\r\nHost: localhost\r\n",
        "POST /mcp HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n",
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n",
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nX_Bad: 1\r\nContent-Length: 0\r\n",
        "POST /mcp HTTP/1.1\r\nHost: user@localhost\r\nContent-Length: 0\r\n",
        "GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Big: " + "a" * 20_000 + "\r\n",
    ],
)
def test_what_hops_read_differently_is_refused(door: Any, caller: Any, head: str) -> None:
    served = door.serve()
    received = _raw(door, served, head.encode() + b"\r\n")
    status = int(received.split(b" ", 2)[1])
    assert 400 <= status < 500, received
    assert b"application/problem+json" in received
    assert b"\r\nServer:" not in received
    assert caller(served).ask("GET", "/health/live").status == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(door: Any, caller: Any) -> None:
    served = door.serve()
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
    received = _raw(door, served, head)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close" in received
    assert caller(served).ask("POST", "/mcp", b" " * (5 * 1024 * 1024), JSON).status == 413


@pytest.mark.parametrize(
    ("tool", "reason", "status"),
    [
        ("bad_hang", "upstream_timeout", "timeout"),
        ("bad_rubbish", "upstream_invalid", "error"),
        ("bad_wrong_id", "upstream_invalid", "error"),
        ("bad_die", "upstream_unavailable", "error"),
        ("bad_half", "upstream_invalid", "error"),
        ("bad_html", "upstream_invalid", "error"),
        ("bad_latin", "upstream_invalid", "error"),
        ("bad_no_error", "upstream_invalid", "error"),
    ],
)
def test_a_bad_upstream_costs_only_its_own_call(
    door: Any, caller: Any, tool: str, reason: str, status: str
) -> None:
    served = door.serve()
    one = caller(served)
    error = one.call(tool)["error"]
    assert error["data"]["reason"] in {reason, "upstream_unavailable"}
    assert "Traceback" not in json.dumps(error)
    assert "result" in one.call("good_echo", {"text": "still serving"})
    entry = (
        caller(served, door.folder / "clients" / "root")
        .ask("GET", f"/audit?tool_name={tool}")
        .json["entries"][0]
    )
    assert entry["status"] == status
    assert entry["reason"] == error["data"]["reason"]


def test_a_dead_upstream_is_left_out_and_comes_back(
    home: Any, start_script: Callable[..., Any], caller: Any, wait_until: Any
) -> None:
    good = start_script("tests/servers/everything.py", "http")
    dead = start_script("tests/servers/everything.py", "http")
    home.configure(CONFIG.format(good=good.url, bad=dead.url))
    served = home.serve()
    one = caller(served)
    assert {"good_echo", "bad_echo"} <= set(one.tools())
    dead.process.kill()
    dead.process.wait()
    assert one.call("bad_echo", {"text": "x"})["error"]["data"]["reason"] == "upstream_unavailable"
    assert "result" in one.call("good_echo", {"text": "x"})
    wait_until(lambda: not any(name.startswith("bad_") for name in one.tools()))
    assert "upstream:bad" in one.ask("GET", "/health/ready").json["degraded"]
    start_script("tests/servers/everything.py", "http", dead.url.split(":")[2].split("/")[0])
    wait_until(lambda: "bad_echo" in one.tools(), seconds=20)
    assert "result" in one.call("bad_echo", {"text": "x"})


def _serve_and_fail(home: Any) -> subprocess.CompletedProcess[str]:
    done = home.cli("serve", check=False)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done


def test_five_mistakes_are_all_named(home: Any) -> None:
    home.configure(
        """
        [[tools]]
        match = "x"
        access = "public"
        permissions = ["a:b"]

        [[upstreams]]
        name = "Bad Name"
        transport = "carrier-pigeon"
        """,
        settings={"server": {"port": "lots"}, "tokens": {"access_ttl": "soon"}, "tls": {"colour": "red"}},
    )
    stderr = _serve_and_fail(home).stderr
    for place in ("port", "access_ttl", "colour", "tools", "upstreams"):
        assert place in stderr, stderr


def test_a_missing_or_unreadable_certificate_is_said(home: Any) -> None:
    (home.folder / "certs" / "server.pem").unlink()
    assert "server.pem" in _serve_and_fail(home).stderr
    (home.folder / "certs" / "server.pem").write_text("not a certificate")
    assert "server.pem" in _serve_and_fail(home).stderr


def test_a_port_in_use_is_said(home: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.configure("", settings={"server": {"port": port}})
        stderr = _serve_and_fail(home).stderr
    assert str(port) in stderr
    assert "in use" in stderr


def test_a_second_server_on_the_same_store_is_refused(home: Any) -> None:
    home.serve()
    home.configure("", settings={"server": {"port": 0}})
    stderr = _serve_and_fail(home).stderr
    assert "persistence" in stderr


def test_plain_http_and_old_tls_are_refused_and_the_gateway_goes_on(home: Any, caller: Any) -> None:
    served = home.serve()
    with socket.create_connection(("localhost", served.port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(1024)[:20]
    old = home.tls()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("localhost", served.port), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain, server_hostname="localhost")
    assert caller(served).ask("GET", "/health/live").status == 200


def test_wrong_words_end_with_2(home: Any) -> None:
    for words in (["frobnicate"], ["clients", "add"], ["serve", "--port", "x"]):
        done = ostiary(*words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("request_id", ["[]", "{}", "null", "1.5", '"nothing"'])
def test_a_strange_cancellation_does_nothing(door: Any, caller: Any, request_id: str) -> None:
    one = caller(door.serve())
    session = one.rpc("initialize", {"protocolVersion": "2025-11-25"}).headers["mcp-session-id"]
    body = f'{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{request_id}}}}}'
    assert one.ask("POST", "/mcp", body, {**JSON, "Mcp-Session-Id": session}).status == 202
    assert "good_echo" in one.tools()


def test_a_caller_that_goes_away_in_mid_body_leaves_no_traceback(door: Any, caller: Any) -> None:
    served = door.serve()
    for path in ("/mcp", "/auth/token"):
        with (
            socket.create_connection(("localhost", served.port), timeout=10) as plain,
            door.tls().wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            secured.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    assert "good_echo" in caller(served).tools()


def test_refusals_of_every_kind_are_audited(door: Any, caller: Any) -> None:
    served = door.serve()
    one = caller(served)
    one.ask("POST", "/mcp", "not json", JSON)
    one.ask("POST", "/mcp", "{}", {"Content-Type": "text/plain"})
    one.ask("POST", "/mcp", '{"jsonrpc":"2.0","id":1,"method":"ping"}', {**JSON, "Mcp-Session-Id": "x"})
    one.ask("GET", "/nothing")
    root = caller(served, door.folder / "clients" / "root")
    entries = root.ask("GET", "/audit?event=request_refused").json["entries"]
    assert {entry["reason"] for entry in entries} == {
        "bad_request",
        "content_type",
        "session_unknown",
        "not_found",
    }
    assert all(entry["status"] == "denied" and entry["duration_ms"] is not None for entry in entries)


def test_a_call_is_cancelled_before_its_upstream_has_begun_to_answer(
    door: Any, caller: Any, wait_until: Any
) -> None:
    served = door.serve()
    calling, canceller = (caller(served, door.folder / "clients" / "root") for _ in range(2))
    session = canceller.rpc("initialize", {"protocolVersion": "2025-11-25"}).headers["mcp-session-id"]
    headers = {**JSON, "Mcp-Session-Id": session, "Accept": "application/json, text/event-stream"}
    call = '{"jsonrpc":"2.0","id":"c1","method":"tools/call","params":{"name":"bad_hang"}}'
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(calling.ask("POST", "/mcp", call, headers)))
    thread.start()
    journal = door.folder / "persistence"
    wait_until(lambda: b"bad_hang" in b"".join(f.read_bytes() for f in journal.glob("journal-*")))
    cancelled = '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"c1"}}'
    assert canceller.ask("POST", "/mcp", cancelled, headers).status == 202
    thread.join(10)
    assert answers
    entry = canceller.ask("GET", "/audit?tool_name=bad_hang").json["entries"][0]
    assert entry["status"] == "cancelled"
