"""From a certificate to a client_id: what is read, what names a client, and what never does."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import ssl
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import assume, example, given
from hypothesis import strategies as st

from certs.identity import (
    DEFAULT_RULES,
    CertificateError,
    CertificateField,
    IdentityRule,
    PeerIdentity,
    certificate_id,
    parse_peer,
)

KEY = ec.generate_private_key(ec.SECP256R1())
NOT_BEFORE = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
NOT_AFTER = dt.datetime(2027, 1, 2, 3, 4, 5, tzinfo=dt.UTC)

SPIFFE = IdentityRule(
    CertificateField.SAN_URI, re.compile(r"spiffe://example\.org/(?P<client_id>[a-z0-9-]+)")
)
DNS = IdentityRule(CertificateField.SAN_DNS)
COMMON_NAME = IdentityRule(CertificateField.COMMON_NAME)

RFC_8705_APPENDIX_A = """-----BEGIN CERTIFICATE-----
MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx
ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ
/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID
SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV
bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=
-----END CERTIFICATE-----
"""


def certificate(
    *common_names: str,
    organization: str | None = None,
    subject: x509.Name | None = None,
    names: Sequence[x509.GeneralName] = (),
    extra: x509.ExtensionType | None = None,
    serial: int = 0x1234,
) -> bytes:
    """A self-signed certificate as DER."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common_names]
    if organization is not None:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes) if subject is None else subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")]))
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def peer(
    *common_names: str,
    subject: str = "",
    uris: Sequence[str] = (),
    dns: Sequence[str] = (),
    email: Sequence[str] = (),
) -> PeerIdentity:
    return PeerIdentity(
        fingerprint="x",
        serial=1,
        subject=subject,
        issuer="CN=a CA",
        common_names=common_names,
        san_uri=tuple(uris),
        san_dns=tuple(dns),
        san_email=tuple(email),
        not_before=0.0,
        not_after=1.0,
    )


# --- what is read -----------------------------------------------------------------------------------------


def test_a_certificate_is_read_field_by_field() -> None:
    read = parse_peer(
        certificate(
            "alice",
            organization="Example, Inc.",
            names=[
                x509.UniformResourceIdentifier("spiffe://example.org/alice"),
                x509.DNSName("alice.example.org"),
                x509.DNSName("a.example.org"),
                x509.RFC822Name("alice@example.org"),
            ],
        )
    )
    assert read.serial == 0x1234
    assert read.subject == "CN=alice,O=Example\\, Inc."
    assert read.issuer == "CN=a CA"
    assert read.common_names == ("alice",)
    assert read.san_uri == ("spiffe://example.org/alice",)
    assert read.san_dns == ("alice.example.org", "a.example.org")
    assert read.san_email == ("alice@example.org",)
    assert (read.not_before, read.not_after) == (NOT_BEFORE.timestamp(), NOT_AFTER.timestamp())


def test_the_fingerprint_is_that_of_rfc_8705_appendix_a() -> None:
    read = parse_peer(ssl.PEM_cert_to_DER_cert(RFC_8705_APPENDIX_A))
    assert read.fingerprint == "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
    assert certificate_id(read, DEFAULT_RULES) == "mtls"


def test_a_certificate_without_names_names_nobody() -> None:
    read = parse_peer(certificate())
    assert (read.subject, read.common_names, read.san_uri, read.san_dns, read.san_email) == (
        "",
        (),
        (),
        (),
        (),
    )
    every_field = [IdentityRule(field) for field in CertificateField]
    assert certificate_id(read, every_field) is None


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x00",
        b"not a certificate",
        ssl.DER_cert_to_PEM_cert(certificate("alice")).encode(),
        certificate("alice") + b"\x00",
        certificate("alice")[:-1],
    ],
    ids=["empty", "empty sequence", "text", "PEM", "trailing byte", "cut"],
)
def test_what_is_not_exactly_one_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(CertificateError, match="issue a new one"):
        parse_peer(der)


SAN_OID = x509.SubjectAlternativeName.oid
ANOTHER_OID = x509.ObjectIdentifier("2.5.29.99")


def test_a_repeated_extension_is_refused() -> None:
    # An extension of the same value under a neighbouring number, which is then made the same.
    value = x509.SubjectAlternativeName([x509.DNSName("b.example.org")]).public_bytes()
    der = certificate(
        "alice",
        names=[x509.DNSName("a.example.org")],
        extra=x509.UnrecognizedExtension(ANOTHER_OID, value),
    )
    assert parse_peer(der).san_dns == ("a.example.org",)
    twice = der.replace(b"\x06\x03\x55\x1d\x63", b"\x06\x03\x55\x1d\x11")
    with pytest.raises(CertificateError, match=r"[Dd]uplicate"):
        parse_peer(twice)


@pytest.mark.parametrize(
    "value", [b"", b"\x30", b"\x30\x03\x01\x02\x03", b"\x30\x04\x82\x02\xc3\x28", b"\x30\x03\x82\x02a"]
)
def test_a_malformed_extension_is_refused(value: bytes) -> None:
    with pytest.raises(CertificateError):
        parse_peer(certificate("alice", extra=x509.UnrecognizedExtension(SAN_OID, value)))


def test_a_malformed_extension_that_no_rule_looks_at_is_refused() -> None:
    malformed = x509.UnrecognizedExtension(x509.BasicConstraints.oid, b"\x30\x01")
    with pytest.raises(CertificateError):
        parse_peer(certificate("alice", extra=malformed))


WHOLE = certificate(
    "alice",
    names=[x509.DNSName("a.example.org"), x509.UniformResourceIdentifier("spiffe://example.org/alice")],
)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_certificate_is_read_or_refused_and_nothing_else(damage: list[tuple[int, int]]) -> None:
    der = bytearray(WHOLE)
    for position, value in damage:
        der[position] = value
    with contextlib.suppress(CertificateError):
        parse_peer(bytes(der))


# --- what names a client ----------------------------------------------------------------------------------


def test_the_first_rule_that_matches_names_the_client() -> None:
    both = peer("alice", uris=["spiffe://example.org/bob"])
    assert certificate_id(both, [SPIFFE, COMMON_NAME]) == "bob"
    assert certificate_id(both, [COMMON_NAME, SPIFFE]) == "alice"


def test_a_rule_without_a_value_or_without_a_match_leaves_it_to_the_next() -> None:
    assert certificate_id(peer("alice"), [SPIFFE, DNS, COMMON_NAME]) == "alice"
    assert (
        certificate_id(peer("alice", uris=["spiffe://elsewhere.org/bob"]), [SPIFFE, COMMON_NAME]) == "alice"
    )


def test_no_rules_name_nobody() -> None:
    assert certificate_id(peer("alice"), []) is None


@pytest.mark.parametrize(
    ("field", "named"),
    [
        (CertificateField.SAN_URI, "urn:example:alice"),
        (CertificateField.SAN_DNS, "alice.example.org"),
        (CertificateField.SAN_EMAIL, "alice@example.org"),
        (CertificateField.COMMON_NAME, "alice"),
        (CertificateField.SUBJECT, "CN=alice"),
    ],
)
def test_every_field_can_name_a_client(field: CertificateField, named: str) -> None:
    whole = peer(
        "alice",
        subject="CN=alice",
        uris=["urn:example:alice"],
        dns=["alice.example.org"],
        email=["alice@example.org"],
    )
    assert certificate_id(whole, [IdentityRule(field)]) == named


def test_a_match_is_of_the_whole_value() -> None:
    rule = IdentityRule(CertificateField.COMMON_NAME, re.compile("alice"))
    assert certificate_id(peer("alice"), [rule]) == "alice"
    for longer in ("alice2", "malice", "alice\n", "alice.example.org"):
        assert certificate_id(peer(longer), [rule]) is None


def test_an_alternative_that_is_shorter_does_not_hide_the_whole_match() -> None:
    rule = IdentityRule(CertificateField.COMMON_NAME, re.compile("(?P<client_id>al|alice)"))
    assert certificate_id(peer("alice"), [rule]) == "alice"


def test_a_pattern_without_the_group_yields_the_whole_value() -> None:
    rule = IdentityRule(CertificateField.SAN_DNS, re.compile(r"(\w+)\.example\.org"))
    assert certificate_id(peer(dns=["alice.example.org"]), [rule]) == "alice.example.org"


@pytest.mark.parametrize("pattern", ["user-(?P<client_id>[a-z]*)", "user-(?:(?P<client_id>[a-z])|)"])
def test_an_empty_result_ends_the_search(pattern: str) -> None:
    rule = IdentityRule(CertificateField.SAN_DNS, re.compile(pattern))
    assert certificate_id(peer("alice", dns=["user-"]), [rule, COMMON_NAME]) is None


def test_two_matching_values_end_the_search() -> None:
    two = peer("alice", uris=["spiffe://example.org/alice", "spiffe://example.org/bob"])
    assert certificate_id(two, [SPIFFE, COMMON_NAME]) is None
    assert certificate_id(peer("alice", "bob", dns=["c"]), [COMMON_NAME, DNS]) is None
    assert certificate_id(peer("alice", "alice"), DEFAULT_RULES) is None


def test_a_second_value_that_does_not_match_is_no_ambiguity() -> None:
    two = peer(dns=["alice.example.org", "alice.example.com"])
    rule = IdentityRule(CertificateField.SAN_DNS, re.compile(r"(?P<client_id>[a-z]+)\.example\.org"))
    assert certificate_id(two, [rule]) == "alice"


@pytest.mark.parametrize("other", ["https://example.org/alice", "spiffe://other.org/alice", "urn:x"])
def test_a_spiffe_id_is_the_only_uri(other: str) -> None:
    assert certificate_id(peer(uris=["spiffe://example.org/alice", other]), [SPIFFE]) is None
    assert certificate_id(peer(uris=["spiffe://example.org/alice", other]), [SPIFFE, COMMON_NAME]) is None


WEB = IdentityRule(CertificateField.SAN_URI, re.compile(r"https://example\.org/(?P<client_id>[a-z0-9-]+)"))


@pytest.mark.parametrize(
    "uris",
    [
        ["spiffe://evil.org/bob", "https://example.org/alice"],
        ["https://example.org/alice", "SPIFFE://evil.org/bob"],
        ["spiffe://other.org/zz", "spiffe://other.org/yy"],
        ["spiffe://other.org/zz", "urn:x"],
    ],
)
def test_beside_a_spiffe_id_no_other_uri_names_anybody_and_no_later_rule_does(uris: list[str]) -> None:
    read = parse_peer(certificate("alice", names=[x509.UniformResourceIdentifier(each) for each in uris]))
    assert certificate_id(read, [SPIFFE, WEB, COMMON_NAME]) is None
    assert certificate_id(peer(uris=["urn:x", "https://example.org/alice"]), [SPIFFE, WEB]) == "alice"


def test_of_several_common_names_none_is_taken() -> None:
    rule = IdentityRule(CertificateField.COMMON_NAME, re.compile("alice"))
    assert certificate_id(peer("alice", "bob"), [rule]) is None
    assert certificate_id(peer("x", "bob", dns=["c"]), [rule, DNS]) is None


REFUSED = [
    "al\0ice",
    "alice\0",
    "al\x01ice",
    "alice\n",
    "alice\x7f",
    "alice\x85",
    "al ice",
    " alice",
    "alice\t",
    "al\u00a0ice",
    "al\u200bice",
    "\u202ealice",
    "\ufeffalice",
    "\u0430lice",  # Cyrillic a
    "al\u0131ce",
    "\uff41lice",  # full width
    "alicé",
    'al"ice',
    "al\\ice",
    "al,ice",
    "*",
    "*.example.org",
    "",
    "a" * 129,
]


@pytest.mark.parametrize("value", REFUSED)
def test_a_value_that_no_client_may_have_ends_the_search(value: str) -> None:
    uri, email = IdentityRule(CertificateField.SAN_URI), IdentityRule(CertificateField.SAN_EMAIL)
    assert certificate_id(peer(value, dns=["fallback"]), [COMMON_NAME, DNS]) is None
    assert certificate_id(peer("fallback", uris=[value]), [uri, COMMON_NAME]) is None
    assert certificate_id(peer("fallback", dns=[value]), [DNS, COMMON_NAME]) is None
    assert certificate_id(peer("fallback", email=[value]), [email, COMMON_NAME]) is None
    if value:  # an empty subject is none
        subject = IdentityRule(CertificateField.SUBJECT)
        assert certificate_id(peer("fallback", subject=value), [subject, COMMON_NAME]) is None


def test_a_group_does_not_hide_what_is_wrong_around_it() -> None:
    anything = IdentityRule(CertificateField.COMMON_NAME, re.compile(r"(?s:.*)/(?P<client_id>[a-z]+)(?s:.*)"))
    assert certificate_id(peer("x/alice"), [anything]) == "alice"
    for around in ("x\0/alice", "x/alice\0", "x\n/alice", "\u202ex/alice", "*/alice"):
        assert certificate_id(peer(around), [anything]) is None


def test_a_value_with_a_control_character_spoils_its_field_also_where_it_does_not_match() -> None:
    two = peer("alice", uris=["spiffe://example.org/alice", "spiffe://example.org/bob\0"])
    assert certificate_id(two, [SPIFFE, COMMON_NAME]) is None


def test_case_folding_lets_no_look_alike_through() -> None:
    rule = IdentityRule(CertificateField.COMMON_NAME, re.compile("(?i)[a-z]+"))
    assert certificate_id(peer("frank"), [rule]) == "frank"
    assert certificate_id(peer("fran\u212a"), [rule]) is None  # the Kelvin sign folds to k


def test_a_nul_in_the_subject_of_a_real_certificate_names_nobody() -> None:
    read = parse_peer(certificate("admin\0.example.org", organization="Example"))
    subject = IdentityRule(CertificateField.SUBJECT, re.compile(r"CN=(?P<client_id>[a-z]+).*"))
    assert "\\00" in read.subject
    assert certificate_id(read, [subject]) is None
    assert certificate_id(read, DEFAULT_RULES) is None


def test_a_comma_in_an_attribute_does_not_become_another_attribute() -> None:
    read = parse_peer(certificate("mallory,O=Example", organization="Other"))
    subject = IdentityRule(
        CertificateField.SUBJECT, re.compile(r"CN=(?P<client_id>[^,\\]+),O=Example(?:,.*)?")
    )
    assert certificate_id(read, [subject]) is None


PARTNER = IdentityRule(
    CertificateField.SUBJECT, re.compile(r"(?:.+,)?CN=(?P<client_id>[a-z0-9-]+),(?:.+,)?O=Partner(?:,.+)?")
)
Attribute = tuple[x509.ObjectIdentifier, str]
O, OU, CN = NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME  # noqa: E741


def of_subject(*parts: Sequence[Attribute]) -> PeerIdentity:
    """What is read of a certificate with this subject; a part with several attributes is a multi-valued RDN."""
    rdns = [x509.RelativeDistinguishedName([x509.NameAttribute(*each) for each in part]) for part in parts]
    return parse_peer(certificate(subject=x509.Name(rdns)))


@pytest.mark.parametrize(
    "parts",
    [
        [[(O, "Partner")], [(O, "x,CN=alice")], [(CN, "mallory")]],
        [[(O, "Partner")], [(OU, "x\\,CN=alice")], [(CN, "mallory")]],
        [[(O, "Partner")], [(CN, "alice")], [(CN, "mallory")]],
        [[(O, "Partner")], [(CN, "alice")], [(CN, "alice")]],
        [[(O, "Partner")], [(CN, "alice"), (OU, "x")]],
        [[(O, "Partner")], [(OU, "CN=mallory")], [(CN, "alice")]],
        [[(O, "Partner")], [(CN, "alice")], [(OU, "a+b")]],
        [[(O, "Partner")], [(CN, "alice")], [(OU, "#61")]],
        [[(O, "Partner")], [(CN, "alice")], [(OU, " x")]],
        [[(O, "Partner")], [(CN, "alice")], [(OU, "x\0y")]],
    ],
)
def test_a_subject_that_can_be_read_in_two_ways_names_nobody(parts: list[list[Attribute]]) -> None:
    assert certificate_id(of_subject([(O, "Partner")], [(CN, "alice")]), [PARTNER]) == "alice"
    assert certificate_id(of_subject([(O, "Partner")], [(OU, "a b")], [(CN, "alice")]), [PARTNER]) == "alice"
    assert certificate_id(of_subject(*parts), [PARTNER, DNS]) is None


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([CN, O, OU, NameOID.DOMAIN_COMPONENT]),
                st.one_of(
                    st.sampled_from(
                        ["alice", "bob", "Partner", "x,CN=alice", "CN=alice", "x\\,CN=alice,O=Partner"]
                    ),
                    st.text(alphabet='ab=,+"\\<>;# CNO', min_size=1, max_size=12),
                ),
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda attribute: attribute[0],
        ),
        max_size=4,
    )
)
@example([[(O, "Partner")], [(O, "x,CN=alice")], [(CN, "mallory")]])
def test_who_is_named_by_the_subject_has_that_as_the_one_common_name(parts: list[list[Attribute]]) -> None:
    """Whatever the CA signed, and however loosely the pattern asks."""
    loose = IdentityRule(CertificateField.SUBJECT, re.compile(r".*CN=(?P<client_id>[a-z]+),.*O=Partner.*"))
    for rule in (PARTNER, loose):
        named = certificate_id(of_subject(*parts), [rule])
        if named is not None:
            assert [value for part in parts for kind, value in part if kind == CN] == [named]
            assert any(attribute == (O, "Partner") for part in parts for attribute in part)


# --- for any value ----------------------------------------------------------------------------------------

ALPHABET = frozenset(map(chr, range(0x21, 0x7F))) - frozenset('"\\,*')
values = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=sorted(ALPHABET), min_size=1, max_size=130),
    st.from_regex(SPIFFE.match or "", fullmatch=True),
    st.sampled_from(REFUSED),
)
peers = st.builds(
    PeerIdentity,
    fingerprint=st.just("x"),
    serial=st.just(1),
    subject=values,
    issuer=st.just("CN=a CA"),
    common_names=st.lists(values, max_size=3).map(tuple),
    san_uri=st.lists(values, max_size=3).map(tuple),
    san_dns=st.lists(values, max_size=3).map(tuple),
    san_email=st.lists(values, max_size=3).map(tuple),
    not_before=st.just(0.0),
    not_after=st.just(1.0),
)
rules = st.lists(
    st.builds(
        IdentityRule,
        st.sampled_from(CertificateField),
        st.sampled_from([None, SPIFFE.match, re.compile("[a-z]+"), re.compile("(?P<client_id>.)(?s:.*)")]),
    ),
    max_size=5,
)
control = st.characters(categories=["Cc", "Cf", "Zl", "Zp"])


def of(peer: PeerIdentity, field: CertificateField) -> tuple[str, ...]:
    if field is CertificateField.SUBJECT:
        return (peer.subject,) if peer.subject else ()
    if field is CertificateField.COMMON_NAME:
        return peer.common_names
    return tuple(getattr(peer, field.value))


def matching(peer: PeerIdentity, rule: IdentityRule) -> list[str]:
    return [each for each in of(peer, rule.field) if rule.match is None or rule.match.fullmatch(each)]


@given(peers, rules)
def test_a_client_id_is_always_in_the_alphabet(peer: PeerIdentity, rules: list[IdentityRule]) -> None:
    client_id = certificate_id(peer, rules)
    assert client_id is None or (0 < len(client_id) <= 128 and ALPHABET.issuperset(client_id))


@given(peers, rules)
def test_who_is_named_is_named_by_the_one_value_of_the_first_rule_that_matches(
    peer: PeerIdentity, rules: list[IdentityRule]
) -> None:
    client_id = certificate_id(peer, rules)
    first = next((rule for rule in rules if matching(peer, rule)), None)
    if first is None:
        assert client_id is None
        return
    found = matching(peer, first)
    if len(found) > 1:
        assert client_id is None
    if client_id is not None:
        assert client_id in found[0]
        assert found[0].isprintable()


@given(peers, rules)
def test_more_rules_never_change_who_is_named(peer: PeerIdentity, rules: list[IdentityRule]) -> None:
    client_id = certificate_id(peer, rules)
    if client_id is not None:
        assert certificate_id(peer, [*rules, *DEFAULT_RULES]) == client_id


@given(st.lists(st.text(min_size=1), min_size=2, max_size=4), peers, rules)
def test_several_common_names_name_nobody_whatever_follows(
    common_names: list[str], other: PeerIdentity, rules: list[IdentityRule]
) -> None:
    ambiguous = peer(*common_names, uris=other.san_uri, dns=other.san_dns, subject=other.subject)
    assert certificate_id(ambiguous, [*DEFAULT_RULES, *rules]) is None


@given(st.text(alphabet="abcdefghij-0123456789", min_size=1, max_size=20), st.data())
def test_a_control_character_anywhere_names_nobody(name: str, data: st.DataObject) -> None:
    assert certificate_id(peer(name), DEFAULT_RULES) == name
    position = data.draw(st.integers(0, len(name)))
    spoilt = name[:position] + data.draw(control) + name[position:]
    assert certificate_id(peer(spoilt), DEFAULT_RULES) is None
    assert certificate_id(peer(uris=[f"spiffe://example.org/{spoilt}"]), [SPIFFE]) is None


@given(st.text(alphabet="abcdefghij", min_size=1, max_size=20), st.data())
def test_a_look_alike_names_nobody(name: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(name) - 1))
    other = data.draw(st.characters(min_codepoint=0x80))
    look_alike = name[:position] + other + name[position + 1 :]
    assert certificate_id(peer(look_alike), DEFAULT_RULES) is None


@example("alice")
@example("admin\0")
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64))
def test_a_generated_certificate_names_exactly_its_common_name_or_nobody(name: str) -> None:
    assume(len(name.encode()) <= 64)
    read = parse_peer(certificate(name))
    assert read.common_names == (name,)
    named = certificate_id(read, DEFAULT_RULES)
    assert named == (name if ALPHABET.issuperset(name) else None)


@given(st.lists(st.from_regex(r"spiffe://(example|other)\.org/[a-c]", fullmatch=True), max_size=4))
def test_a_generated_certificate_is_named_by_its_one_matching_uri(uris: list[str]) -> None:
    read = parse_peer(certificate("fallback", names=[x509.UniformResourceIdentifier(each) for each in uris]))
    own = [each for each in uris if each.startswith("spiffe://example.org/")]
    alone = own[0][-1] if len(own) == len(uris) == 1 else None
    expected = "fallback" if not own and len(uris) < 2 else alone
    assert certificate_id(read, [SPIFFE, COMMON_NAME]) == expected
