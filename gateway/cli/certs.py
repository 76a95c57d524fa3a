"""``ostiary certs``: certificates of the CA whose key lies beside the configured ``client_ca``.

What is issued leaves an entry in the audit of the store, where there is one: a CA may be used without a gateway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.output import print_fields, print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, now, perform, read_settings

if TYPE_CHECKING:
    from certs.authority import Authority, CertificateDescription, IssuedCertificate

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

DAYS = click.IntRange(1, 36500)


@click.group()
def certs() -> None:
    """The certificates of the development CA."""


@certs.command()
@click.argument("name")
@click.option(
    "--san", "sans", multiple=True, metavar="NAME", help="Another name: a URI, DNS name, …; may be repeated."
)
@click.option("--days", type=DAYS, metavar="N", help="How long it is valid; 30 by default.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="Where to."
)
@config_option
@json_option
def issue(
    name: str, *, sans: tuple[str, ...], days: int | None, out: Path, config_file: Path, as_json: bool
) -> None:
    """Issue a client certificate with common name NAME.

    It makes NAME.pem, NAME.key and ca.pem in DIR.
    """
    from certs.authority import CLIENT_DAYS

    with names_that_can_be_used():
        issued = _authority(config_file).issue_client(
            name, sans=sans, days=days or CLIENT_DAYS, out=out, now=now()
        )
    client_id = named_client(config_file, issued.path)
    audit_issued(config_file, issued, name, client_id)
    if as_json:
        print_json({"certificate": issued_fields(issued)})
        return
    click.echo(f"{issued.path}, {out / name}.key and {out / 'ca.pem'}, valid until {day(issued.not_after)}.")
    click.echo(
        f"It names the client {client_id}." if client_id else "By [[tls.client_id]] it names no client."
    )


@certs.command(name="issue-server")
@click.option(
    "--name", "--san", "names", multiple=True, metavar="NAME", help="A DNS name or IP; may be repeated."
)
@click.option("--days", type=DAYS, metavar="N", help="How long it is valid; 90 by default.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write server.pem and server.key there.",
)
@config_option
@json_option
def issue_server(
    names: tuple[str, ...], *, days: int | None, out: Path | None, config_file: Path, as_json: bool
) -> None:
    """Issue the gateway's own certificate.

    It takes the place of the configured one, unless there is --out; a running gateway takes it by itself. Without
    --name it is for localhost, 127.0.0.1, ::1 and the host of public_url.
    """
    from certs.authority import SERVER_DAYS

    settings = read_settings(config_file)
    wanted = names or tuple(dict.fromkeys((*LOOPBACK_NAMES, settings.public_host)))
    if out is not None:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with names_that_can_be_used():
        issued = _authority(config_file).issue_server(
            names=wanted,
            days=days or SERVER_DAYS,
            certificate=settings.tls.certificate if out is None else out / "server.pem",
            private_key=settings.tls.private_key if out is None else out / "server.key",
            now=now(),
            overwrite=out is None,
        )
    audit_issued(config_file, issued, wanted[0], None)
    if as_json:
        print_json({"certificate": issued_fields(issued)})
        return
    click.echo(f"{issued.path} for {', '.join(wanted)}, valid until {day(issued.not_after)}.")
    if out is None:
        click.echo("A running gateway takes it by itself, within a second.")


@certs.command()
@click.argument("certificate", metavar="FILE_OR_SERIAL")
@config_option
@json_option
def revoke(certificate: str, config_file: Path, *, as_json: bool) -> None:
    """Refuse a certificate from now on.

    The store has it at once, whatever the CRL says; where the CA's key is at hand, the CRL is written anew, too.
    """
    from certs.authority import describe, serial_of

    serial = f"{serial_of(certificate):x}"
    described = describe(Path(certificate)) if Path(certificate).is_file() else None
    if described is not None and described.is_ca:
        raise click.ClickException(f"{certificate} is a CA: take it out of [tls] client_ca instead")
    answer = perform(
        config_file,
        "certs.revoke",
        serial_number=serial,
        fingerprint=None if described is None else described.fingerprint,
    )
    crl, why_not = _revoked_in_crl(config_file, certificate)
    if as_json:
        print_json({**answer, "crl": None if crl is None else str(crl)})
        return
    click.echo(f"The certificate with serial number {serial} is refused from now on.")
    click.echo(f"{crl} has it, too." if crl is not None else f"The CRL was not written: {why_not}")


@certs.command(name="list")
@config_option
@json_option
def list_certificates(config_file: Path, *, as_json: bool) -> None:
    """List what the CA has issued."""
    issued = _authority(config_file).list()
    if as_json:
        print_json({"certificates": [issued_fields(certificate) for certificate in issued]})
        return
    rows = [(c.common_name, c.serial, day(c.not_after), c.sans, _state(c)) for c in issued]
    print_table(("NAME", "SERIAL", "UNTIL", "ALTERNATIVE NAMES", "STATE"), rows)


@certs.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@json_option
def show(file: Path, config_file: Path, *, as_json: bool) -> None:
    """Show the certificate in FILE, and the client that it names."""
    from certs.authority import describe

    described = describe(file)
    client_id = named_client(config_file, file) if config_file.exists() else None
    rule = _matching_rule(config_file, file) if client_id else None
    if as_json:
        print_json({"certificate": {**_described(described), "client_id": client_id, "rule": rule}})
        return
    print_fields(
        [
            ("subject", described.subject),
            ("issuer", described.issuer),
            ("serial", described.serial),
            ("alternative names", described.sans),
            ("valid from", short_time(_time(described.not_before))),
            ("valid until", short_time(_time(described.not_after))),
            ("usages", described.usages),
            ("x5t#S256", described.fingerprint),
            ("SHA-256", described.fingerprint_sha256),
            ("by rule", "none" if rule is None else f"[[tls.client_id]] #{rule}"),
            ("client", "none: it is a CA" if described.is_ca else client_id or "none"),
        ]
    )


def _revoked_in_crl(config_file: Path, certificate: str) -> tuple[Path | None, str]:
    """The CRL that has the certificate now; None: it could not be written, and why."""
    from certs.identity import CertificateError

    try:
        return _authority(config_file).revoke(certificate, now=now()).crl, ""
    except CertificateError as error:
        return None, str(error)


def _authority(config_file: Path) -> Authority:
    from gateway.cli.ca_key import open_authority

    return open_authority(config_file)


@contextlib.contextmanager
def names_that_can_be_used() -> Iterator[None]:
    """A name that no certificate can carry is wrong use."""
    from certs.identity import UnusableNameError

    try:
        yield
    except UnusableNameError as error:
        raise click.UsageError(f"{error}.") from None


def audit_issued(config_file: Path, issued: IssuedCertificate, name: str, client_id: str | None) -> None:
    """Enter in the audit, where there is one, that a certificate was issued."""
    from gateway.operations.administration import OperationError
    from persistence import StoreError, missing_store

    if missing_store(read_settings(config_file).storage.path) is not None:
        return
    try:
        perform(
            config_file,
            "certs.issue",
            name=name,
            certificate_thumbprint=issued.fingerprint,
            certificate=client_id,
        )
    except (OperationError, StoreError, OSError) as error:
        told = f"{issued.path} was issued, but the audit does not have it: {error}"
        raise click.ClickException(told) from error


def named_client(config_file: Path, certificate: Path) -> str | None:
    """The client that the rules say the certificate names; None: nobody."""
    from certs.authority import describe
    from certs.identity import certificate_id

    return certificate_id(describe(certificate).peer, read_settings(config_file).tls.client_id)


def _matching_rule(config_file: Path, certificate: Path) -> int | None:
    """Which of the rules names the client, from 1: the first with which there is a name at all."""
    from certs.authority import describe
    from certs.identity import certificate_id

    rules = read_settings(config_file).tls.client_id
    peer = describe(certificate).peer
    return next((count for count in range(1, len(rules) + 1) if certificate_id(peer, rules[:count])), None)


def issued_fields(certificate: IssuedCertificate) -> dict[str, Any]:
    """A certificate as the JSON listings have it."""
    return {
        "common_name": certificate.common_name,
        "subject": certificate.subject,
        "serial": certificate.serial,
        "x5t#S256": certificate.fingerprint,
        "sans": list(certificate.sans),
        "not_before": _time(certificate.not_before),
        "not_after": _time(certificate.not_after),
        "revoked_at": None if certificate.revoked_at is None else _time(certificate.revoked_at),
        "path": str(certificate.path),
    }


def _described(certificate: CertificateDescription) -> dict[str, Any]:
    return {
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "serial": certificate.serial,
        "x5t#S256": certificate.fingerprint,
        "sha256": certificate.fingerprint_sha256,
        "sans": list(certificate.sans),
        "not_before": _time(certificate.not_before),
        "not_after": _time(certificate.not_after),
        "usages": list(certificate.usages),
        "is_ca": certificate.is_ca,
    }


def _state(certificate: IssuedCertificate) -> str:
    if certificate.revoked_at is not None:
        return "revoked"
    return "valid" if certificate.not_after > now() else "expired"


def _time(seconds: float) -> str:
    from gateway.clock import rfc3339

    return rfc3339(seconds)


def day(seconds: float) -> str:
    """The day of a time in seconds since the epoch."""
    return _time(seconds)[:10]
