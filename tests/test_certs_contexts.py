"""Real handshakes over loopback: who gets in, who does not, and what a connection is."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from certs.authority import Authority
from certs.contexts import ClientCertificates, TlsFiles, client_context, server_context
from certs.identity import CertificateError, parse_peer

NOW = time.time_ns() / 1e9  # OpenSSL compares with the clock of the machine
DAY = 86400
NONE, OPTIONAL, REQUIRED = ClientCertificates
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


# --- the two ends -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """What the server saw of a connection that was made."""

    version: str | None
    alpn: str | None
    certificate: bytes | None
    resumed: bool | None
    session: ssl.SSLSession | None
    """The client's."""


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, *, session: ssl.SSLSession | None = None
) -> Connected:
    """Connect, and exchange a byte each way. Raises the server's SSLError where it refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve_one, listener, server)
        kept = None
        try:
            raw = socket.create_connection(listener.getsockname(), timeout=10)
            with client.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
                connection.sendall(b"?")
                connection.recv(1)
                kept = connection.session
                connection.unwrap().close()
        except OSError:  # in TLS 1.3 the client learns of a refusal here, or not at all; the server knows why
            pass
        return replace(serving.result(10), session=kept)


def serve_one(listener: socket.socket, context: ssl.SSLContext) -> Connected:
    raw, _ = listener.accept()
    raw.settimeout(10)
    with context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as connection:
        connection.do_handshake()
        connection.recv(1)
        connection.sendall(b"!")
        connected = Connected(
            version=connection.version(),
            alpn=connection.selected_alpn_protocol(),
            certificate=connection.getpeercert(binary_form=True),
            resumed=connection.session_reused,
            session=None,
        )
        with contextlib.suppress(OSError):  # a client may just go
            connection.unwrap().close()
        return connected


# --- certificates -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class House:
    """A CA with a server's files, and a folder for clients'."""

    authority: Authority
    files: TlsFiles
    folder: Path

    def context(
        self,
        client_certificates: ClientCertificates = OPTIONAL,
        minimum_version: ssl.TLSVersion = TLS_1_3,
    ) -> ssl.SSLContext:
        return server_context(
            self.files, client_certificates=client_certificates, minimum_version=minimum_version, now=NOW
        )

    def client(self, name: str, *, days: int = 90, now: float = NOW) -> ssl.SSLContext:
        self.authority.issue_client(name, days=days, out=self.folder, now=now)
        return self.client_with(self.folder / f"{name}.pem", self.folder / f"{name}.key")

    def client_with(self, certificate: Path | None, private_key: Path | None) -> ssl.SSLContext:
        return client_context(
            ca=self.folder / "ca" / "ca.pem", certificate=certificate, private_key=private_key
        )

    def anonymous(self) -> ssl.SSLContext:
        return self.client_with(None, None)

    def put(self, name: str, content: bytes, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def with_files(self, **paths: Path | None) -> House:
        return replace(self, files=replace(self.files, **paths))  # type: ignore[arg-type]


@pytest.fixture
def house(tmp_path: Path) -> House:
    folder = tmp_path / "ca"
    authority = Authority.create(folder, now=NOW)
    certificate, private_key = folder / "server.pem", folder / "server.key"
    authority.issue_server(
        names=["localhost", "127.0.0.1"], certificate=certificate, private_key=private_key, now=NOW
    )
    return House(
        authority, TlsFiles(certificate, private_key, folder / "ca.pem", folder / "crl.pem"), tmp_path
    )


def trust(house: House, ca: trustme.CA) -> House:
    """The house, with trustme's CA as the one of its clients."""
    return house.with_files(client_ca=house.put("trustme.pem", ca.cert_pem.bytes()), crl=None)


def trustme_client(house: House, leaf: trustme.LeafCert) -> ssl.SSLContext:
    path = house.put("leaf.pem", leaf.private_key_and_cert_chain_pem.bytes())
    return house.client_with(path, None)


def own_certificate(house: House, *extensions: x509.ExtensionType) -> ssl.SSLContext:
    """A client whose certificate the house's own CA signed, with no other extensions than these."""
    ca_key = load_pem_private_key((house.authority.folder / "ca.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((house.authority.folder / "ca.pem").read_bytes())
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plain")])
    builder = x509.CertificateBuilder(issuer.subject, name, key.public_key(), 7)
    builder = builder.not_valid_before(dt.datetime.fromtimestamp(NOW - DAY, dt.UTC))
    builder = builder.not_valid_after(dt.datetime.fromtimestamp(NOW + DAY, dt.UTC))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return house.client_with(
        house.put("plain.pem", builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)),
        house.put("plain.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
    )


def authority_key_identifier(house: House) -> x509.AuthorityKeyIdentifier:
    own = x509.load_pem_x509_certificate((house.authority.folder / "ca.pem").read_bytes())
    identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


# --- who gets in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minimum", [TLS_1_2, TLS_1_3])
@pytest.mark.parametrize("mode", [OPTIONAL, REQUIRED])
def test_a_client_with_a_certificate_gets_in(
    house: House, mode: ClientCertificates, minimum: ssl.TLSVersion
) -> None:
    connected = handshake(house.context(mode, minimum), house.client("alice"))
    assert connected.certificate is not None
    assert parse_peer(connected.certificate).common_names == ("alice",)
    assert (connected.version, connected.alpn) == ("TLSv1.3", "http/1.1")


def test_a_client_without_a_certificate_gets_in_where_it_is_optional(house: House) -> None:
    assert handshake(house.context(OPTIONAL), house.anonymous()).certificate is None


def test_a_client_without_a_certificate_is_refused_where_it_is_required(house: House) -> None:
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        handshake(house.context(REQUIRED), house.anonymous())


def test_where_there_are_none_a_certificate_is_not_asked_for(house: House) -> None:
    house = house.with_files(client_ca=None, crl=None)
    assert handshake(house.context(NONE), house.client("alice")).certificate is None


@pytest.mark.parametrize("mode", [OPTIONAL, REQUIRED])
def test_a_certificate_of_another_ca_is_refused(house: House, mode: ClientCertificates) -> None:
    stranger = trustme_client(house, trustme.CA().issue_cert("localhost", common_name="alice"))
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(house.context(mode), stranger)


def test_the_systems_cas_are_not_trusted_for_clients(house: House) -> None:
    trusted = house.context().get_ca_certs(binary_form=True)
    own = x509.load_pem_x509_certificate((house.folder / "ca" / "ca.pem").read_bytes())
    assert trusted == [own.public_bytes(Encoding.DER)]


def test_an_expired_certificate_is_refused(house: House) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(house.context(), house.client("alice", days=1, now=NOW - 2 * DAY))


def test_a_certificate_from_the_future_is_refused(house: House) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        handshake(house.context(), house.client("alice", now=NOW + DAY))


def test_a_certificate_for_servers_only_is_refused_as_a_clients(house: House) -> None:
    server = house.client_with(house.files.certificate, house.files.private_key)
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(house.context(), server)


def test_a_certificate_that_states_no_usage_gets_in(house: House) -> None:
    assert handshake(house.context(), own_certificate(house, authority_key_identifier(house))).certificate


def test_a_certificate_that_breaks_rfc_5280_is_refused(house: House) -> None:
    unlinked = own_certificate(house, x509.SubjectAlternativeName([x509.DNSName("a.example.org")]))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)missing authority key identifier"):
        handshake(house.context(), unlinked)


def test_a_revoked_certificate_is_refused_and_others_are_not(house: House) -> None:
    alice, bob = house.client("alice"), house.client("bob")
    assert handshake(house.context(), alice).certificate
    house.authority.revoke(house.folder / "alice.pem", now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(house.context(), alice)
    assert handshake(house.context(), bob).certificate


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_a_certificate_of_trustme_gets_in(house: House, key_type: trustme.KeyType) -> None:
    ca = trustme.CA(key_type=key_type)
    leaf = ca.issue_cert("alice@example.org", common_name="alice", key_type=key_type)
    connected = handshake(trust(house, ca).context(REQUIRED), trustme_client(house, leaf))
    assert connected.certificate is not None
    assert parse_peer(connected.certificate).san_email == ("alice@example.org",)


def test_the_crls_of_several_cas_may_share_a_file(house: House) -> None:
    other = Authority.create(house.folder / "other", now=NOW, common_name="other CA")
    cas = [authority.folder / "ca.pem" for authority in (house.authority, other)]
    crls = [authority.revoke(1, now=NOW).crl for authority in (house.authority, other)]
    house = house.with_files(
        client_ca=house.put("both.pem", b"".join(each.read_bytes() for each in cas)),
        crl=house.put("both.crl", b"".join(each.read_bytes() for each in crls)),
    )
    other.issue_client("carol", out=house.folder / "other", now=NOW)
    carol = house.client_with(house.folder / "other" / "carol.pem", house.folder / "other" / "carol.key")
    assert handshake(house.context(), carol).certificate
    assert handshake(house.context(), house.client("alice")).certificate
    other.revoke(house.folder / "other" / "carol.pem", now=NOW)
    house.put("both.crl", b"".join(each.read_bytes() for each in crls))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(house.context(), carol)


def test_an_intermediate_ca_may_come_from_the_client(house: House) -> None:
    root = trustme.CA()
    leaf = root.create_child_ca().issue_cert("alice.example.org")
    assert handshake(trust(house, root).context(REQUIRED), trustme_client(house, leaf)).certificate


def test_an_intermediate_ca_is_trusted_by_itself_and_not_its_root(house: House) -> None:
    root = trustme.CA()
    inner = root.create_child_ca()
    context = trust(house, inner).context(REQUIRED)
    assert handshake(context, trustme_client(house, inner.issue_cert("alice.example.org"))).certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, trustme_client(house, root.issue_cert("alice.example.org")))


def test_trustmes_files_serve(house: House) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    ca = house.put("t-ca.pem", authority.cert_pem.bytes())
    house = house.with_files(
        certificate=house.put("t.pem", b"".join(each.bytes() for each in leaf.cert_chain_pems)),
        private_key=house.put("t.key", leaf.private_key_pem.bytes()),
    )
    assert handshake(house.context(), client_context(ca=ca)).version == "TLSv1.3"


# --- what a connection is ---------------------------------------------------------------------------------


def test_tls_1_2_is_refused_where_1_3_is_the_minimum(house: House) -> None:
    client = house.client("alice")
    client.maximum_version = TLS_1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported protocol"):
        handshake(house.context(OPTIONAL, TLS_1_3), client)


def test_tls_1_2_has_forward_secrecy_and_authenticated_encryption(house: House) -> None:
    client = house.client("alice")
    client.maximum_version = TLS_1_2
    assert handshake(house.context(OPTIONAL, TLS_1_2), client).version == "TLSv1.2"
    old = [each for each in house.context(OPTIONAL, TLS_1_2).get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert old
    for cipher in old:
        assert cipher["name"].startswith("ECDHE-")
        assert cipher["aead"]


@pytest.mark.parametrize(
    "cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256"]
)
def test_weaker_tls_1_2_is_refused(house: House, cipher: str) -> None:
    client = house.client("alice")
    client.maximum_version = TLS_1_2
    client.set_ciphers(cipher)
    with pytest.raises(ssl.SSLError, match=r"(?i)no shared cipher"):
        handshake(house.context(OPTIONAL, TLS_1_2), client)


def test_nothing_below_tls_1_2_is_ever_allowed(house: House) -> None:
    assert house.context(OPTIONAL, ssl.TLSVersion.MINIMUM_SUPPORTED).minimum_version is TLS_1_2


@pytest.mark.parametrize("minimum", [TLS_1_2, TLS_1_3])
def test_a_tls_1_3_session_is_never_resumed(house: House, minimum: ssl.TLSVersion) -> None:
    server, client = house.context(OPTIONAL, minimum), house.client("alice")
    first = handshake(server, client)
    assert first.session is None or not first.session.has_ticket
    again = handshake(server, client, session=first.session)
    assert again.resumed is False
    assert again.certificate == first.certificate


def test_a_revoked_client_cannot_resume_in_tls_1_3(house: House) -> None:
    server, client = house.context(), house.client("alice")
    first = handshake(server, client)
    house.authority.revoke(house.folder / "alice.pem", now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(house.context(), client, session=first.session)


def test_tls_1_2_gives_no_ticket_and_the_server_sees_that_a_session_was_resumed_by_its_id(
    house: House,
) -> None:
    server, client = house.context(OPTIONAL, TLS_1_2), house.client("alice")
    client.maximum_version = TLS_1_2
    first = handshake(server, client)
    assert first.session is not None
    assert not first.session.has_ticket
    assert handshake(server, client).resumed is False
    assert handshake(server, client, session=first.session).resumed is True


def test_a_client_that_speaks_http_2_only_gets_no_protocol(house: House) -> None:
    client = house.client("alice")
    client.set_alpn_protocols(["h2"])
    assert handshake(house.context(), client).alpn is None


def test_no_key_log_is_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    log = house.folder / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    handshake(house.context(), house.client("alice"))
    assert not log.exists()


# --- the client's side ------------------------------------------------------------------------------------


def test_a_client_refuses_a_server_of_another_ca_and_of_another_name(house: House) -> None:
    stranger = client_context(ca=house.put("t.pem", trustme.CA().cert_pem.bytes()))
    for context, name in ((stranger, "localhost"), (house.anonymous(), "elsewhere.example.org")):
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            ThreadPoolExecutor(1) as threads,
            socket.create_connection(listener.getsockname(), timeout=10) as raw,
        ):
            serving = threads.submit(serve_one, listener, house.context())
            with pytest.raises(ssl.SSLCertVerificationError):
                context.wrap_socket(raw, server_hostname=name)
            assert isinstance(serving.exception(10), ssl.SSLError)


def test_a_client_without_a_ca_trusts_the_systems(monkeypatch: pytest.MonkeyPatch, house: House) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(house.folder / "ca" / "ca.pem"))
    assert handshake(house.context(), client_context(ca=None)).version == "TLSv1.3"


def test_a_clients_files_are_checked(house: House) -> None:
    house.client("alice")
    certificate, key = house.folder / "alice.pem", house.folder / "alice.key"
    ca = house.folder / "ca" / "ca.pem"
    cases = [
        ({"ca": house.folder / "none"}, "no such file"),
        ({"ca": key}, "holds no readable PEM certificate"),
        ({"ca": ca, "private_key": key}, "a key without its certificate"),
        ({"ca": ca, "certificate": certificate}, "holds no readable PEM private key"),
        ({"ca": ca, "certificate": certificate, "private_key": house.files.private_key}, "cannot be used"),
    ]
    for arguments, reason in cases:
        with pytest.raises(CertificateError, match=reason):
            client_context(**{"ca": None, **arguments})


def test_a_clients_certificate_and_key_may_share_a_file(house: House) -> None:
    house.client("alice")
    both = house.put(
        "both.pem", (house.folder / "alice.key").read_bytes() + (house.folder / "alice.pem").read_bytes()
    )
    assert handshake(house.context(REQUIRED), house.client_with(both, None)).certificate


def test_a_client_does_not_go_below_tls_1_2(house: House) -> None:
    assert house.anonymous().minimum_version is TLS_1_2
