"""What a verified client certificate must still fit, after its handshake and for as long as its connection lives.

A handshake verifies once. CAs are removed, CRLs are replaced and certificates expire while connections stay open, so the
same is asked again of the certificate itself, by values that were read and checked when the files were:

- A way leads from it, and from those that it was sent with, to a CA of ``client_ca``, by signatures, path lengths and name
  constraints. Any CA that is named is trusted by itself, as in the handshake.
- Nothing on that way has expired or is on the CRL of its issuer.
- No CRL is past its nextUpdate, unless an expired one is only to be warned of.

A certificate that was handed over by a TLS terminator went through no handshake here: ``certs.path`` checks the rest of it.

``Trust`` is a value: new files make a new one, which is swapped in whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs import pem
from certs.contexts import ExpiredCrl, TlsFiles, sorted_out
from certs.description import KEY_CERT_SIGN, is_ca, is_issued_by, key_usages
from certs.extensions import extension
from certs.identity import MALFORMED, PeerIdentity, thumbprint
from certs.name_constraints import permits
from certs.path import Paths

_LONGEST_CHAIN: Final = 8
"""Certificates from a client's to a CA; what comes along beyond that is not looked at."""
_MOST_STEPS: Final = 64
"""From certificates to their issuers, on all ways together."""
_NEVER: Final = float("inf")


class Distrust(StrEnum):
    """Why a certificate is not accepted any more."""

    REVOKED = "revoked"
    EXPIRED = "expired"
    UNTRUSTED = "untrusted"
    CRL_EXPIRED = "crl_expired"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a Trust makes of one certificate."""

    distrust: Distrust | None
    """None: it is accepted."""
    until: float
    """Seconds since the epoch: from then on it must be judged anew."""
    authorities: frozenset[str] = frozenset()
    """The ``x5t#S256`` of every CA on a way from it to one that is trusted."""


@dataclass(frozen=True, slots=True)
class _RevocationList:
    serials: frozenset[int]
    next_update: float


class Trust:
    """The client CAs and CRLs of one state of the files."""

    def __init__(
        self,
        authorities: Iterable[x509.Certificate],
        revocation_lists: Iterable[x509.CertificateRevocationList] = (),
        *,
        rule_authorities: Mapping[Path, frozenset[str]] | None = None,
        expired_crl: ExpiredCrl = ExpiredCrl.REFUSE,
    ) -> None:
        """``rule_authorities``: the ``x5t#S256`` of the CAs in each file that an identity rule names."""
        self._authorities = tuple(authorities)
        self._anchors = frozenset(map(_thumbprint, self._authorities))
        self._paths = Paths(self._authorities)
        self._lists: dict[x509.Name, _RevocationList] = {}
        for crl in revocation_lists:
            self._add(crl)
        self._rule_authorities = dict(rule_authorities or {})
        self._expired_crl = expired_crl

    @classmethod
    def load(cls, files: TlsFiles, *, expired_crl: ExpiredCrl) -> Self:
        """What the files say now; blocks. Raises CertificateError. They were looked at by ``contexts.problems``."""
        authorities = () if files.client_ca is None else pem.read_certificates(files.client_ca)
        with_crl = files.client_ca is not None and files.crl is not None and pem.is_there(files.crl)
        lists = pem.read_revocation_lists(files.crl) if with_crl and files.crl is not None else ()
        return cls(
            authorities,
            sorted_out(lists, authorities)[0],
            rule_authorities={
                path: frozenset(map(_thumbprint, pem.read_certificates(path))) for path in files.rule_cas
            },
            expired_crl=expired_crl,
        )

    @classmethod
    def load_authorities(cls, files: TlsFiles) -> Self:
        """As ``load``, without CRLs."""
        return cls.load(replace(files, crl=None), expired_crl=ExpiredCrl.REFUSE)

    def _add(self, crl: x509.CertificateRevocationList) -> None:
        """Two CRLs of one name count together: what either lists is revoked, and the first to end ends both."""
        before = self._lists.get(crl.issuer, _RevocationList(frozenset(), _NEVER))
        end = _NEVER if crl.next_update_utc is None else crl.next_update_utc.timestamp()
        self._lists[crl.issuer] = _RevocationList(
            before.serials | {entry.serial_number for entry in crl}, min(before.next_update, end)
        )

    @property
    def checks_revocation(self) -> bool:
        """Whether there is a CRL."""
        return bool(self._lists)

    @property
    def next_update(self) -> float:
        """When the first CRL is past its time, in seconds since the epoch; infinity: there is none."""
        return min((each.next_update for each in self._lists.values()), default=_NEVER)

    def must_change(self, now: float, since: float) -> bool:
        """Whether a CRL that is only warned of has expired between ``since`` and ``now``.

        The handshake would go on refusing everybody by it: a new context leaves it to ``judge``.
        """
        return self._expired_crl is ExpiredCrl.WARN and since < self.next_update <= now

    def is_under(self, judgement: Judgement, file: Path) -> bool:
        """Whether a certificate is under one of the CAs in ``file``, which an identity rule names."""
        return not judgement.authorities.isdisjoint(self._rule_authorities.get(file, frozenset()))

    def judge(self, peer: PeerIdentity, now: float) -> Judgement:
        """Whether the certificate is accepted ``now`` (seconds since the epoch)."""
        if peer.not_after <= now:
            return Judgement(Distrust.EXPIRED, _NEVER)
        try:
            certificate, sent_with = _loaded(peer.der), tuple(map(_loaded, peer.sent_with))
            if peer.handed_over and not self._would_pass(certificate, sent_with, now):
                return Judgement(Distrust.UNTRUSTED, self._paths.next_start(certificate, sent_with, now))
            return self._judge(certificate, sent_with, now)
        except MALFORMED:
            return Judgement(Distrust.UNTRUSTED, _NEVER)

    def _would_pass(
        self, certificate: x509.Certificate, sent_with: Sequence[x509.Certificate], now: float
    ) -> bool:
        """Whether a handshake would have let it in: what of that the judgement of every certificate leaves out."""
        if self._lists and self.next_update > now and self._list_of(certificate) is None:
            return False  # as in the handshake: where there are CRLs, its issuer must have one
        return self._paths.lead_to(certificate, sent_with[:_LONGEST_CHAIN], now)

    def _judge(
        self, certificate: x509.Certificate, sent_with: Sequence[x509.Certificate], now: float
    ) -> Judgement:
        if self._is_revoked(certificate):
            return Judgement(Distrust.REVOKED, _NEVER)
        search = _Search(
            anchors=self._anchors,
            candidates=[each for each in (*self._authorities, *sent_with[:_LONGEST_CHAIN]) if is_ca(each)],
            is_revoked=self._is_revoked,
            now=now,
        )
        search.go_on([certificate])
        found = search.on_the_way
        if not found:
            return Judgement(Distrust.REVOKED if search.met_a_revoked_one else Distrust.UNTRUSTED, _NEVER)
        ends = [each.not_valid_after_utc.timestamp() for each in (certificate, *found.values())]
        if self._expired_crl is ExpiredCrl.REFUSE:
            if self.next_update <= now:
                return Judgement(Distrust.CRL_EXPIRED, _NEVER)
            ends.append(self.next_update)
        return Judgement(None, min(ends), frozenset(found))

    def _is_revoked(self, certificate: x509.Certificate) -> bool:
        listed = self._list_of(certificate)
        return listed is not None and certificate.serial_number in listed.serials

    def _list_of(self, certificate: x509.Certificate) -> _RevocationList | None:
        """The CRL of its issuer."""
        return self._lists.get(certificate.issuer)


@dataclass(slots=True)
class _Search:
    """All ways by signatures from a certificate to CAs that are trusted, each by itself."""

    anchors: frozenset[str]
    candidates: Sequence[x509.Certificate]
    is_revoked: Callable[[x509.Certificate], bool]
    now: float
    on_the_way: dict[str, x509.Certificate] = field(default_factory=dict)
    """The CAs of every way that leads to one that is trusted, by their ``x5t#S256``."""
    met_a_revoked_one: bool = False
    _steps: int = 0

    def go_on(self, way: list[x509.Certificate]) -> None:
        """From the last certificate of ``way`` to its issuers. Who is trusted may be under others who are."""
        for issuer in self.candidates:
            if self._steps >= _MOST_STEPS:
                return
            if issuer in way or not is_issued_by(way[-1], issuer):
                continue
            self._steps += 1
            if self.is_revoked(issuer):
                self.met_a_revoked_one = True
            elif issuer.not_valid_after_utc.timestamp() > self.now and _may_have_issued(issuer, way):
                longer = [*way, issuer]
                if _thumbprint(issuer) in self.anchors:
                    self.on_the_way.update((_thumbprint(each), each) for each in longer[1:])
                self.go_on(longer)


def _may_have_issued(issuer: x509.Certificate, way: Sequence[x509.Certificate]) -> bool:
    """Whether the CA's own certificate lets it: it may sign, so many CAs may be below it, and names that it may give."""
    if KEY_CERT_SIGN not in key_usages(issuer):
        return False
    constraints = extension(issuer, x509.BasicConstraints)
    most = None if constraints is None else constraints.path_length
    between = sum(each.issuer != each.subject for each in way[1:])
    return (most is None or between <= most) and permits(issuer, way)


def _loaded(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _thumbprint(certificate: x509.Certificate) -> str:
    return thumbprint(certificate.public_bytes(Encoding.DER))
