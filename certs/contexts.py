"""PEM files become an ``ssl.SSLContext``, after every problem in them has been looked for.

What a server context promises:

- TLS 1.3, or 1.2 with forward secrecy and authenticated encryption; HTTP/1.1 by ALPN; no compression, no
  renegotiation.
- A client certificate is checked against ``client_ca`` and nothing else, for its use as a client's, by the
  rules of RFC 5280 without leniency, and against the CRL where there is one. One that does not pass ends the
  handshake, also where none would have been needed.
- No session tickets: a resumed session would skip those checks. TLS 1.2 can still resume by session id, which
  OpenSSL does not let a context switch off here: whoever accepts connections has to close those whose
  ``session_reused`` is true.
- No key log: a plain ``SSLContext`` does not read SSLKEYLOGFILE. No prompt for a passphrase.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs import pem
from certs.description import (
    ANY_EXTENDED_KEY_USAGE,
    SERVER_AUTH,
    extended_key_usages,
    is_ca,
    is_crl_of,
    is_issued_by,
    lacking_for_ca,
)
from certs.identity import CertificateError

_WARN_BEFORE: Final = timedelta(days=14)
"""So long before something expires it is warned of, or the last third of its time, if that is shorter."""
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; 1.3 has only good ones."""
_PROTOCOLS: Final = ["http/1.1"]
_RENEW_CRL: Final = (
    "have the CA write a new one: `ostiary certs revoke` does, also for a certificate revoked before"
)


class ClientCertificates(StrEnum):
    """Whether clients present a certificate: ``client_certificates`` in ``[tls]``."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


_VERIFY_MODES: Final = {
    ClientCertificates.NONE: ssl.CERT_NONE,
    ClientCertificates.OPTIONAL: ssl.CERT_OPTIONAL,
    ClientCertificates.REQUIRED: ssl.CERT_REQUIRED,
}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of a listener.

    ``certificate``: the server's, then any intermediate ones. ``client_ca``: one CA certificate or several.
    ``crl``: one CRL or several; where the file is not there, nothing is checked against it. The CRL of a CA that is not in
    ``client_ca`` (any more) is left out: a CA must be removable without its CRL.
    """

    certificate: Path
    private_key: Path
    client_ca: Path | None
    crl: Path | None
    rule_cas: tuple[Path, ...] = ()
    """The CA files that identity rules name."""


class ExpiredCrl(StrEnum):
    """What a CRL past its nextUpdate means: ``crl_expired`` in ``[tls]``."""

    REFUSE = "refuse"
    """Nobody whose CA it is of is let in."""
    WARN = "warn"
    """It holds on, and somebody is told."""


def server_context(
    files: TlsFiles,
    *,
    client_certificates: ClientCertificates,
    minimum_version: ssl.TLSVersion,
    now: float,
    expired_crl: ExpiredCrl = ExpiredCrl.REFUSE,
) -> ssl.SSLContext:
    """A context for the listener; ``now`` in seconds since the epoch.

    Raises CertificateError with every problem, one a line.
    """
    if found := _found(files, client_certificates, now, expired_crl):
        raise CertificateError("\n".join(found))
    return _built(files, client_certificates, minimum_version, _crls_to_check(files, expired_crl, now))


def problems(
    files: TlsFiles,
    *,
    client_certificates: ClientCertificates,
    now: float,
    expired_crl: ExpiredCrl = ExpiredCrl.REFUSE,
) -> list[str]:
    """Everything that keeps these files from serving, each with its remedy. Empty: nothing does."""
    found = _found(files, client_certificates, now, expired_crl)
    if found:
        return found
    try:
        _built(files, client_certificates, ssl.TLSVersion.TLSv1_3, _crls_to_check(files, expired_crl, now))
    except CertificateError as error:
        return [str(error)]
    return []


def expiring(files: TlsFiles, now: float) -> tuple[str, ...]:
    """What expires soon, each with its remedy. What has, or cannot be read, is left out: ``problems`` tells of it."""
    moment = datetime.fromtimestamp(now, UTC)
    return tuple(_expiring(files, moment))


def client_context(
    *, ca: Path | None, certificate: Path | None = None, private_key: Path | None = None
) -> ssl.SSLContext:
    """A context for connecting to a server whose name is checked. TLS 1.2 and later.

    ``ca``: the only CAs that are trusted; None: the system's. ``certificate``: what to present, with its key
    in the same file or in ``private_key``. Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(_PROTOCOLS)
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, pem.read_certificates(ca))
    if certificate is not None:
        pem.read_certificates(certificate)
        pem.read_private_key(private_key or certificate)
        _present(context, certificate, private_key or certificate)
    elif private_key is not None:
        raise CertificateError(f"{private_key}: is a key without its certificate; name the certificate too")
    return context


def sorted_out(
    lists: Sequence[x509.CertificateRevocationList], authorities: Sequence[x509.Certificate]
) -> tuple[list[x509.CertificateRevocationList], list[x509.CertificateRevocationList]]:
    """The CRLs that one of these CAs signed, and those of others, which say nothing of anybody who is let in.

    A CA's name alone would not do: one that was made anew after its key was stolen has the same.
    """
    counting = [crl for crl in lists if any(is_crl_of(crl, each) for each in authorities)]
    return counting, [crl for crl in lists if crl not in counting]


def _found(
    files: TlsFiles, client_certificates: ClientCertificates, now: float, expired_crl: ExpiredCrl
) -> list[str]:
    moment = datetime.fromtimestamp(now, UTC)
    found = [*_server_problems(files, moment)]
    if client_certificates is not ClientCertificates.NONE:
        found += _client_ca_problems(files, moment, expired_crl)
        for path in files.rule_cas:
            found += _rule_ca_problems(path)
    return found


def _crls_to_check(
    files: TlsFiles, expired_crl: ExpiredCrl, now: float
) -> Sequence[x509.CertificateRevocationList]:
    """The CRLs for the handshake, in which OpenSSL refuses everybody once one has expired; empty: none."""
    if files.client_ca is None or files.crl is None or not pem.is_there(files.crl):
        return ()
    lists, _ = sorted_out(pem.read_revocation_lists(files.crl), pem.read_certificates(files.client_ca))
    moment = datetime.fromtimestamp(now, UTC)
    expired = any(each.next_update_utc is not None and each.next_update_utc <= moment for each in lists)
    return () if expired and expired_crl is ExpiredCrl.WARN else lists


def _built(
    files: TlsFiles,
    client_certificates: ClientCertificates,
    minimum_version: ssl.TLSVersion,
    lists: Sequence[x509.CertificateRevocationList],
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = max(minimum_version, ssl.TLSVersion.TLSv1_2)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(_PROTOCOLS)
    context.verify_mode = _VERIFY_MODES[client_certificates]
    _present(context, files.certificate, files.private_key)
    if client_certificates is ClientCertificates.NONE or files.client_ca is None:
        return context
    # Partial chain: an intermediate CA that is named is trusted by itself, without its root.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    _trust(context, pem.read_certificates(files.client_ca))
    if files.crl is not None and lists:
        _check_against(context, files.crl, lists)
    return context


def _present(context: ssl.SSLContext, certificate: Path, private_key: Path) -> None:
    try:
        context.load_cert_chain(certificate, private_key, password="")  # empty: never prompts
    except (ssl.SSLError, OSError) as error:
        remedy = f"make both anew; the key is {private_key}"
        raise CertificateError(f"{certificate}: cannot be used ({_reason(error)}); {remedy}") from error


def _trust(context: ssl.SSLContext, authorities: Sequence[x509.Certificate]) -> None:
    # From what was read and checked, not from the file: OpenSSL would take CRLs and other things from it too.
    context.load_verify_locations(cadata=b"".join(each.public_bytes(Encoding.DER) for each in authorities))


def _check_against(
    context: ssl.SSLContext, crl: Path, lists: Sequence[x509.CertificateRevocationList]
) -> None:
    """``lists``: those of the file that count. OpenSSL takes CRLs from files alone, and must not take the others."""
    try:
        with NamedTemporaryFile(suffix=".pem") as file:
            file.write(b"".join(each.public_bytes(Encoding.PEM) for each in lists))
            file.flush()
            context.load_verify_locations(cafile=file.name)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(
            f"{crl}: cannot be used ({_reason(error)}); have the CA write a new CRL"
        ) from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _reason(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return str(reason or "not accepted by OpenSSL").lower().replace("_", " ")


def _server_problems(files: TlsFiles, moment: datetime) -> Iterator[str]:
    chain: tuple[x509.Certificate, ...] = ()
    key: pem.PrivateKey | None = None
    try:
        chain = pem.read_certificates(files.certificate)
    except CertificateError as error:
        yield str(error)
    try:
        key = pem.read_private_key(files.private_key)
    except CertificateError as error:
        yield str(error)
    if (problem := pem.mode_problem(files.private_key)) is not None:
        yield problem
    if not chain:
        return
    if key is not None and key.public_key() != chain[0].public_key():
        remedy = "name the two files that belong together"
        yield f"{files.private_key}: is not the key of {files.certificate}; {remedy}"
    for certificate in chain:
        yield from _date_problems(
            files.certificate, certificate, moment, "renew it: `ostiary certs issue-server`"
        )
    usages = extended_key_usages(chain[0])
    if usages and SERVER_AUTH not in usages and ANY_EXTENDED_KEY_USAGE not in usages:
        remedy = "issue one with `ostiary certs issue-server`"
        yield f"{files.certificate}: is not for servers (no extended key usage serverAuth); {remedy}"


def _rule_ca_problems(path: Path) -> Iterator[str]:
    try:
        authorities = pem.read_certificates(path)
    except CertificateError as error:
        yield str(error)
        return
    for authority in authorities:
        yield from _authority_problems(path, authority)


def _client_ca_problems(files: TlsFiles, moment: datetime, expired_crl: ExpiredCrl) -> Iterator[str]:
    if files.client_ca is None:
        yield 'client_ca: names no file; name the CA of the clients, or set client_certificates = "none"'
        return
    try:
        authorities = pem.read_certificates(files.client_ca)
    except CertificateError as error:
        yield str(error)
        return
    for authority in authorities:
        yield from _authority_problems(files.client_ca, authority)
        yield from _date_problems(
            files.client_ca, authority, moment, "put the CA's next certificate in its place"
        )
    if files.crl is not None and pem.is_there(files.crl):
        yield from _crl_problems(files.crl, authorities, moment, expired_crl)


def _expiring(files: TlsFiles, moment: datetime) -> Iterator[str]:
    for path, remedy in (
        (files.certificate, "renew it: `ostiary certs issue-server`"),
        (files.client_ca, "put the CA's next certificate beside it, and issue from that one"),
    ):
        try:
            certificates = () if path is None else pem.read_certificates(path)
        except CertificateError:
            continue
        for certificate in certificates:
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if end - min(_WARN_BEFORE, (end - start) / 3) < moment <= end:
                yield f"{path}: {_name(certificate)} expires on {_date(end)}; {remedy}"
    if files.client_ca is None or files.crl is None or not pem.is_there(files.crl):
        return
    try:
        counting, others = sorted_out(
            pem.read_revocation_lists(files.crl), pem.read_certificates(files.client_ca)
        )
    except CertificateError:
        return
    for crl in others:
        yield f"{files.crl}: the CRL of {crl.issuer.rfc4514_string()} is of no client CA and is left out; take it out of the file"
    for crl in counting:
        start, next_update = crl.last_update_utc, crl.next_update_utc
        if next_update is not None and moment > next_update - min(_WARN_BEFORE, (next_update - start) / 3):
            yield f"{files.crl}: the CRL is to be replaced by {_date(next_update)}; {_RENEW_CRL}"


def _authority_problems(path: Path, certificate: x509.Certificate) -> Iterator[str]:
    name = _name(certificate)
    if not is_ca(certificate):
        yield f"{path}: {name} is not a CA's certificate; name the CA that issues the clients' certificates"
        return
    if lacking := tuple(lacking_for_ca(certificate)):
        yield f"{path}: {name} lacks what RFC 5280 demands of a CA ({', '.join(lacking)}); make it anew"


def _date_problems(path: Path, certificate: x509.Certificate, moment: datetime, remedy: str) -> Iterator[str]:
    name = _name(certificate)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if moment < start:
        yield f"{path}: {name} is not valid before {_date(start)}; set the clock, or wait"
    if moment > end:
        yield f"{path}: {name} expired on {_date(end)}; {remedy}"


def _crl_problems(
    path: Path, authorities: Sequence[x509.Certificate], moment: datetime, expired_crl: ExpiredCrl
) -> Iterator[str]:
    try:
        lists = pem.read_revocation_lists(path)
    except CertificateError as error:
        yield str(error)
        return
    covered: set[x509.Certificate] = set()
    for crl in sorted_out(lists, authorities)[0]:
        covered.update(each for each in authorities if is_crl_of(crl, each))
        if moment < crl.last_update_utc:
            yield f"{path}: the CRL is not valid before {_date(crl.last_update_utc)}; set the clock, or wait"
        end = crl.next_update_utc
        if end is not None and moment > end and expired_crl is ExpiredCrl.REFUSE:
            yield f"{path}: the CRL expired on {_date(end)}; {_RENEW_CRL}"
    for authority in authorities:
        if authority not in covered and not _issued_another(authority, authorities):
            same_name = any(each.issuer == authority.subject for each in lists)
            also = " (the one of that name is not signed by it)" if same_name else ""
            yield f"{path}: has no CRL of {_name(authority)}{also}, whose clients would all be refused; add its CRL"


def _issued_another(authority: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    return any(each != authority and is_issued_by(each, authority) for each in authorities)


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "the certificate"


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
