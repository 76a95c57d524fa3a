"""Every problem that a listener's files can have: each is named with its remedy, and keeps the context from
being made."""

from __future__ import annotations

import datetime as dt
import ssl
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import Authority
from certs.contexts import ClientCertificates, TlsFiles, problems, server_context
from certs.identity import CertificateError

NOW = time.time_ns() / 1e9
DAY = 86400
NONE, OPTIONAL, REQUIRED = ClientCertificates


@dataclass(frozen=True, slots=True)
class House:
    """A CA and the files of a listener."""

    authority: Authority
    files: TlsFiles
    folder: Path

    @property
    def own_ca(self) -> Path:
        return self.authority.folder / "ca.pem"

    def context(self, client_certificates: ClientCertificates = OPTIONAL) -> ssl.SSLContext:
        return server_context(
            self.files,
            client_certificates=client_certificates,
            minimum_version=ssl.TLSVersion.TLSv1_3,
            now=NOW,
        )

    def problems(self, client_certificates: ClientCertificates = OPTIONAL, *, now: float = NOW) -> list[str]:
        return problems(self.files, client_certificates=client_certificates, now=now)

    def put(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def with_file(self, field: str, path: Path | None) -> House:
        return replace(self, files=replace(self.files, **{field: path}))  # type: ignore[arg-type]

    def serving(self, certificate: Path, private_key: Path) -> House:
        return replace(self, files=replace(self.files, certificate=certificate, private_key=private_key))


@pytest.fixture
def house(tmp_path: Path) -> House:
    folder = tmp_path / "ca"
    authority = Authority.create(folder, now=NOW)
    certificate, private_key = folder / "server.pem", folder / "server.key"
    authority.issue_server(names=["localhost"], certificate=certificate, private_key=private_key, now=NOW)
    return House(
        authority, TlsFiles(certificate, private_key, folder / "ca.pem", folder / "crl.pem"), tmp_path
    )


def moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def own_certificate(
    house: House,
    name: str,
    *,
    usage: x509.ObjectIdentifier | None = None,
    start: float = NOW - DAY,
    end: float = NOW + DAY,
    ca: bool = False,
) -> tuple[Path, Path]:
    """A certificate as the house's own CA would not issue it, signed by it."""
    ca_key = load_pem_private_key(house.own_ca.with_name("ca.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate(house.own_ca.read_bytes())
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(start))
        .not_valid_after(moment(end))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signed = builder.sign(ca_key, hashes.SHA256())
    return (
        house.put(f"{name}.pem", signed.public_bytes(Encoding.PEM)),
        house.put(f"{name}.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
    )


# --- problems ---------------------------------------------------------------------------------------------


def only(found: list[str]) -> str:
    assert len(found) == 1, found
    return found[0]


def refused(house: House, mode: ClientCertificates = OPTIONAL) -> str:
    """The one problem, which also keeps the context from being made."""
    found = only(house.problems(mode))
    with pytest.raises(CertificateError) as refusal:
        house.context(mode)
    assert str(refusal.value) == found
    return found


@pytest.mark.parametrize("mode", list(ClientCertificates))
def test_good_files_have_no_problem(house: House, mode: ClientCertificates) -> None:
    assert house.problems(mode) == []


def test_a_crl_that_is_not_there_is_no_problem_and_a_dangling_link_to_one_is(house: House) -> None:
    assert house.files.crl is not None
    assert not house.files.crl.exists()
    assert house.problems() == []
    house.files.crl.symlink_to(house.folder / "nowhere")
    assert "no such file" in refused(house)


def test_a_crl_that_cannot_be_looked_for_is_a_problem(house: House) -> None:
    assert "cannot be read" in refused(house.with_file("crl", house.own_ca / "crl.pem"))


@pytest.mark.parametrize("field", ["certificate", "private_key", "client_ca"])
def test_a_missing_file(house: House, field: str) -> None:
    missing = house.folder / "missing.pem"
    assert (
        refused(house.with_file(field, missing)) == f"{missing}: no such file; create it or correct the path"
    )


@pytest.mark.parametrize("field", ["certificate", "private_key", "client_ca", "crl"])
def test_a_folder_in_the_place_of_a_file(house: House, field: str) -> None:
    assert "cannot be read" in refused(house.with_file(field, house.folder))


@pytest.mark.parametrize("field", ["certificate", "private_key", "client_ca", "crl"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"-----BEGIN CERTIFICAT", b"plain text\n"])
def test_a_file_without_pem(house: House, field: str, content: bytes) -> None:
    path = house.put("bad.pem", content)
    found = refused(house.with_file(field, path))
    assert found.startswith(f"{path}: holds no ")


@pytest.mark.parametrize(
    ("field", "label"),
    [
        ("certificate", "CERTIFICATE"),
        ("private_key", "PRIVATE KEY"),
        ("client_ca", "CERTIFICATE"),
        ("crl", "X509 CRL"),
    ],
)
def test_a_damaged_file(house: House, field: str, label: str) -> None:
    path = house.put("bad.pem", f"-----BEGIN {label}-----\nMAMCAQE=\n-----END {label}-----\n".encode())
    assert refused(house.with_file(field, path)).startswith(f"{path}: ")


def test_a_file_that_is_too_large(house: House) -> None:
    path = house.folder / "large.pem"
    with path.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    assert "larger than" in refused(house.with_file("client_ca", path))


def test_a_key_that_does_not_match(house: House) -> None:
    house.authority.issue_client("alice", out=house.folder, now=NOW)
    found = refused(house.with_file("private_key", house.folder / "alice.key"))
    assert "alice.key: is not the key of" in found
    assert "server.pem" in found


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o610])
def test_a_key_that_others_can_use(house: House, mode: int) -> None:
    house.files.private_key.chmod(mode)
    found = refused(house)
    assert f"mode {mode:04o}" in found
    assert f"chmod 600 {house.files.private_key}" in found


def test_a_key_with_a_passphrase_is_refused_without_asking(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    key = load_pem_private_key(house.files.private_key.read_bytes(), None)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    found = refused(house.with_file("private_key", house.put("locked.key", secret)))
    assert "protected by a passphrase" in found
    assert "openssl pkey" in found
    assert capfd.readouterr() == ("", "")


def test_a_key_of_a_kind_that_cannot_sign(house: House) -> None:
    key = x25519.X25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    found = house.with_file("private_key", house.put("x25519.key", content)).problems()
    assert "a key of this type cannot be used" in only(found)


def test_an_expired_certificate(house: House) -> None:
    certificate, key = own_certificate(house, "old", start=NOW - 3 * DAY, end=NOW - 2 * DAY)
    assert "CN=old expired on " in refused(house.serving(certificate, key))


def test_a_certificate_that_is_not_yet_valid(house: House) -> None:
    certificate, key = own_certificate(house, "new", start=NOW + DAY, end=NOW + 2 * DAY)
    assert "CN=new is not valid before " in refused(house.serving(certificate, key))


def test_an_expired_intermediate_in_the_chain(house: House) -> None:
    inner, _ = own_certificate(house, "inner", ca=True, start=NOW - 3 * DAY, end=NOW - 2 * DAY)
    chain = house.put("chain.pem", house.files.certificate.read_bytes() + inner.read_bytes())
    assert "CN=inner expired on " in refused(house.with_file("certificate", chain))


def test_a_certificate_for_clients_cannot_serve(house: House) -> None:
    house.authority.issue_client("alice", out=house.folder, now=NOW)
    assert "serverAuth" in refused(house.serving(house.folder / "alice.pem", house.folder / "alice.key"))


@pytest.mark.parametrize("usage", [None, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
def test_a_certificate_for_any_use_can_serve(house: House, usage: x509.ObjectIdentifier | None) -> None:
    certificate, key = own_certificate(house, "any", usage=usage)
    assert house.serving(certificate, key).problems() == []


def test_a_client_ca_that_is_not_named(house: House) -> None:
    assert "client_ca: names no file" in refused(house.with_file("client_ca", None))
    assert house.with_file("client_ca", None).problems(NONE) == []


def test_a_client_ca_that_is_no_ca(house: House) -> None:
    assert "CN=localhost is not a CA's certificate" in refused(
        house.with_file("client_ca", house.files.certificate)
    )


def test_an_expired_client_ca(house: House) -> None:
    old = Authority.create(house.folder / "old", now=NOW - 3 * DAY, days=1, common_name="old CA")
    assert "CN=old CA expired on " in refused(house.with_file("client_ca", old.folder / "ca.pem"))


def test_a_client_ca_that_openssl_would_refuse_for_what_it_lacks(house: House) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bare CA")])
    bare = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(moment(NOW - DAY))
        .not_valid_after(moment(NOW + DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        .sign(key, hashes.SHA256())
    )
    found = refused(house.with_file("client_ca", house.put("bare.pem", bare.public_bytes(Encoding.PEM))))
    assert "basicConstraints marked critical, keyUsage keyCertSign, subjectKeyIdentifier" in found


def revoked_once(house: House, *, now: float = NOW) -> Path:
    return house.authority.revoke(1, now=now).crl


def test_a_crl_of_another_ca(house: House) -> None:
    other = Authority.create(house.folder / "other", now=NOW)  # of the same name
    other.revoke(1, now=NOW)
    found = house.with_file("crl", other.crl).problems()
    assert "(the one of that name is not signed by it)" in found[0]
    with pytest.raises(CertificateError, match="has no CRL of "):
        house.with_file("crl", other.crl).context()


def test_a_crl_of_the_cas_key_under_another_name(house: House) -> None:
    key = load_pem_private_key(house.own_ca.with_name("ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "formerly")]))
        .last_update(moment(NOW - DAY))
        .next_update(moment(NOW + DAY))
        .sign(key, hashes.SHA256())
    )
    found = house.with_file("crl", house.put("f.pem", crl.public_bytes(Encoding.PEM))).problems()
    assert "has no CRL of " in found[0]


def test_an_expired_crl(house: House) -> None:
    revoked_once(house, now=NOW - 31 * DAY)
    found = refused(house)
    assert "the CRL expired on " in found
    assert "ostiary certs revoke" in found
    revoked_once(house)
    assert house.problems() == []


def test_a_crl_from_the_future(house: House) -> None:
    revoked_once(house, now=NOW + DAY)
    assert "the CRL is not valid before " in refused(house)


def test_a_certificate_in_the_crls_file_is_not_trusted_but_refused(house: House) -> None:
    crl = revoked_once(house)
    crl.write_bytes(crl.read_bytes() + trustme.CA().cert_pem.bytes())
    assert "holds a certificate; keep only CRLs in it" in refused(house)


def test_a_client_ca_without_a_crl_beside_one_that_has_one(house: House) -> None:
    crl = revoked_once(house)
    other = Authority.create(house.folder / "other", now=NOW, common_name="other CA")
    both = house.own_ca.read_bytes() + (other.folder / "ca.pem").read_bytes()
    house = house.with_file("client_ca", house.put("both.pem", both))
    assert "has no CRL of CN=other CA" in refused(house)
    other.revoke(1, now=NOW)
    house = house.with_file("crl", house.put("both.crl", crl.read_bytes() + other.crl.read_bytes()))
    assert house.problems() == []


def test_the_root_of_an_intermediate_ca_needs_no_crl(house: House) -> None:
    root = trustme.CA()
    inner = root.create_child_ca()
    key = load_pem_private_key(inner.private_key_pem.bytes(), None)
    certificate = x509.load_pem_x509_certificate(inner.cert_pem.bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(moment(NOW - DAY))
        .next_update(moment(NOW + DAY))
        .sign(key, hashes.SHA256())
    )
    both = house.put("both.pem", root.cert_pem.bytes() + inner.cert_pem.bytes())
    house = house.with_file("client_ca", both)
    house = house.with_file("crl", house.put("inner.crl", crl.public_bytes(Encoding.PEM)))
    assert house.problems() == []


def test_what_openssl_alone_finds_is_a_problem_too(house: House) -> None:
    # Well-formed, but OpenSSL holds the curve to be too weak.
    key = ec.generate_private_key(ec.SECP192R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    weak = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(moment(NOW - DAY))
        .not_valid_after(moment(NOW + DAY))
        .sign(key, hashes.SHA256())
    )
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = house.put("weak.pem", weak.public_bytes(Encoding.PEM))
    assert "cannot be used" in refused(house.serving(certificate, house.put("weak.key", content)))


def test_every_problem_is_named_at_once(house: House) -> None:
    house.files.private_key.chmod(0o644)
    revoked_once(house, now=NOW - 31 * DAY)
    certificate, _ = own_certificate(house, "old", start=NOW - 3 * DAY, end=NOW - 2 * DAY)
    house = house.with_file("certificate", certificate)
    found = house.problems()
    assert len(found) == 4
    with pytest.raises(CertificateError) as refusal:
        house.context()
    assert str(refusal.value) == "\n".join(found)


def test_what_expires_later_is_a_problem_then(house: House) -> None:
    assert "CN=localhost expired on " in only(house.problems(now=NOW + 400 * DAY))
