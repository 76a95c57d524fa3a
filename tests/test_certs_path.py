"""A certificate that no handshake has verified is judged by everything that a handshake would have asked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from certs.identity import parse_peer
from certs.trust import Distrust, Judgement, Trust

NOW = 1_800_000_000.0
DAY = 86400.0


def usage(**wanted: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
ODD = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


@dataclass
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass
class Wanted:
    """What to put into a certificate."""

    name: str
    ca: bool = False
    path_length: int | None = None
    start: float = NOW - DAY
    end: float = NOW + DAY
    key_usage: x509.KeyUsage | None = None
    extended: x509.ExtendedKeyUsage | None = None
    more: Sequence[tuple[Any, bool]] = field(default_factory=tuple)


def make(wanted: Wanted, by: Made | None = None, *, key: ec.EllipticCurvePrivateKey | None = None) -> Made:
    """``key``: what signs, in place of the issuer's."""
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted.name)])
    issuer_key = by.key if by is not None else own
    key_usage = wanted.key_usage or (
        usage(key_cert_sign=True, crl_sign=True) if wanted.ca else usage(digital_signature=True)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if by is None else by.certificate.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(wanted.start, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(wanted.end, dt.UTC))
        .add_extension(x509.BasicConstraints(ca=wanted.ca, path_length=wanted.path_length), critical=True)
        .add_extension(key_usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    )
    if by is not None:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    if wanted.extended is not None:
        builder = builder.add_extension(wanted.extended, critical=False)
    for extension, critical in wanted.more:
        builder = builder.add_extension(extension, critical=critical)
    return Made(builder.sign(key or issuer_key, hashes.SHA256()), own)


def crl(
    by: Made,
    *revoked: Made,
    last_update: float = NOW - DAY,
    next_update: float = NOW + DAY,
    more: Sequence[tuple[Any, bool]] = (),
    of_entries: Sequence[tuple[Any, bool]] = (),
) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject)
        .last_update(dt.datetime.fromtimestamp(last_update, dt.UTC))
        .next_update(dt.datetime.fromtimestamp(next_update, dt.UTC))
    )
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    for each in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(each.certificate.serial_number)
            .revocation_date(dt.datetime.fromtimestamp(last_update, dt.UTC))
        )
        for extension, critical in of_entries:
            entry = entry.add_extension(extension, critical=critical)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(by.key, hashes.SHA256())


def der(made: Made) -> bytes:
    return made.certificate.public_bytes(Encoding.DER)


def judge(trust: Trust, leaf: Made, *sent_with: Made, now: float = NOW) -> Judgement:
    return trust.judge(parse_peer(der(leaf), tuple(map(der, sent_with)), handed_over=True), now)


@pytest.fixture(scope="module")
def root() -> Made:
    return make(Wanted("root", ca=True, start=NOW - 10 * DAY, end=NOW + 10 * DAY))


@pytest.fixture(scope="module")
def trust(root: Made) -> Trust:
    return Trust([root.certificate])


def test_a_good_one_is_accepted_by_itself_and_with_what_leads_to_the_ca(root: Made, trust: Trust) -> None:
    plain = judge(trust, make(Wanted("alice", extended=CLIENT), root))
    assert (plain.distrust, plain.until) == (None, NOW + DAY)
    assert judge(trust, make(Wanted("no usages"), root)).distrust is None
    between = make(Wanted("between", ca=True, path_length=0), root)
    below = make(Wanted("bob", extended=CLIENT), between)
    assert judge(trust, below, between).distrust is None
    assert judge(trust, below).distrust is Distrust.UNTRUSTED
    assert judge(Trust([between.certificate]), below).distrust is None


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted("x", extended=SERVER),
        Wanted("x", key_usage=usage(key_encipherment=True)),
        Wanted("x", key_usage=usage(digital_signature=True, key_cert_sign=True)),
        Wanted("x", ca=True),
        Wanted("x", more=[(ODD, True)]),
    ],
    ids=["a server's", "a key that cannot sign", "a CA's usage", "a CA's", "a critical extension"],
)
def test_one_that_is_not_a_clients_is_refused(root: Made, trust: Trust, wanted: Wanted) -> None:
    assert judge(trust, make(wanted, root)).distrust is Distrust.UNTRUSTED


def test_only_the_cas_signature_counts(root: Made, trust: Trust) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert judge(trust, make(Wanted("forged"), root, key=stranger)).distrust is Distrust.UNTRUSTED
    assert judge(trust, make(Wanted("of itself"))).distrust is Distrust.UNTRUSTED
    another = make(Wanted("root", ca=True))
    assert judge(trust, make(Wanted("x"), another), another).distrust is Distrust.UNTRUSTED
    assert judge(Trust(()), make(Wanted("x"), root)).distrust is Distrust.UNTRUSTED


def test_nobody_is_trusted_before_or_after_the_time(root: Made, trust: Trust) -> None:
    early = make(Wanted("early", start=NOW + 60), root)
    assert judge(trust, early) == Judgement(Distrust.UNTRUSTED, NOW + 60)
    assert judge(trust, early, now=NOW + 61).distrust is None
    assert judge(trust, make(Wanted("late", end=NOW - 1), root)).distrust is Distrust.EXPIRED
    between = make(Wanted("between", ca=True, start=NOW + 60), root)
    below = make(Wanted("below"), between)
    assert judge(trust, below, between) == Judgement(Distrust.UNTRUSTED, NOW + 60)
    ended = make(Wanted("ended", ca=True, end=NOW - 1), root)
    assert judge(trust, make(Wanted("below"), ended), ended).distrust is Distrust.UNTRUSTED
    old = make(Wanted("old root", ca=True, end=NOW - 1))
    assert judge(Trust([old.certificate]), make(Wanted("x"), old)).distrust is Distrust.UNTRUSTED


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted("between"),
        Wanted("between", ca=True, key_usage=usage(digital_signature=True)),
        Wanted("between", ca=True, extended=SERVER),
        Wanted("between", ca=True, more=[(ODD, True)]),
        Wanted(
            "between",
            ca=True,
            more=[(x509.NameConstraints([x509.DNSName("example.org")], None), True)],
        ),
    ],
    ids=["no CA", "may not sign", "for servers", "a critical extension", "other names"],
)
def test_what_stands_between_must_be_a_ca_for_clients(root: Made, trust: Trust, wanted: Wanted) -> None:
    between = make(wanted, root)
    names = [(x509.SubjectAlternativeName([x509.DNSName("a.example.com")]), False)]
    leaf = make(Wanted("x", extended=CLIENT, more=names), between)
    assert judge(trust, leaf, between).distrust is Distrust.UNTRUSTED


def test_no_more_cas_than_the_path_may_have(root: Made, trust: Trust) -> None:
    first = make(Wanted("first", ca=True, path_length=0), root)
    second = make(Wanted("second", ca=True), first)
    assert judge(trust, make(Wanted("x"), second), second, first).distrust is Distrust.UNTRUSTED


def test_the_crl_counts_as_in_the_handshake(root: Made) -> None:
    revoked, good = make(Wanted("revoked"), root), make(Wanted("good"), root)
    trust = Trust([root.certificate], [crl(root, revoked)])
    assert judge(trust, revoked).distrust is Distrust.REVOKED
    assert judge(trust, good).distrust is None
    assert judge(trust, good, now=NOW + DAY - 1).distrust is None
    between = make(Wanted("between", ca=True), root)
    below = make(Wanted("below"), between)
    assert judge(trust, below, between).distrust is Distrust.UNTRUSTED  # its issuer has no CRL
    assert judge(Trust([root.certificate], [crl(root, next_update=NOW - 1)]), good).distrust is (
        Distrust.CRL_EXPIRED
    )


def test_rubbish_beside_it_is_no_error(root: Made, trust: Trust) -> None:
    peer = parse_peer(der(make(Wanted("alice"), root)), (b"\x30\x00",), handed_over=True)
    assert trust.judge(peer, NOW).distrust is Distrust.UNTRUSTED


def test_what_a_handshake_verified_is_judged_as_before(root: Made, trust: Trust) -> None:
    certificate = der(make(Wanted("x", extended=SERVER), root))
    assert trust.judge(parse_peer(certificate), NOW).distrust is None  # the handshake would have ended
    assert trust.judge(parse_peer(certificate, handed_over=True), NOW).distrust is Distrust.UNTRUSTED


def test_a_crl_counts_however_the_name_of_its_ca_is_encoded(root: Made) -> None:
    """The CRL's issuer is a PrintableString where the CA and the certificates under it have a UTF8String."""
    inner = make(Wanted("inner", ca=True), root)
    leaf = make(Wanted("alice", extended=CLIENT), inner)
    spelled = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "root", _ASN1Type.PrintableString, _validate=False)]
    )
    assert spelled.public_bytes() != root.certificate.subject.public_bytes()
    moment = dt.datetime.fromtimestamp(NOW - DAY, dt.UTC)
    entry = x509.RevokedCertificateBuilder(inner.certificate.serial_number, moment).build()
    listed = (
        x509.CertificateRevocationListBuilder(spelled, moment, moment + dt.timedelta(days=2), [], [entry])
        .sign(root.key, hashes.SHA256())
    )  # fmt: skip
    trusted = Trust([root.certificate], [listed, crl(inner)])
    peer = parse_peer(der(leaf), [der(inner)])
    assert trusted.judge(peer, NOW).distrust is Distrust.REVOKED
