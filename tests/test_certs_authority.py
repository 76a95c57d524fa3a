"""The development CA: what it issues, where it writes, what it refuses, and what it revokes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import CLIENT_DAYS, Authority, describe
from certs.identity import DEFAULT_RULES, CertificateError, certificate_id

NOW = 1_800_000_000.25
DAY = 86400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority.create(folder, now=NOW)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def crl_of(authority: Authority) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(authority.crl.read_bytes())


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the CA -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
def test_a_new_ca_is_two_files_and_its_key_is_private(folder: Path) -> None:
    Authority.create(folder, now=NOW)
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"]
    assert (mode(folder), mode(folder / "ca.key"), mode(folder / "ca.pem")) == (0o700, 0o600, 0o644)


def test_a_new_ca_may_sign_certificates_and_crls_and_nothing_else(authority: Authority, folder: Path) -> None:
    described = describe(folder / "ca.pem")
    assert described.is_ca
    assert described.usages == ("keyCertSign", "cRLSign")
    assert described.subject == described.issuer == "CN=Ostiary development CA"
    assert described.not_before == int(NOW) - 60
    assert described.not_after == int(NOW) + 3650 * DAY
    constraints = certificate(folder / "ca.pem").extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.path_length == 0


@pytest.mark.parametrize("name", ["ca.key", "ca.pem"])
def test_a_ca_is_never_overwritten(folder: Path, name: str) -> None:
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(CertificateError, match=f"{name}: exists already; remove it"):
        Authority.create(folder, now=NOW)
    assert everything_in(folder) == {folder / name: b"mine"}


def test_a_key_is_not_written_through_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "ca.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CertificateError, match="exists already"):
        Authority.create(folder, now=NOW)
    assert not (tmp_path / "elsewhere").exists()


def test_a_ca_is_loaded_as_it_was_made(authority: Authority, folder: Path, tmp_path: Path) -> None:
    issued = Authority.load(folder).issue_client("alice", out=tmp_path / "out", now=NOW)
    certificate(issued.path).verify_directly_issued_by(certificate(folder / "ca.pem"))
    assert authority.list() == Authority.load(folder).list()


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_a_ca_may_be_brought_along(folder: Path, tmp_path: Path, key_type: trustme.KeyType) -> None:
    ca = trustme.CA(key_type=key_type)
    pem, key = tmp_path / "their.pem", tmp_path / "their.key"
    ca.cert_pem.write_to_path(pem)
    ca.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    folder.mkdir()
    brought = Authority.load(folder, certificate=pem, private_key=key, crl=tmp_path / "their.crl")
    issued = brought.issue_client("alice", out=tmp_path / "out", now=NOW)
    certificate(issued.path).verify_directly_issued_by(certificate(pem))
    assert (tmp_path / "out" / "ca.pem").read_bytes() == pem.read_bytes()
    brought.revoke(issued.path, now=NOW)
    assert (tmp_path / "their.crl").exists()
    assert [each.revoked_at for each in brought.list()] == [int(NOW)]


def test_a_ca_that_is_not_there(folder: Path) -> None:
    with pytest.raises(CertificateError, match=r"ca\.pem: no such file; create it or correct the path"):
        Authority.load(folder)


def test_a_ca_whose_key_is_not_there(authority: Authority, folder: Path) -> None:
    (folder / "ca.key").unlink()
    with pytest.raises(
        CertificateError,
        match=r"ca\.key: the key of .*ca\.pem is not there; issue .* where the CA's key is kept",
    ):
        Authority.load(folder)


def test_a_ca_with_anothers_key(authority: Authority, folder: Path, tmp_path: Path) -> None:
    Authority.create(tmp_path / "other", now=NOW)
    with pytest.raises(CertificateError, match="is not the key of"):
        Authority.load(folder, private_key=tmp_path / "other" / "ca.key")


def test_a_ca_whose_key_others_can_read(authority: Authority, folder: Path) -> None:
    (folder / "ca.key").chmod(0o640)
    with pytest.raises(CertificateError, match="chmod 600"):
        Authority.load(folder)


def test_a_certificate_that_is_no_cas(authority: Authority, folder: Path, tmp_path: Path) -> None:
    authority.issue_client("alice", out=tmp_path / "out", now=NOW)
    out = tmp_path / "out"
    with pytest.raises(CertificateError, match="is not a CA's certificate"):
        Authority.load(folder, certificate=out / "alice.pem", private_key=out / "alice.key")


# --- clients ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
def test_a_client_gets_three_files_and_its_key_is_private(authority: Authority, tmp_path: Path) -> None:
    out = tmp_path / "some" / "where"
    issued = authority.issue_client("alice", out=out, now=NOW)
    assert sorted(path.name for path in out.iterdir()) == ["alice.key", "alice.pem", "ca.pem"]
    assert (mode(out), mode(out / "alice.key")) == (0o700, 0o600)
    assert issued.path == out / "alice.pem"
    assert (out / "ca.pem").read_bytes() == (authority.folder / "ca.pem").read_bytes()
    key = load_pem_private_key((out / "alice.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == certificate(issued.path).public_key()


def test_a_clients_certificate_is_for_clients_alone(authority: Authority, tmp_path: Path) -> None:
    path = authority.issue_client("alice", out=tmp_path, now=NOW).path
    extensions = certificate(path).extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert extensions.get_extension_for_class(x509.KeyUsage).critical
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert describe(path).usages == ("digitalSignature", "clientAuth")
    own = certificate(authority.folder / "ca.pem").extensions
    identifier = own.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == identifier


def test_a_client_is_known_by_its_common_name(authority: Authority, tmp_path: Path) -> None:
    described = describe(authority.issue_client("alice", out=tmp_path, now=NOW).path)
    assert certificate_id(described.peer, DEFAULT_RULES) == "alice"
    assert described.not_before == int(NOW) - 60
    assert described.not_after == int(NOW) + CLIENT_DAYS * DAY


def test_alternative_names_are_told_apart(authority: Authority, tmp_path: Path) -> None:
    sans = [
        "spiffe://example.org/alice",
        "https://example.org/~alice?x=%41",
        "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
        "alice@example.org",
        "192.0.2.1",
        "2001:db8::1",
        "::1",
        "alice.example.org",
        "localhost",
    ]
    peer = describe(authority.issue_client("alice", sans=sans, out=tmp_path, now=NOW).path)
    assert peer.sans == (
        "URI:spiffe://example.org/alice",
        "URI:https://example.org/~alice?x=%41",
        "URI:urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
        "email:alice@example.org",
        "IP:192.0.2.1",
        "IP:2001:db8::1",
        "IP:::1",
        "DNS:alice.example.org",
        "DNS:localhost",
    )
    assert peer.peer.san_uri == tuple(sans[:3])
    assert peer.peer.san_email == ("alice@example.org",)
    assert peer.peer.san_dns == ("alice.example.org", "localhost")


@pytest.mark.parametrize(
    "san",
    [
        "",
        " ",
        "a b",
        "a\0b",
        "-a.example.org",
        "a..b",
        "example.org.",
        "*.example.org",
        "a" * 64 + ".org",
        "a." * 127 + "toolong",
        "exämple.org",
        "localhost:8443",
        "spiffe:",
        "spiffe://",
        "https:///path",
        "https://exa mple.org",
        "https://exämple.org",
        "https://[::1",
        "urn:a\nb",
        "@example.org",
        "alice@",
        "alice@b@c",
        "al ice@example.org",
        "alicé@example.org",
        "*@example.org",
        "256.0.0.1.",
        "10.0.0.0/8",
    ],
)
def test_an_alternative_name_that_is_none_is_refused_and_nothing_is_written(
    authority: Authority, tmp_path: Path, san: str
) -> None:
    before = everything_in(tmp_path)
    with pytest.raises(CertificateError, match="write one"):
        authority.issue_client("alice", sans=["ok.example.org", san], out=tmp_path / "out", now=NOW)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "é",
        "a\0",
        "a\n",
        "a/b",
        "../a",
        "a\\b",
        ".a",
        "-a",
        " a",
        "a ",
        "ca",
        "CA",
        "crl",
        "a\x7f",
    ],
)
def test_a_name_that_can_be_no_common_name_or_no_file_is_refused(
    authority: Authority, tmp_path: Path, name: str
) -> None:
    before = everything_in(tmp_path)
    with pytest.raises(CertificateError, match="cannot be"):
        authority.issue_client(name, out=tmp_path / "out", now=NOW)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("name", ["a", "a" * 64, "Alice Example", "user@example.org", "a.b-c_d+e"])
def test_other_names_are_taken_as_they_are(authority: Authority, tmp_path: Path, name: str) -> None:
    issued = authority.issue_client(name, out=tmp_path / "out", now=NOW)
    assert describe(issued.path).peer.common_names == (name,)


@pytest.mark.parametrize("name", ["alice.pem", "alice.key"])
def test_a_clients_files_are_never_overwritten(authority: Authority, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(CertificateError, match=f"{name}: exists already"):
        authority.issue_client("alice", out=out, now=NOW)
    assert everything_in(out) == {out / name: b"mine"}
    assert authority.list() == []


def test_a_folder_may_hold_several_clients_of_one_ca_but_not_of_two(
    authority: Authority, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    authority.issue_client("alice", out=out, now=NOW)
    authority.issue_client("bob", out=out, now=NOW)
    other = Authority.create(tmp_path / "other", now=NOW)
    with pytest.raises(CertificateError, match=r"ca\.pem: is another CA's certificate"):
        other.issue_client("carol", out=out, now=NOW)
    assert sorted(path.name for path in out.glob("*.key")) == ["alice.key", "bob.key"]


def test_a_client_may_be_issued_into_the_cas_own_folder(authority: Authority, folder: Path) -> None:
    authority.issue_client("alice", out=folder, now=NOW)
    assert (folder / "alice.key").exists()


def test_a_certificate_never_outlives_its_ca(tmp_path: Path) -> None:
    short = Authority.create(tmp_path / "ca", now=NOW, days=10)
    issued = short.issue_client("alice", days=90, out=tmp_path, now=NOW + 5 * DAY)
    assert issued.not_after == int(NOW) + 10 * DAY
    with pytest.raises(CertificateError, match="expired on 2027-01-25; make a new CA"):
        short.issue_client("bob", out=tmp_path, now=NOW + 10 * DAY)


@pytest.mark.parametrize("days", [0, -1, 36501, 10**9])
def test_a_term_that_is_none_is_refused(authority: Authority, tmp_path: Path, days: int) -> None:
    with pytest.raises(CertificateError, match=f"cannot be valid for {days} days"):
        authority.issue_client("alice", days=days, out=tmp_path, now=NOW)
    with pytest.raises(CertificateError, match=f"cannot be valid for {days} days"):
        Authority.create(tmp_path / "new", days=days, now=NOW)


def test_serial_numbers_are_positive_random_and_fit_in_20_octets(
    authority: Authority, tmp_path: Path
) -> None:
    serials = {
        describe(authority.issue_client(f"c{i}", out=tmp_path, now=NOW).path).peer.serial for i in range(20)
    }
    assert len(serials) == 20
    assert all(0 < serial < 1 << 159 for serial in serials)
    assert max(serial.bit_length() for serial in serials) > 128


# --- servers ----------------------------------------------------------------------------------------------


def test_a_servers_certificate_is_for_servers_alone(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue_server(
        names=["localhost", "127.0.0.1", "::1", "*.example.org"],
        certificate=tmp_path / "s.pem",
        private_key=tmp_path / "s.key",
        now=NOW,
    )
    assert issued.sans == ("DNS:localhost", "IP:127.0.0.1", "IP:::1", "DNS:*.example.org")
    assert issued.subject == "CN=localhost"
    assert describe(tmp_path / "s.pem").usages == ("digitalSignature", "serverAuth")
    assert mode(tmp_path / "s.key") == 0o600


def test_a_servers_long_name_is_in_the_alternative_names(authority: Authority, tmp_path: Path) -> None:
    name = "a" * 60 + ".example.org"
    issued = authority.issue_server(
        names=[name], certificate=tmp_path / "s.pem", private_key=tmp_path / "s.key", now=NOW
    )
    assert issued.sans == (f"DNS:{name}",)


@pytest.mark.parametrize(
    "names", [[], [""], ["a@example.org"], ["https://a.org"], ["*"], ["*.org"], ["a.*.org"]]
)
def test_a_server_without_a_usable_name_is_refused(
    authority: Authority, tmp_path: Path, names: list[str]
) -> None:
    with pytest.raises(CertificateError):
        authority.issue_server(
            names=names, certificate=tmp_path / "s.pem", private_key=tmp_path / "s.key", now=NOW
        )
    assert not list(tmp_path.glob("s.*"))


def test_a_servers_files_are_overwritten_only_where_that_is_asked_for(
    authority: Authority, tmp_path: Path
) -> None:
    pem, key = tmp_path / "s.pem", tmp_path / "s.key"
    first = authority.issue_server(names=["localhost"], certificate=pem, private_key=key, now=NOW)
    key.chmod(0o644)
    before = everything_in(tmp_path)
    with pytest.raises(CertificateError, match="exists already"):
        authority.issue_server(names=["localhost"], certificate=pem, private_key=key, now=NOW)
    assert everything_in(tmp_path) == before
    second = authority.issue_server(
        names=["localhost"], certificate=pem, private_key=key, now=NOW, overwrite=True
    )
    assert describe(pem).serial == second.serial != first.serial
    assert load_pem_private_key(key.read_bytes(), None).public_key() == certificate(pem).public_key()
    assert mode(key) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca", "s.key", "s.pem"]


@pytest.mark.parametrize("there", [True, False])
def test_where_the_second_file_cannot_be_swapped_the_first_is_as_before(
    authority: Authority, tmp_path: Path, there: bool
) -> None:
    key, blocked = tmp_path / "s.key", tmp_path / "s.pem"
    (blocked / "a folder").mkdir(parents=True)
    if there:
        key.write_text("mine")
    with pytest.raises(CertificateError, match=r"s\.pem: cannot be written .* nothing was changed"):
        authority.issue_server(names=["a"], certificate=blocked, private_key=key, now=NOW, overwrite=True)
    assert key.exists() is there
    if there:
        assert key.read_text() == "mine"
    assert not list(tmp_path.glob(".s.*"))


def test_a_folder_that_is_not_there_is_an_error_that_says_so(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="choose another place"):
        authority.issue_server(
            names=["a"], certificate=tmp_path / "s.pem", private_key=tmp_path / "no" / "s.key", now=NOW
        )
    assert not (tmp_path / "s.pem").exists()


def test_a_disk_that_fails_leaves_nothing_behind(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    fsync = os.fsync
    before = everything_in(tmp_path)
    for failing in range(8):  # a file and its folder, four times

        def fails(descriptor: int, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            if calls > failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            with pytest.raises(CertificateError, match="No space left on device"):
                authority.issue_client("alice", out=tmp_path / "out", now=NOW)
        assert everything_in(tmp_path) == before
    authority.issue_client("alice", out=tmp_path / "out", now=NOW)


# --- describe ---------------------------------------------------------------------------------------------


def test_a_certificate_of_another_make_is_described(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("a@example.org", "*.example.org", "10.0.0.0/8", common_name="a")
    path = tmp_path / "leaf.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(path)
    described = describe(path)
    assert described.sans == ("email:a@example.org", "DNS:*.example.org", "IP:10.0.0.0/8")
    assert not described.is_ca
    assert {"clientAuth", "serverAuth", "digitalSignature"} <= set(described.usages)
    assert bytes.fromhex(described.fingerprint_sha256) == certificate(path).fingerprint(hashes.SHA256())
    assert described.fingerprint == described.peer.fingerprint
    assert int(described.serial, 16) == described.peer.serial


def test_what_is_no_certificate_is_not_described(tmp_path: Path, authority: Authority) -> None:
    for path in (tmp_path / "none.pem", tmp_path, authority.folder / "ca.key"):
        with pytest.raises(CertificateError, match=str(path)):
            describe(path)


def test_no_key_is_in_any_repr_or_error(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue_client("alice", out=tmp_path, now=NOW)
    key = (tmp_path / "alice.key").read_text().splitlines()[1]
    assert key not in repr((authority, vars(authority), issued))
    (tmp_path / "bad.key").write_text(
        (tmp_path / "alice.key").read_text().replace("BEGIN PRIVATE", "BEGIN X")
    )
    with pytest.raises(CertificateError) as refusal:
        Authority.load(authority.folder, private_key=tmp_path / "bad.key")
    assert key not in str(refusal.value)
