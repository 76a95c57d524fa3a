"""A TLS terminator in front hands over its callers' certificates; nobody else can. Through the real process."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme

ROLES = """
[roles]
terminator = ["platform:hand_over", "audit:read"]
user = ["all:use"]
"""


def prepare(home: Any) -> None:
    """The terminator, clients, and their certificates."""
    home.configure(ROLES, settings={"server": {"trusted_terminators": ["127.0.0.1"]}})
    home.client("front", "--role", "terminator")
    home.client("alice", "--role", "user")
    home.client("bob")
    home.certificate("root")


def field(der: bytes) -> str:
    return f":{base64.b64encode(der).decode()}:"


def of(home: Any, name: str) -> str:
    """The client's certificate as RFC 9440 writes it."""
    pem = (home.folder / "clients" / name / f"{name}.pem").read_text()
    return field(ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END") + 26].rstrip() + "\n"))


@pytest.fixture
def through(home: Any, caller: Any) -> Callable[..., Any]:
    """Asks for something as ``by``'s connection, with a certificate handed over."""
    running: list[Any] = []

    def ask(handed_over: str | None, path: str = "/audit", *, by: str | None = "front", **more: str) -> Any:
        if not running:
            running.append(home.serve())
        one = caller(running[0], None if by is None else home.folder / "clients" / by)
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        if handed_over is not None:
            headers["Client-Cert"] = handed_over
        return one.ask("GET", path, None, headers)

    return ask


def test_the_caller_is_whom_the_terminator_names(home: Any, through: Any) -> None:
    assert through(of(home, "root")).status == 200
    refused = through(of(home, "alice"))
    assert (refused.status, refused.json["reason"]) == (403, "permission_denied")
    entries = through(of(home, "root"), "/audit?event=access_denied").json["entries"]
    der = base64.b64decode(of(home, "alice")[1:-1])
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    assert [(e["client_id"], e["address"], e["certificate_thumbprint"]) for e in entries] == [
        ("alice", "127.0.0.1", thumbprint)
    ]


def test_the_terminators_own_certificate_is_never_its_callers(through: Any) -> None:
    answer = through(None)  # its role may read the audit
    assert (answer.status, answer.json["reason"]) == (401, "authentication_required")


def test_nobody_else_is_heard(home: Any, through: Any) -> None:
    root = of(home, "root")
    assert through(root, by="alice").json["reason"] == "permission_denied"
    assert through(root, by=None).json["reason"] == "authentication_required"
    assert through(of(home, "alice"), by="root").status == 200  # "*:*" does not grant it
    assert through("rubbish", by="root").status == 200


def test_a_terminator_elsewhere_is_a_client_like_others(home: Any, through: Any) -> None:
    home.configure("", settings={"server": {"trusted_terminators": ["192.0.2.0/24", "::1"]}})
    assert through(of(home, "alice")).status == 200


def test_no_terminator_is_trusted_unless_it_is_configured(home: Any, through: Any) -> None:
    home.configure("", settings={"server": {"trusted_terminators": []}})
    assert through(of(home, "alice")).status == 200


def test_a_terminator_that_was_revoked_speaks_for_nobody(home: Any, through: Any) -> None:
    assert through(of(home, "root")).status == 200
    home.cli("clients", "disable", "front")
    assert through(of(home, "root")).json["reason"] == "client_disabled"


def test_what_ends_a_certificate_ends_it_here_too(home: Any, through: Any, wait_until: Any) -> None:
    assert through(of(home, "alice")).status == 403
    home.cli("certs", "revoke", str(home.folder / "clients" / "alice" / "alice.pem"))
    wait_until(lambda: through(of(home, "alice")).status == 401)
    assert through(of(home, "alice")).json["reason"] == "certificate_revoked"
    home.cli("clients", "disable", "bob")
    assert through(of(home, "bob")).json["reason"] == "client_disabled"
    assert through(of(home, "root")).status == 200


def test_a_certificate_of_another_ca_is_refused(home: Any, through: Any) -> None:
    stranger = trustme.CA().issue_cert("root@example.org", common_name="root")
    der = ssl.PEM_cert_to_DER_cert(stranger.cert_chain_pems[0].bytes().decode())
    assert through(field(der)).json["reason"] == "certificate_untrusted"
    servers = ssl.PEM_cert_to_DER_cert((home.folder / "certs" / "server.pem").read_text())
    assert through(field(servers)).json["reason"] == "certificate_untrusted"  # not for clients


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: good[1:-1],
        lambda good: good[:-1],
        lambda good: f"{good};a=1",
        lambda good: f"{good}, {good}",
        lambda good: good.replace(":", '"'),
        lambda good: good[:9] + " " + good[9:],
        lambda good: f":{good[5:]}",
        lambda good: field(base64.b64decode(good[1:-1]) + b"\0"),
        lambda _good: "::",
        lambda _good: ":AAAA:",
        lambda _good: "-----BEGIN CERTIFICATE-----",
        lambda _good: "",
    ],
)
def test_what_is_not_one_certificate_is_refused(home: Any, through: Any, spoil: Callable[[str], str]) -> None:
    answer = through(spoil(of(home, "root")))
    assert (answer.status, answer.json["reason"]) == (400, "bad_request")


def test_the_chain_is_read_as_strictly(home: Any, through: Any) -> None:
    root = of(home, "root")
    ca = field(ssl.PEM_cert_to_DER_cert((home.folder / "certs" / "ca.pem").read_text()))
    assert through(root, Client_Cert_Chain=f"{ca}, {ca}").status == 200
    for chain in ("rubbish", f"{ca},", f"{ca};a", ":AAAA:", ", ".join([ca] * 9)):
        assert through(root, Client_Cert_Chain=chain).status == 400
    assert through(None, Client_Cert_Chain=ca).status == 400


def test_two_certificates_are_one_too_many(home: Any, through: Any) -> None:
    assert through(of(home, "root")).status == 200
    served = home.served[0]
    with (
        socket.create_connection(("localhost", served.port), timeout=20) as plain,
        home.tls(home.folder / "clients" / "front").wrap_socket(
            plain, server_hostname="localhost"
        ) as secured,
    ):
        fields = f"Client-Cert: {of(home, 'root')}\r\nclient-cert: {of(home, 'alice')}\r\n"
        secured.sendall(f"GET /audit HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
        assert secured.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_a_token_is_bound_to_the_certificate_that_was_handed_over(home: Any, through: Any) -> None:
    issued = through(of(home, "root"), "/auth/token").json["access_token"]
    bearer = {"Authorization": f"Bearer {issued}"}
    assert through(of(home, "root"), **bearer).status == 200
    assert through(of(home, "alice"), **bearer).json["reason"] == "certificate_mismatch"
    assert through(None, **bearer).json["reason"] == "certificate_required"
    assert through(None, by="root", **bearer).status == 200  # the same certificate, without a terminator


def test_where_certificates_are_required_the_terminators_does_not_count(home: Any, through: Any) -> None:
    home.configure("", settings={"tls": {"client_certificates": "required"}})
    answer = through(None, "/.well-known/oauth-protected-resource")
    assert (answer.status, answer.json["reason"]) == (401, "certificate_required")
    assert through(of(home, "root")).status == 200


def test_services_are_told_the_callers_certificate(
    home: Any, through: Any, start_script: Callable[..., Any]
) -> None:
    mirror = start_script("tests/servers/mirror.py")
    home.configure(
        f'[[services]]\nname = "told"\nprefix = "/told/"\nurl = "{mirror.url}"\nclient_cert = true\n'
        'permissions = { read = ["all:use"] }\n'
    )
    alice = of(home, "alice")
    headers = through(alice, "/told/").json["headers"]
    assert [value for name, value in headers if name.lower() == "client-cert"] == [alice]


@pytest.mark.parametrize("whose", ["alice", "front"])
def test_an_open_stream_ends_with_its_callers_certificate_and_the_terminators(
    home: Any, caller: Any, whose: str
) -> None:
    served = home.serve()
    front, alice = home.folder / "clients" / "front", of(home, "alice")
    accepts = {
        "Client-Cert": alice,
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    hello = (
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
        '"clientInfo":{"name":"t","version":"1"}}}'
    )
    session = caller(served, front).ask("POST", "/mcp", hello, accepts).headers["mcp-session-id"]
    with (
        socket.create_connection(("localhost", served.port), timeout=20) as plain,
        home.tls(front).wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(
            f"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n"
            f"Client-Cert: {alice}\r\n\r\n".encode()
        )
        assert secured.recv(4096).startswith(b"HTTP/1.1 200 ")
        home.cli("certs", "revoke", str(home.folder / "clients" / whose / f"{whose}.pem"))
        while secured.recv(4096):
            pass


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "front.example.org", "0.0.0.0/0", "::/0", ""])
def test_only_addresses_and_networks_can_be_trusted(home: Any, wrong: str) -> None:
    home.configure("", settings={"server": {"trusted_terminators": [wrong]}})
    done = home.cli("check", check=False)
    assert done.returncode != 0
    assert "trusted_terminators" in done.stdout + done.stderr


def test_without_client_certificates_no_terminator_can_be_known(home: Any) -> None:
    home.configure("", settings={"tls": {"client_certificates": "none"}})
    done = home.cli("check", check=False)
    assert "trusted_terminators" in done.stdout + done.stderr
