"""Whom a certificate names, and whether the gateway accepts it: by the configuration and its files as they are now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from gateway.cli.session import now, read_settings

if TYPE_CHECKING:
    from certs.identity import IdentityRule, PeerIdentity
    from certs.trust import Trust

_REFUSED = {
    "revoked": "it is on the CRL, or its CA is",
    "expired": "it has expired",
    "untrusted": "no way leads from it to a CA of [tls] client_ca",
    "crl_expired": "the CRL is past its nextUpdate",
}


@dataclass(frozen=True, slots=True)
class Naming:
    """What the rules make of a certificate, accepted now or not."""

    certificate_id: str | None
    """None: it names nobody."""
    rule: int | None = None
    """Which of the rules does, from 1."""
    roles: tuple[str, ...] = ()
    tenant_id: str | None = None
    """The tenant that the client must belong to."""


class Names:
    """The rules of a configuration, and the CAs that they are for."""

    def __init__(self, rules: tuple[IdentityRule, ...], trust: Trust) -> None:
        """``trust``: the CAs, without CRLs."""
        self._rules = rules
        self._trust = trust

    @classmethod
    def load(cls, config_file: Path) -> Self:
        """Raises ConfigError, CertificateError."""
        from certs.contexts import ClientCertificates
        from certs.trust import Trust
        from gateway.tls.files import tls_files

        tls = read_settings(config_file).tls
        if tls.client_certificates is ClientCertificates.NONE:
            return cls((), Trust(()))
        return cls(tls.client_id, Trust.load_authorities(tls_files(tls)))

    def of(self, file: Path) -> Naming:
        """Whom the certificate in ``file`` names, also where it is revoked or has expired. Raises CertificateError."""
        from certs.description import CLIENT_AUTH, describe
        from certs.identity import named_by

        usages = describe(file).extended_usages
        if usages and CLIENT_AUTH not in usages:
            return Naming(None)
        peer = read_peer(file)
        judgement = self._trust.judge(peer, peer.not_before)
        if judgement.distrust is not None:
            return Naming(None)
        named = named_by(peer, self._rules, lambda path: self._trust.is_under(judgement, path))
        if named is None:
            return Naming(None)
        client_id, rule = named
        return Naming(client_id, self._rules.index(rule) + 1, rule.roles, rule.tenant_id)


def why_refused(config_file: Path, file: Path) -> tuple[str, str] | None:
    """Why the gateway does not accept the certificate now: a stable word, and the reason; None: it does.

    What the store says of it is not looked at. Raises ConfigError, CertificateError.
    """
    from certs.contexts import ClientCertificates
    from certs.description import CLIENT_AUTH, describe
    from certs.trust import Trust
    from gateway.tls.files import tls_files

    tls = read_settings(config_file).tls
    if tls.client_certificates is ClientCertificates.NONE:
        return "not_asked_for", '[tls] client_certificates is "none"'
    described = describe(file)
    if described.is_ca or (described.extended_usages and CLIENT_AUTH not in described.extended_usages):
        return "not_for_clients", "it is not for TLS clients"
    if described.not_before > now():
        return "not_yet_valid", "its time has not begun"
    trust = Trust.load(tls_files(tls), expired_crl=tls.crl_expired)
    distrust = trust.judge(read_peer(file), now()).distrust
    return None if distrust is None else (distrust.value, _REFUSED[distrust.value])


def read_peer(file: Path) -> PeerIdentity:
    """The first certificate in the file as a client that sends along the others. Raises CertificateError."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from certs.identity import parse_peer
    from certs.pem import read_certificates

    leaf, *others = (each.public_bytes(Encoding.DER) for each in read_certificates(file))
    return parse_peer(leaf, others)
