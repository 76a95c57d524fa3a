"""What the development CA lists and revokes: every revocation is kept, and no CRL that is not its own is
touched."""

from __future__ import annotations

import datetime as dt
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import Authority, serial_of
from certs.identity import CertificateError

NOW = 1_800_000_000.25
DAY = 86400


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", now=NOW)


def crl_of(authority: Authority) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(authority.crl.read_bytes())


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_issued_is_listed_oldest_first(authority: Authority, tmp_path: Path) -> None:
    assert authority.list() == []
    bob = authority.issue_client("bob", sans=["b.example.org"], out=tmp_path, now=NOW + 5)
    alice = authority.issue_client("alice", out=tmp_path, now=NOW)
    server = authority.issue_server(
        names=["localhost"], certificate=tmp_path / "s.pem", private_key=tmp_path / "s.key", now=NOW + 9
    )
    listed = authority.list()
    assert [each.serial for each in listed] == [alice.serial, bob.serial, server.serial]
    assert [each.common_name for each in listed] == ["alice", "bob", "localhost"]
    assert listed[1].sans == ("DNS:b.example.org",)
    assert listed[1].path == authority.folder / "issued" / f"{bob.serial}.pem"
    assert {each.revoked_at for each in listed} == {None}


def test_a_revoked_certificate_is_on_the_crl_and_in_the_list(authority: Authority, tmp_path: Path) -> None:
    alice = authority.issue_client("alice", out=tmp_path, now=NOW)
    authority.issue_client("bob", out=tmp_path, now=NOW)
    assert not authority.crl.exists()
    revocation = authority.revoke(alice.path, now=NOW + 7)
    assert (revocation.serial, revocation.revoked_at) == (alice.serial, int(NOW) + 7)
    assert revocation.issued is not None
    assert revocation.issued.common_name == "alice"
    assert {each.common_name: each.revoked_at for each in authority.list()} == {
        "alice": int(NOW) + 7,
        "bob": None,
    }
    crl = crl_of(authority)
    issuer = x509.load_pem_x509_certificate((authority.folder / "ca.pem").read_bytes())
    assert crl.issuer == issuer.subject
    assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    assert crl.last_update_utc == dt.datetime.fromtimestamp(int(NOW) + 7 - 60, dt.UTC)
    assert crl.next_update_utc == dt.datetime.fromtimestamp(int(NOW) + 7 + 30 * DAY, dt.UTC)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 1


@pytest.mark.parametrize(
    "form", ["path", "text path", "number", "hexadecimal", "upper case", "with colons", "0x"]
)
def test_a_certificate_is_revoked_by_file_or_serial_number(
    authority: Authority, tmp_path: Path, form: str
) -> None:
    alice = authority.issue_client("alice", out=tmp_path, now=NOW)
    padded = alice.serial.zfill(40)
    forms: dict[str, Path | str | int] = {
        "path": alice.path,
        "text path": str(alice.path),
        "number": int(alice.serial, 16),
        "hexadecimal": alice.serial,
        "upper case": alice.serial.upper(),
        "with colons": ":".join(padded[i : i + 2] for i in range(0, 40, 2)),
        "0x": f"0x{alice.serial}",
    }
    named = forms[form]
    assert serial_of(named) == int(alice.serial, 16)
    assert authority.revoke(named, now=NOW).serial == alice.serial
    assert authority.list()[0].revoked_at == int(NOW)


def test_revocations_accumulate_and_keep_their_dates(authority: Authority, tmp_path: Path) -> None:
    serials = [authority.issue_client(name, out=tmp_path, now=NOW).serial for name in ("a", "b", "c")]
    for later, serial in enumerate(serials):
        authority.revoke(serial, now=NOW + later * DAY)
    again = Authority.load(authority.folder).revoke(serials[0], now=NOW + 9 * DAY)
    assert again.revoked_at == int(NOW)
    crl = crl_of(authority)
    dates = {f"{each.serial_number:x}": each.revocation_date_utc.timestamp() for each in crl}
    assert dates == {serial: int(NOW) + later * DAY for later, serial in enumerate(serials)}
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 4
    assert crl.next_update_utc == dt.datetime.fromtimestamp(int(NOW) + 39 * DAY, dt.UTC)


def test_revocations_at_once_are_all_kept(authority: Authority) -> None:
    with ThreadPoolExecutor(8) as threads:
        for done in [
            threads.submit(Authority.load(authority.folder).revoke, serial, now=NOW)
            for serial in range(1, 25)
        ]:
            done.result()
    assert sorted(each.serial_number for each in crl_of(authority)) == list(range(1, 25))


def test_a_serial_number_that_is_not_in_the_list_is_revoked_and_said_to_be_unknown(
    authority: Authority,
) -> None:
    assert authority.revoke("abc", now=NOW).issued is None
    assert [each.serial_number for each in crl_of(authority)] == [0xABC]


def test_a_certificate_of_another_ca_is_not_revoked(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", now=NOW)  # of the same name
    stranger = other.issue_client("alice", out=tmp_path, now=NOW)
    with pytest.raises(CertificateError, match="was not issued by this CA"):
        authority.revoke(stranger.path, now=NOW)
    assert not authority.crl.exists()


def test_a_ca_does_not_revoke_itself(authority: Authority) -> None:
    with pytest.raises(CertificateError, match="cannot revoke itself"):
        authority.revoke(authority.folder / "ca.pem", now=NOW)


@pytest.mark.parametrize(
    "named", ["", "alice", "no/such.pem", "0x", "-1", "f" * 40, "1" * 300, "\0", "0", "00:00"]
)
def test_what_is_neither_a_file_nor_a_serial_number_is_refused(authority: Authority, named: str) -> None:
    with pytest.raises(CertificateError, match="serial number"):
        authority.revoke(named, now=NOW)
    assert not authority.crl.exists()


def test_a_file_that_is_not_there_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="no such file"):
        authority.revoke(tmp_path / "abc", now=NOW)


def test_a_crl_that_is_anothers_or_damaged_is_not_replaced(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", now=NOW)
    other.revoke(1, now=NOW)
    authority.revoke(1, now=NOW)
    ours, theirs = authority.crl.read_bytes(), other.crl.read_bytes()
    for content, reason in [
        (theirs, "holds 0 CRLs that are signed by this CA"),
        (b"", "holds no PEM CRL"),
        (ours + ours, "holds 2 CRLs that are signed by this CA"),
    ]:
        authority.crl.write_bytes(content)
        with pytest.raises(CertificateError, match=reason):
            authority.revoke(1, now=NOW)
        assert authority.crl.read_bytes() == content


def test_other_cas_crls_in_the_file_stay(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", now=NOW, common_name="other CA")
    theirs = other.revoke(7, now=NOW).crl.read_bytes()
    authority.revoke(1, now=NOW)
    authority.crl.write_bytes(theirs + authority.crl.read_bytes())
    authority.revoke(2, now=NOW)
    content = authority.crl.read_bytes()
    assert content.endswith(theirs)
    assert len(x509.load_pem_x509_crl(content.removesuffix(theirs))) == 2


def test_a_link_to_no_crl_is_not_replaced(authority: Authority, tmp_path: Path) -> None:
    authority.crl.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CertificateError, match="no such file"):
        authority.revoke(1, now=NOW)


def test_a_crl_that_cannot_be_written_is_as_before(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.revoke(1, now=NOW)
    before = everything_in(authority.folder)

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(CertificateError, match="Input/output error"):
            authority.revoke(2, now=NOW)
    assert everything_in(authority.folder) == before
