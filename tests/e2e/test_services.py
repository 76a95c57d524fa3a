"""HTTP services behind the gateway: forwarded unchanged, permitted by method, changes audited."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

ROLES = """
[roles]
reader = ["persons:read"]
writer = ["persons:read", "persons:write"]
"""
CONFIG = """
[[services]]
name = "persons"
prefix = "/api/v1/"
url = "{genealogy}"
permissions = {{ read = ["persons:read"], write = ["persons:write"] }}

[[services]]
name = "mirror"
prefix = "/mirror/"
url = "{mirror}"
permissions = {{ read = ["persons:read"], write = ["persons:read"] }}

[[services]]
name = "private"
prefix = "/mirror/private/"
url = "{mirror}"

[[services]]
name = "hasty"
prefix = "/hasty/"
url = "{mirror}"
timeout = "1s"
permissions = {{ read = ["persons:read"], write = ["persons:read"] }}

[[services]]
name = "nowhere"
prefix = "/nowhere/"
url = "http://127.0.0.1:1"
permissions = {{ read = ["persons:read"], write = ["persons:read"] }}

[[services]]
name = "told"
prefix = "/told/"
url = "{mirror}"
client_cert = true
permissions = {{ read = ["persons:read"], write = ["persons:read"] }}

[[services]]
name = "closed"
prefix = "/closed/"
url = "{mirror}"
"""


def prepare(home: Any) -> None:
    """Clients and their certificates."""
    home.configure(ROLES)
    home.client("reader", "--role", "reader")
    home.client("writer", "--role", "writer")
    home.certificate("root")


@pytest.fixture(scope="module")
def mirror(start_shared: Callable[..., Any]) -> Any:
    return start_shared("tests/servers/mirror.py")


@pytest.fixture
def door(home: Any, start_script: Callable[..., Any], mirror: Any) -> Any:
    """A gateway with services behind it."""
    genealogy = start_script("examples/genealogy/service.py", "--port", "0")
    home.configure(CONFIG.format(genealogy=genealogy.url.partition("/api")[0], mirror=mirror.url))
    return home


@pytest.fixture
def ask(door: Any, caller: Any) -> Callable[..., Any]:
    """One request as somebody."""
    served = door.serve()

    def ask_as(name: str | None, method: str, path: str, *more: Any) -> Any:
        return caller(served, door.folder / "clients" / name if name else None).ask(method, path, *more)

    return ask_as


def test_the_genealogy_service_is_read_by_readers_and_changed_by_writers(ask: Any) -> None:
    assert ask(None, "GET", "/api/v1/persons").status == 401
    persons = ask("reader", "GET", "/api/v1/persons")
    assert persons.status == 200
    assert persons.headers["x-content-type-options"] == "nosniff"
    new = json.dumps({"first_name": "Ada", "surname": "Lovelace", "occurrence": 0})
    assert ask("reader", "POST", "/api/v1/persons", new, {"Content-Type": "application/json"}).status == 403
    made = ask("writer", "POST", "/api/v1/persons", new, {"Content-Type": "application/json"})
    assert made.status in {200, 201}, made
    assert ask("writer", "TRACE", "/api/v1/persons").status == 405
    entries = ask("root", "GET", "/audit?event=data_mutation").json["entries"]
    assert [(entry["client_id"], entry["status"], entry["target"]) for entry in entries] == [
        ("writer", "ok", "/api/v1/persons")
    ]
    denied = ask("root", "GET", "/audit?event=access_denied").json["entries"]
    assert [entry["client_id"] for entry in denied] == ["reader"]


def test_what_is_forwarded_is_what_was_sent_but_for_what_is_ours(ask: Any) -> None:
    answer = ask(
        "reader", "POST", "/mirror/a%20b/c?x=1&y=%2F", "the body",
        {
            "Content-Type": "text/plain", "X-Mine": "kept", "X-Forwarded-For": "1.2.3.4", "X-Client-Id": "root",
            "Client-Cert": ":AAA=:", "Forwarded": "for=1.2.3.4", "X-Real-IP": "1.2.3.4", "TE": "trailers",
            "Connection": "x-hop", "X-Hop": "gone", "X-Request-ID": "abc-1", "Cookie": "a=b",
        },
    )  # fmt: skip
    assert answer.status == 200, answer
    seen = answer.json
    assert (seen["method"], seen["target"], seen["body"]) == ("POST", "/mirror/a%20b/c?x=1&y=%2F", "the body")
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert headers["x-mine"] == "kept"
    assert headers["x-request-id"] == "abc-1"
    assert headers["cookie"] == "a=b"
    for name in ("x-forwarded-for", "x-client-id", "client-cert", "forwarded", "x-real-ip", "te", "x-hop",
                 "authorization"):  # fmt: skip
        assert name not in headers, name
    assert answer.headers["x-from-service"] == "yes"
    for name in ("server", "access-control-allow-origin", "alt-svc"):
        assert name not in answer.headers, name
    assert answer.headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"


CLAIMS = [
    "Ostiary-Identity", "X-ARR-ClientCert", "Client-IP", "CF-Connecting-IP", "Fastly-Client-IP",
    "WL-Proxy-Client-IP", "Proxy-Client-IP", "X-ProxyUser-Ip", "X-Originating-IP",
    "X-Original-Forwarded-For", "Z-Forwarded-For", "X-Original-Host", "X-Host", "Front-End-Https",
    "X-Scheme", "X-Url-Scheme", "X-HTTP-DestinationURL", "X-Auth-Request-User", "X-Webauth-User",
    "X-Goog-Authenticated-User-Email", "X-MS-Client-Principal", "X-Appengine-User-Email", "X.Forwarded.For",
    "Client.Cert", "X-Forwarded.User", "Ostiary~Identity", "X.API.Key", "Transfer.Encoding",
]  # fmt: skip


def test_nobody_tells_a_service_who_calls_but_the_gateway(ask: Any) -> None:
    answer = ask("reader", "GET", "/mirror/x", None, {**dict.fromkeys(CLAIMS, "root"), "X.Mine": "kept"})
    headers = {name.lower(): value for name, value in answer.json["headers"]}
    assert headers["x.mine"] == "kept"
    assert headers.keys().isdisjoint(map(str.lower, CLAIMS))
    for name in ("X.HTTP.Method.Override", "X-Original.URL"):
        refused = ask("reader", "GET", "/mirror/x", None, {name: "DELETE"})
        assert (refused.status, refused.json["reason"]) == (400, "ambiguous_request")


def test_a_service_that_wants_it_is_told_the_certificate_and_no_other(door: Any, ask: Any) -> None:
    answer = ask("reader", "GET", "/told/x", None, {"Client-Cert": ":AAA=:", "Client-Cert-Chain": ":AAA=:"})
    told = [value for name, value in answer.json["headers"] if name.lower().startswith("client-cert")]
    pem = (door.folder / "clients" / "reader" / "reader.pem").read_text()
    assert [base64.b64decode(value.strip(":")) for value in told] == [ssl.PEM_cert_to_DER_cert(pem)]
    assert all(value.startswith(":") and value.endswith(":") for value in told)


@pytest.mark.parametrize(
    "path",
    [
        "/mirror/../closed/x", "/mirror/%2e%2e/x", "/mirror//x", "/mirror/a%2Fb", "/mirror/%5C",
        "/mirror/%70rivate/x", "/mirror/privat%65/x", "/mirror/%50rivate/x", "/mirror/a%7Eb", "/mirror/a%7eb", "/mirror/%2D",
        "/mirror/a%", "/mirror/a%2", "/mirror/a%zz", "/mirror/a%2fb", "/mirror/%5c", "/mirror/%00", "/mirror/%0d%0a",
        "/mirror/%7F", "/mirror/..;/private/x", "/mirror/.;x/private/x", "/mirror/;/private/x", "/mirror/private;x/y",
        "/mirror/./private/x", "/mirror/x/..", "/mirror/.",
    ],
)  # fmt: skip
def test_a_path_that_two_hops_read_differently_goes_nowhere(ask: Any, path: str) -> None:
    answer = ask("reader", "GET", path)
    assert (answer.status, answer.json["reason"]) == (400, "ambiguous_request")


def test_a_service_without_permissions_is_for_administrators(ask: Any) -> None:
    assert ask("writer", "GET", "/closed/x").status == 403
    assert ask("root", "GET", "/closed/x").status == 200


def test_a_service_that_is_down_says_so_and_is_audited(ask: Any) -> None:
    answer = ask("reader", "POST", "/nowhere/x", "y")
    assert (answer.status, answer.json["reason"]) == (502, "upstream_unavailable")
    entry = ask("root", "GET", "/audit?event=data_mutation").json["entries"][0]
    assert (entry["status"], entry["reason"]) == ("error", "upstream_unavailable")


def test_large_bodies_stream_both_ways(ask: Any) -> None:
    body = b"0123456789" * 500_000
    answer = ask("reader", "PUT", "/mirror/large", body, {"Content-Type": "application/octet-stream"})
    assert answer.status == 200
    assert answer.json["length"] == len(body)
    assert len(ask("reader", "GET", "/mirror/large").body) == 5_000_000


def test_half_an_answer_does_not_look_whole(ask: Any) -> None:
    with pytest.raises((OSError, Exception), match=r"(?i)incomplete|reset|closed|remote"):
        ask("reader", "GET", "/mirror/half")


def test_websocket_is_refused_clearly(ask: Any) -> None:
    answer = ask("reader", "GET", "/mirror/ws", None, {"Upgrade": "websocket", "Connection": "Upgrade"})
    assert (answer.status, answer.json["reason"]) == (501, "not_implemented")


def test_a_service_within_another_keeps_its_own_rule(ask: Any) -> None:
    assert ask("reader", "GET", "/mirror/private/x").status == 403
    assert ask("reader", "GET", "/mirror/private").status == 403
    assert ask("reader", "GET", "/mirror/privates").status == 200
    assert ask("root", "GET", "/mirror/private/x").status == 200


def test_expect_is_for_the_gateway_alone(ask: Any) -> None:
    answer = ask("reader", "POST", "/mirror/x", "the body", {"Expect": "100-continue"})
    assert answer.status == 200, answer
    assert answer.json["body"] == "the body"
    assert "expect" not in {name.lower() for name, _ in answer.json["headers"]}


@pytest.fixture
def raw(door: Any) -> Iterator[Callable[[str], tuple[ssl.SSLSocket, Any]]]:
    """Opens a TLS connection as somebody, to send bytes by hand."""
    served = door.serve()
    with ExitStack() as stack:

        def connect(name: str) -> tuple[ssl.SSLSocket, Any]:
            plain = stack.enter_context(socket.create_connection(("localhost", served.port), timeout=20))
            context = door.tls(door.folder / "clients" / name)
            return stack.enter_context(context.wrap_socket(plain, server_hostname="localhost")), served

        yield connect


def test_a_body_that_comes_slowly_is_not_the_services_fault(raw: Any) -> None:
    sock, _ = raw("reader")
    sock.sendall(
        b"POST /hasty/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    )
    for piece in (b"s", b"l", b"o", b"w"):
        time.sleep(0.5)  # all together longer than the service's time limit
        sock.sendall(piece)
    answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b'"body": "slow"' in answer


def test_a_caller_who_leaves_in_mid_body_has_cancelled(
    raw: Any, door: Any, caller: Any, wait_until: Any
) -> None:
    sock, served = raw("reader")
    sock.sendall(b"POST /mirror/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\nonly this")
    root = caller(served, door.folder / "clients" / "root")

    def entries() -> Any:
        return root.ask("GET", "/audit?event=data_mutation").json["entries"]

    sock.close()
    entry = wait_until(entries)[0]
    assert (entry["status"], entry["target"]) == ("cancelled", "/mirror/x")
    assert root.ask("GET", "/mirror/x").status == 200


def test_a_body_that_waits_for_100_continue_arrives(ask: Any) -> None:
    answer = ask("reader", "POST", "/mirror/upload", b"x" * 2_000_000, {"Expect": "100-continue"})
    assert answer.status == 200
    assert answer.json["length"] == 2_000_000
    refused = ask("reader", "POST", "/mirror/upload", b"x", {"Expect": "200-maybe"})
    assert (refused.status, refused.json["reason"]) == (400, "bad_request")
