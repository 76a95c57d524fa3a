"""A CRL that is not complete, or not understood, is refused as a whole: what it leaves out would count as good."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier

from certs.contexts import ClientCertificates, TlsFiles, problems
from certs.identity import CertificateError
from certs.pem import read_revocation_lists
from tests.test_certs_path import NOW, Made, Wanted, crl, make

ODD = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


def point(**limits: Any) -> x509.IssuingDistributionPoint:
    """An issuing distribution point that is limited by these alone."""
    nothing: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**{**nothing, **limits})


@pytest.fixture(scope="module")
def authority() -> Made:
    return make(Wanted("CA", ca=True))


def written(folder: Path, *lists: x509.CertificateRevocationList) -> Path:
    path = folder / "crl.pem"
    path.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in lists))
    return path


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([(x509.DeltaCRLIndicator(1), True)], "is a delta CRL"),
        ([(point(only_contains_user_certs=True), True)], "onlyContainsUserCerts"),
        ([(point(only_contains_ca_certs=True), True)], "onlyContainsCACerts"),
        ([(point(only_contains_attribute_certs=True), True)], "onlyContainsAttributeCerts"),
        ([(point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), True)], "onlySomeReasons"),
        ([(point(indirect_crl=True), True)], "indirectCRL"),
        (
            [(point(full_name=[x509.UniformResourceIdentifier("http://ca.example.org/1.crl")]), False)],
            "distributionPoint",
        ),
        ([(ODD, True)], "critical extension that is not understood here (1.3.6.1.4.1.99999.1"),
    ],
)
def test_a_crl_that_is_not_complete_is_refused(
    tmp_path: Path, authority: Made, more: Sequence[tuple[Any, bool]], told: str
) -> None:
    path = written(tmp_path, crl(authority), crl(authority, more=more))
    with pytest.raises(CertificateError) as refused:
        read_revocation_lists(path)
    assert told in str(refused.value)
    assert str(refused.value).startswith(f"{path}: the CRL of CN=CA ")
    assert str(refused.value).endswith("; have the CA write a complete CRL")


def test_an_entry_that_is_not_understood_spoils_its_crl(tmp_path: Path, authority: Made) -> None:
    gone = make(Wanted("gone"), authority)
    with pytest.raises(CertificateError, match="an entry with a critical extension"):
        read_revocation_lists(written(tmp_path, crl(authority, gone, of_entries=[(ODD, True)])))


def test_what_changes_nothing_is_let_through(tmp_path: Path, authority: Made) -> None:
    gone = make(Wanted("gone"), authority)
    number, reason = x509.CRLNumber(7), x509.CRLReason(x509.ReasonFlags.key_compromise)
    good = crl(
        authority, gone, more=[(number, True), (ODD, False)], of_entries=[(reason, True), (ODD, False)]
    )
    assert read_revocation_lists(written(tmp_path, good)) == (good,)


def test_the_gateway_does_not_start_with_one(tmp_path: Path, authority: Made) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    path = written(tmp_path, crl(authority, more=[(x509.DeltaCRLIndicator(1), True)]))
    files = TlsFiles(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem", path)
    found = problems(files, client_certificates=ClientCertificates.OPTIONAL, now=NOW)
    assert [line for line in found if "is a delta CRL" in line]
