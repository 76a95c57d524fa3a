"""What the commands say of a certificate: by which rule it names whom, and whether the gateway accepts it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from certs import pem
from gateway.cli.naming import Names, Naming, why_refused
from tests.test_certs_path import CLIENT, SERVER, Made, Wanted, crl, make

DAY = 86400.0
NOW = time.time_ns() / 1e9
IN_TIME = {"start": NOW - DAY, "end": NOW + DAY}
RULES = """
[[tls.client_id]]
from = "common_name"
ca = "partner.pem"
match = "partner-(?P<client_id>[a-z]+)"
tenant = "partner"
roles = ["reader"]

[[tls.client_id]]
from = "common_name"
ca = "own.pem"
"""


def text(*made: Made) -> bytes:
    return b"".join(each.certificate.public_bytes(Encoding.PEM) for each in made)


class Gate:
    """A configuration with two client CAs, and a rule for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own, self.partner = (make(Wanted(name, ca=True, **IN_TIME)) for name in ("own", "partner"))
        (folder / "own.pem").write_bytes(text(self.own))
        (folder / "partner.pem").write_bytes(text(self.partner))
        (folder / "both.pem").write_bytes(text(self.own, self.partner))
        self.config = folder / "ostiary.toml"
        server = make(Wanted("localhost", extended=SERVER, **IN_TIME), self.own)
        (folder / "server.pem").write_bytes(text(server))
        key = folder / "server.key"
        key.write_bytes(pem.encode_private_key(server.key))
        key.chmod(0o600)
        self.config.write_text(
            '[tls]\ncertificate = "server.pem"\nprivate_key = "server.key"\nclient_ca = "both.pem"\ncrl = "crl.pem"\n'
            f'{RULES}[roles]\nreader = ["files:read"]\n'
        )

    def file(self, *made: Made) -> Path:
        path = self.folder / "shown.pem"
        path.write_bytes(text(*made))
        return path

    def naming(self, *made: Made) -> Naming:
        return Names.load(self.config).of(self.file(*made))

    def refused(self, *made: Made) -> str | None:
        found = why_refused(self.config, self.file(*made))
        return None if found is None else found[0]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def client(name: str, by: Made, **times: float) -> Made:
    return make(Wanted(name, extended=CLIENT, **{**IN_TIME, **times}), by)


def test_the_rule_of_its_ca_names_the_client(gate: Gate) -> None:
    assert gate.naming(client("alice", gate.own)) == Naming("alice", 2)
    assert gate.naming(client("partner-bob", gate.partner)) == Naming("bob", 1, ("reader",), "partner")
    assert gate.naming(client("alice", gate.partner)) == Naming(None)
    assert gate.naming(client("alice", make(Wanted("own", ca=True, **IN_TIME)))) == Naming(None)


def test_intermediates_in_the_file_lead_to_the_ca(gate: Gate) -> None:
    inner = make(Wanted("inner", ca=True, **IN_TIME), gate.partner)
    leaf = client("partner-bob", inner)
    assert gate.naming(leaf, inner).certificate_id == "bob"
    assert gate.refused(leaf, inner) is None
    assert gate.naming(leaf) == Naming(None)
    assert gate.refused(leaf) == "untrusted"


def test_what_is_not_accepted_is_said_and_whose_it_is(gate: Gate) -> None:
    expired = client("alice", gate.own, start=NOW - DAY, end=NOW - 60)
    assert (gate.naming(expired).certificate_id, gate.refused(expired)) == ("alice", "expired")
    early = client("alice", gate.own, start=NOW + DAY / 2)
    assert gate.refused(early) == "not_yet_valid"
    revoked, good = client("alice", gate.own), client("alice", gate.own)
    lists = [
        crl(by, *gone, last_update=NOW - DAY, next_update=NOW + DAY)
        for by, gone in ((gate.own, [revoked]), (gate.partner, []))
    ]
    (gate.folder / "crl.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in lists))
    assert (gate.naming(revoked).certificate_id, gate.refused(revoked)) == ("alice", "revoked")
    assert gate.refused(good) is None
    server = make(Wanted("alice", extended=SERVER, **IN_TIME), gate.own)
    assert (gate.naming(server), gate.refused(server)) == (Naming(None), "not_for_clients")


# --- the commands, beside a running gateway and without one ------------------------------------------------


def rewritten(path: Path) -> bytes:
    """The same certificate with its ECDSA signature written as (r, n - s), which verifies as well, in DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # P-256
    r, s = decode_dss_signature(certificate.signature)
    signature = encode_dss_signature(r, order - s)
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\x00" + signature
    body = certificate.tbs_certificate_bytes + bytes.fromhex("300a06082a8648ce3d040302") + bits
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def test_list_and_show_know_what_the_store_refuses(home: Any, caller: Any) -> None:
    home.configure('[[tls.client_id]]\nfrom = "common_name"\nroles = ["admin"]\n')
    alice = home.client("alice")
    file = str(alice / "alice.pem")
    # By hand, as where the CA's key is elsewhere: the CRL stays without it.
    (home.folder / "certs" / "ca.key").rename(home.folder / "ca.key")
    home.cli("certs", "revoke", file)
    home.cli("certs", "revoke", "abc123")
    for beside_a_server in (False, True):
        if beside_a_server:
            served = home.serve()
        listed = home.json("certs", "list")
        found = {each["common_name"]: each["revoked_by"] for each in listed["certificates"]}
        assert found == {"localhost": [], "alice": ["store"]}
        assert [each["serial"] for each in listed["also_revoked"]] == ["abc123"]
        shown = home.json("certs", "show", file)["certificate"]
        assert (shown["client"], shown["rule"], shown["roles"]) == ("alice", 1, ["admin"])
        assert (shown["accepted"], shown["refused_because"]) == (False, "revoked")
    printed = home.cli("certs", "list").stdout
    assert "revoked (store)" in printed
    assert "Also refused: serial number abc123 of any CA" in printed
    printed = home.cli("certs", "show", file).stdout
    for line in ("by rule", "[[tls.client_id]] #1", "roles by rule", "no: it was revoked here on"):
        assert line in printed
    # Whoever holds a revoked certificate can write it in another way: another fingerprint, and refused all the same.
    before = (alice / "alice.pem").read_bytes()
    der = rewritten(alice / "alice.pem")
    again = x509.load_der_x509_certificate(der)
    again.verify_directly_issued_by(x509.load_pem_x509_certificate((alice / "ca.pem").read_bytes()))
    (alice / "alice.pem").write_bytes(again.public_bytes(serialization.Encoding.PEM))
    assert (alice / "alice.pem").read_bytes() != before
    answer = caller(served, alice).ask("GET", "/auth/token")
    assert (answer.status, answer.json["reason"]) == (401, "certificate_revoked")


def test_a_ca_is_not_revoked_by_its_serial_number(home: Any) -> None:
    """What it issued would stay good, and whoever asked would think otherwise."""
    above = make(Wanted("above", ca=True, **IN_TIME))
    inner = make(Wanted("inner", ca=True, **IN_TIME), above)
    file = home.folder / "certs" / "ca.pem"
    with file.open("ab") as cas:
        cas.write(text(above, inner))
    for ca in (*pem.read_certificates(file), inner.certificate):
        done = home.cli("certs", "revoke", f"{ca.serial_number:x}", check=False)
        assert (done.returncode, "is a CA: take it out of [tls] client_ca" in done.stderr) == (1, True)
    assert home.json("certs", "list")["also_revoked"] == []
    assert not (home.folder / "certs" / "crl.pem").exists()
    # One that is not there: whose number it is cannot be known, and the answer promises no more than is true.
    said = home.cli("certs", "revoke", "abc123").stdout
    assert "Clients' certificates with serial number abc123 are refused" in said
    assert "What a CA with that number issued is not." in said
    # A file that cannot be read holds up no revocation.
    file.write_text("damaged")
    assert "are refused" in home.cli("certs", "revoke", "abc124").stdout
