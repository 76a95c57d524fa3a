"""A CA's work beside issuing: renewing, signing requests, writing the CRL; and a key with a passphrase."""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import CLIENT_DAYS, SERVER_DAYS, Authority
from certs.identity import CertificateError, UnusableNameError

NOW = 1_800_000_000.0
DAY = 86400
KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", now=NOW)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def request_in(
    path: Path,
    *common_names: str,
    names: Sequence[x509.GeneralName] = (),
    key: Any = KEY,
    ca: bool = False,
) -> Path:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common_names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


# --- renewing ---------------------------------------------------------------------------------------------


def test_renewing_keeps_names_and_uses_and_changes_key_and_serial(
    authority: Authority, tmp_path: Path
) -> None:
    old = authority.issue_client("alice", sans=["spiffe://example.org/alice"], days=7, out=tmp_path, now=NOW)
    before, key_before = read(old.path), (tmp_path / "alice.key").read_bytes()
    renewed = authority.renew(old.path, tmp_path / "alice.key", now=NOW + 6 * DAY)
    after = read(renewed.path)
    assert (renewed.common_name, renewed.sans) == (old.common_name, old.sans)
    assert after.serial_number != before.serial_number
    assert after.public_key() != before.public_key()
    assert renewed.not_after == NOW + 13 * DAY
    key = load_pem_private_key((tmp_path / "alice.key").read_bytes(), None)
    assert key.public_key() == after.public_key()
    assert (tmp_path / "alice.key").read_bytes() != key_before
    assert stat.S_IMODE((tmp_path / "alice.key").stat().st_mode) == 0o600
    usages = after.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert {each.serial for each in authority.list()} == {old.serial, renewed.serial}


def test_a_servers_certificate_stays_a_servers(authority: Authority, tmp_path: Path) -> None:
    files = tmp_path / "server.pem", tmp_path / "server.key"
    authority.issue_server(names=["localhost", "::1"], certificate=files[0], private_key=files[1], now=NOW)
    renewed = authority.renew(*files, days=2, now=NOW)
    assert renewed.sans == ("DNS:localhost", "IP:::1")
    assert renewed.not_after == NOW + 2 * DAY
    usages = read(files[0]).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_what_may_not_be_renewed_stays_as_it_is(authority: Authority, tmp_path: Path) -> None:
    alice = authority.issue_client("alice", out=tmp_path, now=NOW)
    authority.revoke(alice.path, now=NOW)
    other = Authority.create(tmp_path / "other", now=NOW).issue_client("bob", out=tmp_path / "b", now=NOW)
    for path, reason in [
        (alice.path, "was revoked"),
        (other.path, "was not issued by this CA"),
        (authority.folder / "ca.pem", "is a CA's certificate"),
    ]:
        content = path.read_bytes()
        with pytest.raises(CertificateError, match=reason):
            authority.renew(path, path.with_suffix(".key"), now=NOW)
        assert path.read_bytes() == content


def test_renewing_takes_nobody_elses_key(authority: Authority, tmp_path: Path) -> None:
    alice, bob = (authority.issue_client(name, out=tmp_path, now=NOW) for name in ("alice", "bob"))
    keys = [one.path.with_suffix(".key") for one in (alice, bob)]
    before = [key.read_bytes() for key in keys]
    with pytest.raises(CertificateError, match=r"bob\.key: is not the key of .*alice\.pem"):
        authority.renew(alice.path, keys[1], now=NOW)
    assert [key.read_bytes() for key in keys] == before


# --- signing requests -------------------------------------------------------------------------------------


def test_a_request_gets_its_names_and_nothing_else(authority: Authority, tmp_path: Path) -> None:
    asked = [x509.DNSName("bob.example.org"), x509.UniformResourceIdentifier("spiffe://example.org/bob")]
    request = request_in(tmp_path / "bob.csr", "bob", names=asked, ca=True)
    signed = authority.sign(request, server=False, out=tmp_path / "bob.pem", now=NOW)
    certificate = read(signed.path)
    assert signed.common_name == "bob"
    assert signed.sans == ("DNS:bob.example.org", "URI:spiffe://example.org/bob")
    assert signed.not_after == NOW + CLIENT_DAYS * DAY
    assert certificate.public_key() == KEY.public_key()
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    certificate.verify_directly_issued_by(read(authority.folder / "ca.pem"))
    assert [each.serial for each in authority.list()] == [signed.serial]
    with pytest.raises(CertificateError, match="exists already"):
        authority.sign(request, server=False, out=tmp_path / "bob.pem", now=NOW)


def test_a_servers_request_is_for_servers_and_needs_a_name(authority: Authority, tmp_path: Path) -> None:
    request = request_in(tmp_path / "a.csr", "gate", names=[x509.DNSName("gate.example.org")])
    signed = authority.sign(request, server=True, out=tmp_path / "gate.pem", now=NOW)
    usages = read(signed.path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert signed.not_after == NOW + SERVER_DAYS * DAY
    with pytest.raises(CertificateError, match="needs one"):
        authority.sign(request_in(tmp_path / "b.csr", "gate"), server=True, out=tmp_path / "x.pem", now=NOW)


@pytest.mark.parametrize(
    ("common_names", "names"),
    [
        ((), ()),
        (("alice", "bob"), ()),
        (("al\0ice",), ()),
        (("\u0430lice",), ()),
        (("alice",), (x509.DNSName("*.example.org"),)),
        (("alice",), (x509.UniformResourceIdentifier("not a uri"),)),
        (("alice",), (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),)),
    ],
)
def test_a_request_for_names_that_no_client_may_have_is_refused(
    authority: Authority, tmp_path: Path, common_names: tuple[str, ...], names: tuple[x509.GeneralName, ...]
) -> None:
    request = request_in(tmp_path / "a.csr", *common_names, names=names)
    with pytest.raises((CertificateError, UnusableNameError)):
        authority.sign(request, server=False, out=tmp_path / "a.pem", now=NOW)
    assert not (tmp_path / "a.pem").exists()
    assert authority.list() == []


def test_a_request_with_another_signature_or_a_weak_key_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    good = x509.load_pem_x509_csr(request_in(tmp_path / "a.csr", "alice").read_bytes())
    der = good.public_bytes(Encoding.DER).replace(b"alice", b"admin")
    forged = tmp_path / "forged.csr"
    forged.write_bytes(x509.load_der_x509_csr(der).public_bytes(Encoding.PEM))
    weak = request_in(tmp_path / "weak.csr", "alice", key=rsa.generate_private_key(65537, 1024))
    curve = request_in(tmp_path / "curve.csr", "alice", key=ec.generate_private_key(ec.SECP256K1()))
    broken = tmp_path / "broken.csr"
    broken.write_text("broken")
    for path, reason in [(forged, "own key"), (weak, "weak"), (curve, "weak"), (broken, "no readable PEM")]:
        with pytest.raises(CertificateError, match=reason):
            authority.sign(path, server=False, out=tmp_path / "a.pem", now=NOW)
    assert authority.list() == []


# --- the CRL ----------------------------------------------------------------------------------------------


def test_the_crl_is_renewed_with_what_is_on_it(authority: Authority) -> None:
    assert authority.renew_crl(now=NOW) == NOW + 30 * DAY
    assert list(x509.load_pem_x509_crl(authority.crl.read_bytes())) == []
    authority.revoke("abc", now=NOW)
    assert authority.renew_crl(now=NOW + 20 * DAY) == NOW + 50 * DAY
    crl = x509.load_pem_x509_crl(authority.crl.read_bytes())
    assert [(each.serial_number, each.revocation_date_utc.timestamp()) for each in crl] == [(0xABC, NOW)]
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3


# --- a passphrase -----------------------------------------------------------------------------------------


def protect(folder: Path, passphrase: bytes) -> None:
    key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    encryption = BestAvailableEncryption(passphrase)
    (folder / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def test_a_key_with_a_passphrase_asks_for_it(authority: Authority, tmp_path: Path) -> None:
    Authority.load(authority.folder, passphrase=lambda: pytest.fail("it was asked without need"))
    protect(authority.folder, b"open sesame")
    opened = Authority.load(authority.folder, passphrase=lambda: b"open sesame")
    assert opened.issue_client("alice", out=tmp_path, now=NOW).common_name == "alice"
    with pytest.raises(CertificateError, match="cannot be opened with that passphrase"):
        Authority.load(authority.folder, passphrase=lambda: b"wrong")
    with pytest.raises(CertificateError, match="protected by a passphrase"):
        Authority.load(authority.folder)


# --- the commands -----------------------------------------------------------------------------------------


def test_the_commands_sign_renew_and_write_the_crl(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home.folder
    home.configure('[[tls.client_id]]\nfrom = "san_dns"\n[[tls.client_id]]\nfrom = "common_name"\n')
    request_in(folder / "bob.csr", "bob")
    signed = home.json("certs", "sign", str(folder / "bob.csr"))["certificate"]
    shown = home.json("certs", "show", str(folder / "bob.pem"))["certificate"]
    assert (shown["serial"], shown["client_id"], shown["rule"]) == (signed["serial"], "bob", 2)
    alice = home.certificate("alice")
    home.cli("certs", "renew", str(alice / "alice.pem"))
    assert {each["common_name"] for each in home.json("certs", "list")["certificates"]} >= {"alice", "bob"}
    kept = folder / "certs" / "ca.key"
    kept.rename(folder / "ca.key")  # so that only the store has it
    home.cli("certs", "revoke", str(folder / "bob.pem"))
    (folder / "ca.key").rename(kept)
    refused = home.cli(
        "certs", "renew", str(folder / "bob.pem"), "--key", str(folder / "bob.key"), check=False
    )
    assert (refused.returncode, "was revoked here" in refused.stderr) == (1, True)
    home.cli("certs", "crl")
    crl = x509.load_pem_x509_crl((folder / "certs" / "crl.pem").read_bytes())
    assert crl.next_update_utc is not None
    assert crl.next_update_utc.timestamp() > time.time() + 29 * DAY
    entries = home.json("audit", "query", "--event", "admin_change")["entries"]
    assert [each["target"] for each in entries if each["method"] == "certs.issue"] == [
        "alice",
        "alice",
        "bob",
    ]


def test_the_passphrase_comes_from_a_private_file_or_a_variable(
    home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home.folder
    protect(folder / "certs", b"open sesame")
    request_in(folder / "bob.csr", "bob")
    words = ("certs", "sign", str(folder / "bob.csr"), "--out")
    refused = home.cli(*words, str(folder / "1.pem"), stdin="", check=False)
    assert refused.returncode == 1
    assert "OSTIARY_CA_PASSPHRASE_FILE" in refused.stderr
    secret = folder / "passphrase"
    secret.write_text("open sesame\n")
    secret.chmod(0o644)
    monkeypatch.setenv("OSTIARY_CA_PASSPHRASE_FILE", str(secret))
    assert "chmod 600" in home.cli(*words, str(folder / "1.pem"), check=False).stderr
    secret.chmod(0o600)
    home.cli(*words, str(folder / "1.pem"))
    monkeypatch.delenv("OSTIARY_CA_PASSPHRASE_FILE")
    monkeypatch.setenv("OSTIARY_CA_PASSPHRASE", "open sesame")
    home.cli(*words, str(folder / "2.pem"), "--ca", str(folder / "certs"))
    monkeypatch.setenv("OSTIARY_CA_PASSPHRASE", "wrong")
    failed = home.cli(*words, str(folder / "3.pem"), check=False)
    assert (failed.returncode, "wrong" in failed.stderr) == (1, False)
