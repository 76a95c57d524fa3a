"""Which names a CA may give, and which CA a name is from: the judgement beside real handshakes, on generated certificates."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import pem
from certs.authority import Authority, describe
from certs.identity import CertificateField, IdentityRule, UnusableNameError, named_by, parse_peer
from certs.name_constraints import outside
from certs.names import subtree
from certs.trust import Distrust, Trust
from tests.test_certs_path import CLIENT, SERVER, Made, Wanted, der, make

NOW = time.time_ns() / 1e9  # OpenSSL compares with the clock of the machine
DAY = 86400.0
IN_TIME = {"start": NOW - DAY, "end": NOW + DAY}
DNS, URI, EMAIL = x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name


def limited(permitted: Sequence[x509.GeneralName] = (), excluded: Sequence[x509.GeneralName] = ()) -> Made:
    """A CA with name constraints."""
    constraints = x509.NameConstraints(list(permitted) or None, list(excluded) or None)
    return make(Wanted("limited", ca=True, more=[(constraints, True)], **IN_TIME))


def client(name: str, names: Sequence[x509.GeneralName], by: Made) -> Made:
    more = [(x509.SubjectAlternativeName(names), False)] if names else []
    return make(Wanted(name, extended=CLIENT, more=more, **IN_TIME), by)


class Door:
    """A server's end of handshakes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = make(Wanted("server CA", ca=True, **IN_TIME))
        server = make(
            Wanted(
                "localhost",
                extended=SERVER,
                more=[(x509.SubjectAlternativeName([DNS("localhost")]), False)],
                **IN_TIME,
            ),
            self.ca,
        )
        self.server = self.files("server", server)

    def files(self, name: str, *made: Made) -> Path:
        path = self.folder / f"{name}.pem"
        text = b"".join(each.certificate.public_bytes(Encoding.PEM) for each in made)
        path.write_bytes(pem.encode_private_key(made[0].key) + text)
        return path

    def lets_in(self, authority: Made, *sent: Made) -> bool:
        """Whether OpenSSL, as the gateway sets it, ends a handshake well."""
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(self.server)
        ours.verify_mode = ssl.CERT_REQUIRED
        ours.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        ours.load_verify_locations(cadata=der(authority))
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        theirs.load_verify_locations(cadata=der(self.ca))
        theirs.load_cert_chain(self.files("client", *sent))
        to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = ours.wrap_bio(to_us, to_them, server_side=True)
        peer = theirs.wrap_bio(to_them, to_us, server_hostname="localhost")
        for _ in range(4):
            for side in (peer, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLError:
                    return False
        return True


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Door:
    return Door(tmp_path_factory.mktemp("door"))


def is_accepted(authority: Made, *sent: Made, handed_over: bool = False) -> bool:
    leaf, *others = map(der, sent)
    peer = parse_peer(leaf, others, handed_over=handed_over)
    return Trust([authority.certificate]).judge(peer, NOW).distrust is None


ORGANIZATION = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Partner")])
CASES = [
    ([DNS("example.org")], [], "alice", [DNS("a.example.org")], True),
    ([DNS("example.org")], [], "alice", [DNS("aexample.org")], False),
    ([DNS("example.org")], [], "alice", [URI("spiffe://other.org/a")], True),
    ([DNS("example.org")], [], "alice", [], True),
    ([DNS("example.org")], [], "a.other.org", [], False),
    ([], [DNS("example.org")], "alice", [DNS("A.EXAMPLE.org")], False),
    ([URI("example.org")], [], "alice", [URI("spiffe://example.org/alice")], True),
    ([URI("example.org")], [], "alice", [URI("spiffe://evil.org/alice")], False),
    ([URI("example.org")], [], "alice", [URI("spiffe://example.org.evil.org/alice")], False),
    ([URI(".example.org")], [], "alice", [URI("spiffe://a.example.org/alice")], True),
    ([URI(".example.org")], [], "alice", [URI("spiffe://example.org/alice")], False),
    ([EMAIL("example.org")], [], "alice", [EMAIL("alice@example.org")], True),
    ([EMAIL("example.org")], [], "alice", [EMAIL("alice@a.example.org")], False),
    ([EMAIL("alice@example.org")], [], "alice", [EMAIL("alice@EXAMPLE.org")], True),
    ([EMAIL("alice@example.org")], [], "alice", [EMAIL("bob@example.org")], False),
    (
        [x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))],
        [],
        "alice",
        [x509.IPAddress(ipaddress.ip_address("10.1.2.3"))],
        True,
    ),
    (
        [x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))],
        [],
        "alice",
        [x509.IPAddress(ipaddress.ip_address("11.1.2.3"))],
        False,
    ),
    ([x509.DirectoryName(ORGANIZATION)], [], "alice", [], False),
    ([], [x509.DirectoryName(ORGANIZATION)], "alice", [], True),
]


@pytest.mark.parametrize(("permitted", "excluded", "name", "names", "good"), CASES)
def test_the_judgement_says_what_the_handshake_says(
    door: Door,
    permitted: list[x509.GeneralName],
    excluded: list[x509.GeneralName],
    name: str,
    names: list[x509.GeneralName],
    *,
    good: bool,
) -> None:
    authority = limited(permitted, excluded)
    leaf = client(name, names, authority)
    assert (door.lets_in(authority, leaf), is_accepted(authority, leaf)) == (good, good)
    if not good:
        assert not is_accepted(authority, leaf, handed_over=True)


def test_a_constraint_holds_for_all_that_is_below_it(door: Door) -> None:
    authority = limited([URI("example.org")])
    inner = make(Wanted("inner", ca=True, **IN_TIME), authority)
    good, bad = (
        client("alice", [URI(f"spiffe://{host}/alice")], inner) for host in ("example.org", "evil.org")
    )
    assert door.lets_in(authority, good, inner)
    assert is_accepted(authority, good, inner)
    assert not door.lets_in(authority, bad, inner)
    assert not is_accepted(authority, bad, inner)


def test_a_common_name_that_could_be_a_dns_name_is_held_to_it_whatever_is_beside_it() -> None:
    authority = limited([DNS("example.org")])
    assert not is_accepted(authority, client("admin.other.org", [DNS("a.example.org")], authority))


LABEL = st.sampled_from(["a", "b", "example", "evil", "EXAMPLE"])
HOST = st.lists(LABEL, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "org"]))
TREE = st.one_of(
    st.builds(DNS, HOST),
    st.builds(DNS, HOST.map(lambda host: f".{host}")),
    st.builds(URI, HOST),
    st.builds(URI, HOST.map(lambda host: f".{host}")),
    st.builds(EMAIL, HOST),
    st.builds(EMAIL, HOST.map(lambda host: f"a@{host}")),
)
NAME = st.one_of(
    st.builds(DNS, HOST),
    st.builds(URI, HOST.map(lambda host: f"spiffe://{host}/alice")),
    st.builds(URI, HOST.map(lambda host: f"https://u@{host}:8443/alice")),
    st.builds(EMAIL, HOST.map(lambda host: f"a@{host}")),
)


@settings(max_examples=60, deadline=None)
@given(
    permitted=st.lists(TREE, max_size=2),
    excluded=st.lists(TREE, max_size=2),
    name=st.sampled_from(["alice", "a.example.org", "evil.org"]),
    names=st.lists(NAME, max_size=2),
)
def test_what_the_handshake_refuses_the_judgement_refuses(
    door: Door,
    permitted: list[x509.GeneralName],
    excluded: list[x509.GeneralName],
    name: str,
    names: list[x509.GeneralName],
) -> None:
    if not permitted and not excluded:
        return
    authority = limited(permitted, excluded)
    leaf = client(name, names, authority)
    assert door.lets_in(authority, leaf) >= is_accepted(authority, leaf)


def test_a_name_of_a_kind_that_cannot_be_compared_is_outside() -> None:
    number = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    assert outside(x509.NameConstraints([number], None), [number]) == number
    assert outside(x509.NameConstraints(None, [number]), [number]) == number
    odd = URI("spiffe://user@example.org/alice")
    assert outside(x509.NameConstraints([URI("example.org")], None), [odd]) == odd
    assert outside(x509.NameConstraints(None, [URI("example.org")]), [odd]) == odd


# --- two CAs, the same names ------------------------------------------------------------------------------

OURS, THEIRS = (make(Wanted(name, ca=True, **IN_TIME)) for name in ("ours", "theirs"))
TWIN = make(Wanted("ours", ca=True, **IN_TIME))
"""A CA of the same name as ours, with a key of its own."""
BELOW = {id(each): make(Wanted("inner", ca=True, **IN_TIME), each) for each in (OURS, THEIRS, TWIN)}
"""A CA under each, all of one name."""
FILES = {Path("ours.pem"): OURS, Path("theirs.pem"): THEIRS}
TRUST = Trust(
    [OURS.certificate, THEIRS.certificate],
    rule_authorities={file: frozenset({parse_peer(der(each)).fingerprint}) for file, each in FILES.items()},
)
CLIENT_NAMES = st.sampled_from(["alice", "bob", "root", "ours", "inner"])


@st.composite
def rules(draw: st.DrawFn) -> list[IdentityRule]:
    fields = st.sampled_from(
        [CertificateField.COMMON_NAME, CertificateField.SAN_DNS, CertificateField.SAN_URI]
    )
    return draw(
        st.lists(st.builds(IdentityRule, fields, ca=st.sampled_from(list(FILES))), min_size=1, max_size=4)
    )


@settings(max_examples=80, deadline=None)
@given(
    root=st.sampled_from([OURS, THEIRS, TWIN]),
    deep=st.booleans(),
    name=CLIENT_NAMES,
    dns=st.lists(CLIENT_NAMES, max_size=2),
    rules=rules(),
    along=st.lists(st.sampled_from([OURS, THEIRS, TWIN, *BELOW.values()]), max_size=4),
)
def test_no_rule_for_a_ca_names_a_client_of_another(
    root: Made, deep: bool, name: str, dns: list[str], rules: list[IdentityRule], along: list[Made]
) -> None:
    """Whatever certificate it is, whatever was sent along with it, and whatever the CAs are called."""
    signer = BELOW[id(root)] if deep else root
    leaf = client(name, [DNS(each) for each in dns], signer)
    peer = parse_peer(der(leaf), tuple(map(der, [*along, *([signer] if deep else [])])))
    judgement = TRUST.judge(peer, NOW)
    if root is TWIN:
        assert judgement.distrust is Distrust.UNTRUSTED
        return
    assert judgement.distrust is None
    named = named_by(peer, rules, lambda file: TRUST.is_under(judgement, file))
    mine = [rule for rule in rules if rule.ca is not None and FILES[rule.ca] is root]
    assert named == named_by(peer, [IdentityRule(rule.field) for rule in mine], lambda _: True) or (
        named is not None and named[1] in mine
    )
    if named is not None:
        assert named[1] in mine
        assert named[0] in {name, *dns}


def test_a_ca_that_is_not_trusted_lends_its_rule_to_nobody() -> None:
    """A rule's CA signed the key of an intermediate of ours, too; it is in the rule's file alone."""
    inner = make(Wanted("inner", ca=True, **IN_TIME), OURS)
    cross = x509.CertificateBuilder(
        THEIRS.certificate.subject,
        inner.certificate.subject,
        inner.certificate.public_key(),
        x509.random_serial_number(),
        dt.datetime.fromtimestamp(NOW - DAY, dt.UTC),
        dt.datetime.fromtimestamp(NOW + DAY, dt.UTC),
        list(inner.certificate.extensions)[:3],
    )
    crossed = Made(cross.sign(THEIRS.key, hashes.SHA256()), inner.key)
    leaf = client("alice", [], inner)
    file = Path("theirs.pem")
    rule_authorities = {file: frozenset({parse_peer(der(THEIRS)).fingerprint})}
    sent = parse_peer(der(leaf), [der(inner), der(crossed), der(THEIRS)])
    one = Trust([OURS.certificate], rule_authorities=rule_authorities)
    assert not one.is_under(one.judge(sent, NOW), file)
    both = Trust([OURS.certificate, THEIRS.certificate], rule_authorities=rule_authorities)
    assert both.is_under(both.judge(sent, NOW), file)


# --- the development CA -----------------------------------------------------------------------------------


def test_a_ca_that_is_held_to_names_issues_and_says_no_others(door: Door, tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", now=NOW, permitted=["URI:example.org", "DNS:localhost"])
    assert describe(tmp_path / "ca" / "ca.pem").name_constraints == ("DNS:localhost", "URI:example.org")[::-1]
    out = tmp_path / "clients"
    authority.issue_client("alice", sans=["spiffe://example.org/alice"], out=out, now=NOW)
    key, certificate = pem.read_private_key(out / "alice.key"), pem.read_certificates(out / "alice.pem")[0]
    ca = Made(pem.read_certificates(out / "ca.pem")[0], key)  # type: ignore[arg-type]
    assert door.lets_in(ca, Made(certificate, key))  # type: ignore[arg-type]
    before = sorted(tmp_path.rglob("*"))
    for wrong in ("spiffe://evil.org/bob", "bob.example.org"):
        with pytest.raises(UnusableNameError, match="outside of what the CA may name"):
            authority.issue_client("bob", sans=[wrong], out=out, now=NOW)
    with pytest.raises(UnusableNameError, match=r"DNS:gate\.example\.org is outside"):
        authority.issue_server(
            names=["gate.example.org"], certificate=out / "s.pem", private_key=out / "s.key", now=NOW
        )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "wrong", ["example.org", "DNS:", "DNS:*.example.org", "IP:10.0.0.1/8", "URI:https://a", "x:y"]
)
def test_what_no_ca_can_be_held_to_is_refused(wrong: str) -> None:
    with pytest.raises(UnusableNameError, match=r"write DNS:example\.org"):
        subtree(wrong)
