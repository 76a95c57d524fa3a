"""Whoever is refused in the TLS handshake is told why, by an alert (RFC 8446 section 6.2)."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from certs.authority import Authority
from tests.conftest import Home, Served

ROOT = Path(__file__).resolve().parent.parent.parent


def prepare(home: Home) -> None:
    """Certificates of alice's that are not accepted: ``expired``, ``revoked``, ``strange``."""
    home.configure("", settings={"tls": {"minimum_version": "1.2"}})
    home.client("alice")
    revoked = home.folder / "clients" / "alice"
    home.cli("certs", "revoke", str(revoked / "alice.pem"))
    revoked.rename(home.folder / "clients" / "revoked")
    expired = home.folder / "clients" / "expired"
    Authority.load(home.folder / "certs").issue_client(
        "alice", days=1, out=expired, now=time.time() - 3 * 86400
    )
    strange = home.folder / "clients" / "strange"
    strange.mkdir()
    issued = trustme.CA().issue_cert("alice@example.org", common_name="alice")
    issued.cert_chain_pems[0].write_to_path(strange / "alice.pem")
    issued.private_key_pem.write_to_path(strange / "alice.key")


@pytest.fixture(scope="module")
def gate(prepared: Path) -> Home:
    return Home(prepared)


@pytest.fixture(scope="module")
def served(gate: Home) -> Iterator[Served]:
    running = gate.serve()
    yield running
    assert running.stop() == 0
    running.close()
    assert "Traceback" not in running.log.read_text()


def _speak(port: int, context: ssl.SSLContext) -> None:
    """Send a request and wait for its answer; in TLS 1.3 the alert comes after the client's side of the handshake."""
    with (
        socket.create_connection(("localhost", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        secured.recv(1)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "alert"),
    [
        ("expired", "CERTIFICATE_EXPIRED"),
        ("revoked", "CERTIFICATE_REVOKED"),
        ("strange", "UNKNOWN_CA"),
    ],
)
def test_a_certificate_that_is_not_accepted_gets_an_alert(
    gate: Home, served: Served, name: str, alert: str, version: ssl.TLSVersion
) -> None:
    context = gate.tls()
    folder = gate.folder / "clients" / name
    context.load_cert_chain(folder / "alice.pem", folder / "alice.key")
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError) as caught:
        _speak(served.port, context)
    assert str(caught.value.reason).endswith(f"ALERT_{alert}")


def test_the_command_line_says_what_the_alert_says(gate: Home, served: Served, tmp_path: Path) -> None:
    folder = gate.folder / "clients" / "expired"
    files = (
        "--ca",
        str(folder / "ca.pem"),
        "--cert",
        str(folder / "alice.pem"),
        "--key",
        str(folder / "alice.key"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "login", served.url, *files],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "refused the TLS connection (certificate expired); present a certificate" in done.stderr
