"""What ends a certificate ends it within a second or so, on every kind of connection; what cannot be used changes nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import Authority

LIMIT = 5.0
"""Seconds within which a certificate must be refused; the promise is one, but the machine may be busy."""
RPC = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def prepare(home: Any) -> None:
    """A client with a certificate, and one whose certificate goes on."""
    home.client("alice")
    home.client("bob")


def short_lived(home: Any, name: str, seconds: float) -> None:
    """A certificate of the CA's that ends soon, in the place of the client's."""
    folder = home.folder / "certs"
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    key_usage = x509.KeyUsage(True, *[False] * 8)
    ski = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(seconds=seconds))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    out = home.folder / "clients" / name
    (out / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (out / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


class Visitor:
    """Alice over one version of TLS."""

    def __init__(self, home: Any, port: int, version: ssl.TLSVersion, name: str = "alice") -> None:
        own = home.folder / "clients" / name
        self.context = ssl.create_default_context(cafile=str(own / "ca.pem"))
        self.context.minimum_version = self.context.maximum_version = version
        self.context.load_cert_chain(own / f"{name}.pem", own / f"{name}.key")
        self.port = port
        self._opened: list[http.client.HTTPSConnection] = []

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def connect(self, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("localhost", self.port), timeout=10)
        try:
            return self.context.wrap_socket(plain, server_hostname="localhost", session=session)
        except OSError:
            plain.close()
            raise

    def lasting(self) -> http.client.HTTPSConnection:
        self._opened.append(
            http.client.HTTPSConnection("localhost", self.port, context=self.context, timeout=10)
        )
        return self._opened[-1]

    def is_let_in(self, session: ssl.SSLSession | None = None) -> bool:
        """Over a new connection, perhaps a resumed session."""
        try:
            with self.connect(session) as secured:
                body = json.dumps(LIST).encode()
                head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                fields = "".join(f"{name}: {value}\r\n" for name, value in RPC.items())
                secured.sendall(f"{head}{fields}\r\n".encode() + body)
                return secured.recv(4096).startswith(b"HTTP/1.1 200 ")
        except (ssl.SSLError, ConnectionError):
            return False


@pytest.fixture
def visit(home: Any) -> Iterator[Callable[..., Visitor]]:
    """Makes visitors, and closes their connections."""
    made: list[Visitor] = []

    def make(served: Any, name: str = "alice", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Visitor:
        made.append(Visitor(home, served.port, version, name))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ask(connection: http.client.HTTPSConnection) -> tuple[int, str]:
    """Status, and what becomes of the connection."""
    connection.request("POST", "/mcp", json.dumps(LIST), RPC)
    response = connection.getresponse()
    response.read()
    return response.status, response.headers.get("Connection", "")


def open_stream(visitor: Visitor) -> http.client.HTTPResponse:
    """A legacy session's own stream, which has begun."""
    first = visitor.lasting()
    first.request("POST", "/mcp", json.dumps(INITIALIZE), RPC)
    answer = first.getresponse()
    answer.read()
    session = answer.headers["Mcp-Session-Id"]
    stream = visitor.lasting()
    stream.request("GET", "/mcp", headers={"Accept": "text/event-stream", "Mcp-Session-Id": session})
    response = stream.getresponse()
    assert response.status == 200
    return response


def seconds_until(condition: Callable[[], bool], since: float) -> float:
    while not condition():
        if time.monotonic() - since > LIMIT:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - since


def by_crl(home: Any) -> float:
    Authority.load(home.folder / "certs").revoke(home.folder / "clients/alice/alice.pem", now=time.time())
    return time.monotonic()


def by_fingerprint(home: Any) -> float:
    (home.folder / "certs" / "ca.key").rename(home.folder / "ca.key")  # so that the CRL cannot be written
    done = home.cli("certs", "revoke", str(home.folder / "clients/alice/alice.pem"))
    assert "The CRL was not written" in done.stdout
    return time.monotonic()


def by_serial(home: Any) -> float:
    (home.folder / "certs" / "ca.key").rename(home.folder / "ca.key")
    shown = home.json("certs", "show", str(home.folder / "clients/alice/alice.pem"))
    home.cli("certs", "revoke", shown["certificate"]["serial"])
    return time.monotonic()


def by_disabling(home: Any) -> float:
    home.cli("clients", "disable", "alice")
    return time.monotonic()


def by_removing_the_ca(home: Any) -> float:
    Authority.create(home.folder / "other", now=time.time(), common_name="Another CA")
    shutil.copy(home.folder / "other" / "ca.pem", home.folder / "certs" / "new.pem")
    (home.folder / "certs" / "new.pem").rename(home.folder / "certs" / "ca.pem")
    return time.monotonic()


def by_expiry(_home: Any) -> float:
    return time.monotonic()


CAUSES = (by_crl, by_fingerprint, by_serial, by_disabling, by_removing_the_ca, by_expiry)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cause", CAUSES)
def test_a_certificate_ends_on_every_kind_of_connection(
    home: Any,
    visit: Callable[..., Visitor],
    cause: Callable[[Any], float],
    version: str,
    record_property: Callable[[str, object], None],
) -> None:
    home.configure("", settings={"tls": {"minimum_version": version}})
    served = home.serve()
    if cause is by_expiry:
        short_lived(home, "alice", 4)
    ends = time.monotonic() + 4
    alice, bob = (visit(served, name, VERSIONS[version]) for name in ("alice", "bob"))
    with alice.connect() as first:
        first.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first.recv(4096)
        session = first.session
    lasting, other = alice.lasting(), bob.lasting()
    assert ask(lasting)[0] == ask(other)[0] == 200
    stream = open_stream(alice)
    ended = threading.Event()

    def read_to_the_end() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            stream.read()
        ended.set()

    reader = threading.Thread(target=read_to_the_end, daemon=True)
    reader.start()
    assert alice.is_let_in()
    since = cause(home)
    if cause is by_expiry:
        time.sleep(max(0.0, ends - time.monotonic()))
        since = ends
    refused: list[tuple[int, str]] = []

    def is_refused() -> bool:
        refused.append(ask(lasting))
        return refused[-1][0] == 401

    took = {
        "open connection": seconds_until(is_refused, since),
        "new": seconds_until(lambda: not alice.is_let_in(), since),
        "resumed": seconds_until(lambda: not alice.is_let_in(session), since),
        "stream": seconds_until(ended.is_set, since),
    }
    record_property("seconds", took)
    print(f"{cause.__name__}, TLS {version}: " + ", ".join(f"{k} {v:.2f} s" for k, v in took.items()))
    assert max(took.values()) < LIMIT
    assert refused[-1][1].lower() == "close"
    if cause is not by_removing_the_ca:
        assert ask(other)[0] == 200
    reader.join(5)


def crls(*authorities: Authority) -> bytes:
    """A CRL of each, with a serial number that nobody has."""
    return b"".join(each.revoke(1, now=time.time()).crl.read_bytes() for each in authorities)


@pytest.mark.parametrize("anew", [False, True])
def test_a_ca_is_removed_while_its_crl_stays(home: Any, visit: Callable[..., Visitor], anew: bool) -> None:
    """``anew``: the other CA has its name, as one that was made in its place has."""
    certs = home.folder / "certs"
    ours = (certs / "ca.pem").read_bytes()
    own = Authority.load(certs)
    name = x509.load_pem_x509_certificate(ours).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    other = Authority.create(
        home.folder / "other", now=time.time(), common_name=str(name) if anew else "Another CA"
    )
    (certs / "both.pem").write_bytes(ours + (home.folder / "other" / "ca.pem").read_bytes())
    (certs / "both-crl.pem").write_bytes(crls(own, other))
    home.configure("", settings={"tls": {"client_ca": "certs/both.pem", "crl": "certs/both-crl.pem"}})
    served = home.serve()
    alice = visit(served)
    lasting = alice.lasting()
    assert ask(lasting)[0] == 200
    (certs / "new.pem").write_bytes((home.folder / "other" / "ca.pem").read_bytes())
    (certs / "new.pem").rename(certs / "both.pem")
    since = time.monotonic()
    assert seconds_until(lambda: ask(lasting)[0] == 401, since) < LIMIT
    assert not alice.is_let_in()
    assert events(home)[0] == "ok"
    assert "is of no client CA and is left out" in home.cli("check").stdout


def test_certificates_become_required_on_open_connections_too(
    home: Any, visit: Callable[..., Visitor]
) -> None:
    served = home.serve()
    nobody = visit(served)
    nobody.context = ssl.create_default_context(cafile=str(home.folder / "certs" / "ca.pem"))
    lasting = nobody.lasting()
    assert ask(lasting)[0] == 200
    home.configure("", settings={"tls": {"client_certificates": "required"}})
    home.cli("reload")
    status, connection = ask(lasting)
    assert (status, connection.lower()) == (401, "close")
    assert visit(served, "bob").is_let_in()


def test_who_is_on_a_crl_that_is_lost_stays_out(
    home: Any, visit: Callable[..., Visitor], wait_until: Any
) -> None:
    by_crl(home)
    served = home.serve()
    alice, bob = visit(served), visit(served, "bob")
    assert not alice.is_let_in()
    crl = home.folder / "certs" / "crl.pem"
    crl.rename(home.folder / "crl.pem")
    wait_until(lambda: "crl.pem: is gone" in served.log.read_text(), seconds=LIMIT)
    assert not alice.is_let_in()
    assert bob.is_let_in()
    assert events(home)[0] == "error"
    assert "crl.pem: is gone" in home.cli("reload", check=False).stderr
    (home.folder / "crl.pem").rename(crl)
    wait_until(lambda: events(home)[0] == "ok", seconds=LIMIT)
    assert not alice.is_let_in()


@pytest.fixture
def watched(home: Any, visit: Callable[..., Visitor]) -> Iterator[tuple[Any, Any]]:
    """A gateway, and somebody who asks all the time: (served, stop), which gives what was answered."""
    served = home.serve()
    bob = visit(served, "bob")
    stopping, statuses = threading.Event(), []

    def load() -> None:
        while not stopping.is_set():
            connection = bob.lasting()
            statuses.append(ask(connection)[0])
            statuses.append(ask(connection)[0])
            connection.close()
            time.sleep(0.01)  # the gateway has the same few cores

    workers = [threading.Thread(target=load) for _ in range(2)]
    for worker in workers:
        worker.start()

    def stop() -> list[int]:
        stopping.set()
        for worker in workers:
            worker.join()
        return statuses

    yield served, stop
    stop()


def events(home: Any) -> list[str]:
    found = home.json("audit", "query", "--event", "tls_reloaded", "--limit", "1000")["entries"]
    return [entry["status"] for entry in found]


def test_two_hundred_reloads_fail_no_request(home: Any, watched: tuple[Any, Any], wait_until: Any) -> None:
    served, stop = watched
    for number in range(200):
        if number % 50 == 0:
            home.cli("certs", "issue-server")
        served.process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    home.cli("reload")
    statuses = stop()
    assert len(statuses) > 100
    assert set(statuses) == {200}
    assert set(events(home)) == {"ok"}


def test_a_new_server_certificate_is_taken_by_itself(
    home: Any, visit: Callable[..., Visitor], wait_until: Any
) -> None:
    served = home.serve()

    def serial() -> int:
        with visit(served).connect() as secured:
            der = secured.getpeercert(binary_form=True)
            assert der is not None
            return x509.load_der_x509_certificate(der).serial_number

    before = serial()
    home.cli("certs", "issue-server")
    wait_until(lambda: serial() != before, seconds=LIMIT)
    assert events(home)[0] == "ok"


@pytest.mark.parametrize("broken", ["certificate", "private_key", "client_ca", "crl", "configuration"])
def test_what_cannot_be_used_changes_nothing(
    home: Any, visit: Callable[..., Visitor], broken: str, wait_until: Any
) -> None:
    if broken == "crl":
        home.cli("certs", "issue", "carl", "--out", str(home.folder / "clients" / "carl"))
        home.cli("certs", "revoke", str(home.folder / "clients" / "carl" / "carl.pem"))
    served = home.serve()
    bob = visit(served, "bob")
    paths = {
        "certificate": "server.pem",
        "private_key": "server.key",
        "client_ca": "ca.pem",
        "crl": "crl.pem",
    }
    path = home.config if broken == "configuration" else home.folder / "certs" / paths[broken]
    good = path.read_bytes()
    path.write_bytes(b"[tls\n" if broken == "configuration" else good[:100])

    def degraded() -> list[str]:
        connection = bob.lasting()
        connection.request("GET", "/health/ready")
        found = json.loads(connection.getresponse().read())["degraded"]
        connection.close()
        return list(found)

    if broken == "configuration":
        served.process.send_signal(signal.SIGHUP)
    wait_until(lambda: degraded() == ["tls_reload"], seconds=LIMIT)
    assert bob.is_let_in()
    assert events(home)[0] == "error" if broken != "configuration" else True
    assert "the old TLS state stays in force" in served.log.read_text()
    path.write_bytes(good)
    if broken == "configuration":
        served.process.send_signal(signal.SIGHUP)
    wait_until(lambda: degraded() == [], seconds=LIMIT)
    assert bob.is_let_in()


def test_the_command_says_what_is_wrong(home: Any) -> None:
    assert "no server is running" in home.cli("reload", check=False).stderr
    home.serve()
    home.cli("reload")
    key = home.folder / "certs" / "server.key"
    key.chmod(0o644)
    done = home.cli("reload", check=False)
    assert done.returncode == 1
    assert "the old state stays in force" in done.stderr
    assert "chmod 600" in done.stderr


def test_a_reload_during_a_drain_harms_nobody(home: Any, visit: Callable[..., Visitor]) -> None:
    served = home.serve()
    stream = open_stream(visit(served))
    served.process.send_signal(signal.SIGTERM)
    for _ in range(5):
        served.process.send_signal(signal.SIGHUP)
    with contextlib.suppress(http.client.IncompleteRead):
        stream.read()
    assert served.process.wait(20) == 0
    assert "Traceback" not in served.log.read_text()


def test_an_expired_crl_refuses_or_is_warned_of(home: Any, visit: Callable[..., Visitor]) -> None:
    alice = home.folder / "clients" / "alice" / "alice.pem"
    Authority.load(home.folder / "certs").revoke(alice, now=time.time() - 40 * 86400)
    assert "the CRL expired" in home.cli("serve", check=False).stderr
    home.configure("", settings={"tls": {"crl_expired": "warn"}})
    assert "the CRL is to be replaced by" in home.cli("check").stdout
    served = home.serve()
    assert visit(served, "bob").is_let_in()
    assert not visit(served, "alice").is_let_in()


def token_status(visitor: Visitor) -> int:
    """What asking for a token by certificate alone is answered with."""
    connection = visitor.lasting()
    connection.request("GET", "/auth/token")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_rule_for_one_ca_is_not_for_another(home: Any, visit: Callable[..., Visitor]) -> None:
    """Two CAs that both issue the name: each has its own client."""
    other = Authority.create(home.folder / "partner", now=time.time(), common_name="Partner CA")
    out = home.folder / "clients" / "partner-alice"
    other.issue_client("alice", out=out, now=time.time())
    own = (home.folder / "certs" / "ca.pem").read_text()
    (home.folder / "certs" / "clients-ca.pem").write_text(
        own + (home.folder / "partner" / "ca.pem").read_text()
    )
    home.configure(
        '[[tls.client_id]]\nfrom = "common_name"\nca = "certs/ca.pem"\n',
        settings={"tls": {"client_ca": "certs/clients-ca.pem"}},
    )
    served = home.serve()
    shutil.copy(home.folder / "certs" / "ca.pem", out / "ca.pem")  # the server's, which is of the first CA
    for suffix in ("pem", "key"):
        (out / f"alice.{suffix}").rename(out / f"partner-alice.{suffix}")
    for name, status in (("alice", 200), ("partner-alice", 401)):
        assert token_status(visit(served, name)) == status


def test_a_rule_for_one_tenant_names_no_client_of_another(home: Any, visit: Callable[..., Visitor]) -> None:
    home.configure('[[tls.client_id]]\nfrom = "common_name"\ntenant = "elsewhere"\n')
    served = home.serve()
    assert token_status(visit(served)) == 401
