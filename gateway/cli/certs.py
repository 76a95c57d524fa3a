"""``ostiary certs``: certificates of the CA whose key lies beside the configured ``client_ca``.

What is issued leaves an entry in the audit of the store, where there is one: a CA may be used without a gateway.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.clients import all_pages
from gateway.cli.output import print_fields, print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, now, perform, read_settings

if TYPE_CHECKING:
    from certs.authority import Authority, CertificateDescription, IssuedCertificate

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

DAYS = click.IntRange(1, 36500)

_CA_REMEDY = "take it out of [tls] client_ca, or have the CA above it put it on its CRL"


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
    from gateway.cli.naming import Names

    authority, names = _authority(config_file), Names.load(config_file)
    with names_that_can_be_used():
        issued = authority.issue_client(name, sans=sans, days=days or CLIENT_DAYS, out=out, now=now())
    yielded = names.of(issued.path).certificate_id
    recorded = audit_issued(config_file, issued, name, yielded)
    if as_json:
        print_json({"certificate": issued_fields(issued)})
        return
    click.echo(f"{issued.path}, {out / name}.key and {out / 'ca.pem'}, valid until {day(issued.not_after)}.")
    click.echo(_whose(yielded, recorded))


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
    """Refuse a client's certificate from now on.

    By serial number, every one with that number. The store has it at once, whatever the CRL says; where the CA's key is at hand, the CRL is written anew, too. CAs
    are not revoked this way: what they issued would stay good.
    """
    from certs.authority import describe, serial_of

    serial = f"{serial_of(certificate):x}"
    described = describe(Path(certificate)) if Path(certificate).is_file() else None
    if described is not None and described.is_ca:
        raise click.ClickException(f"{certificate} is a CA: {_CA_REMEDY}")
    if described is None and serial in _serials_of_client_cas(config_file):
        by_file = "a client's certificate of that number is revoked by its file"
        raise click.ClickException(f"{certificate} is a CA: {_CA_REMEDY}; {by_file}")
    answer = perform(
        config_file,
        "certs.revoke",
        serial_number=serial,
        fingerprint=None if described is None else described.fingerprint,
        issuer=None if described is None else described.issuer,
    )
    crl, why_not = _revoked_in_crl(config_file, certificate)
    if as_json:
        print_json({**answer, "crl": None if crl is None else str(crl)})
        return
    if described is not None:
        click.echo(f"The certificate with serial number {serial} is refused from now on.")
    else:
        click.echo(
            f"Clients' certificates with serial number {serial} are refused from now on, whichever CA issued them. "
            "What a CA with that number issued is not."
        )
    if crl is None:
        click.echo(f"The CRL was not written: {why_not}")
    else:
        click.echo(f"{crl}, of the CA whose key is at hand, has the number, too.")


@certs.command(name="list")
@config_option
@json_option
def list_certificates(config_file: Path, *, as_json: bool) -> None:
    """List what the CA issued, and what else the store refuses.

    The CA's key is not needed.
    """
    from certs.identity import CertificateError
    from certs.issued import list_issued
    from certs.pem import read_certificates

    tls = read_settings(config_file).tls
    if tls.client_ca is None:
        raise CertificateError(f"{config_file}: [tls] client_ca names no CA; name the CA of the clients")
    folder = tls.client_ca.parent
    issued = list_issued(folder, read_certificates(tls.client_ca)[0], tls.crl or folder / "crl.pem")
    others = _store_revocations(config_file)
    listed = [issued_fields(each, _taken(others, each)) for each in issued]
    also = [record for records in others.values() for record in records]
    if as_json:
        print_json({"certificates": listed, "also_revoked": also})
        return
    rows = [
        (each["common_name"], each["serial"], each["not_after"][:10], each["sans"], _state(each))
        for each in listed
    ]
    print_table(("NAME", "SERIAL", "UNTIL", "ALTERNATIVE NAMES", "STATE"), rows)
    for record in also:
        whose = record["issuer"] or "any CA"
        click.echo(
            f"Also refused: serial number {record['serial']} of {whose}, since {record['revoked_at'][:10]}."
        )


@certs.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@json_option
def show(file: Path, config_file: Path, *, as_json: bool) -> None:
    """Show the certificate in FILE, and whether it is accepted.

    FILE may hold the intermediate CAs that the client sends along, after its own certificate.
    """
    from certs.authority import describe

    described = describe(file)
    standing = _standing(config_file, file, described) if config_file.exists() else {}
    if as_json:
        print_json({"certificate": {**_described(described), **standing}})
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
            *([("may name", described.name_constraints)] if described.name_constraints else ()),
            ("x5t#S256", described.fingerprint),
            ("SHA-256", described.fingerprint_sha256),
            *(_standing_rows(described, standing) if standing else ()),
        ]
    )


def _standing(config_file: Path, file: Path, described: CertificateDescription) -> dict[str, Any]:
    """What it is to the gateway: its rule and client, and why it is refused, if it is."""
    from certs.identity import CertificateError
    from gateway.cli.naming import Names, Naming, why_refused

    try:
        naming = Naming(None) if described.is_ca else Names.load(config_file).of(file)
        refused = why_refused(config_file, file)
    except CertificateError as error:
        naming, refused = Naming(None), ("unusable_files", str(error))
    in_store = examined(config_file, described, naming.certificate_id, naming.tenant_id)
    if refused is None and in_store.get("revoked_at"):
        refused = "revoked", f"it was revoked here on {in_store['revoked_at'][:10]}"
    return {
        "client_id": naming.certificate_id,
        "rule": naming.rule,
        "roles": list(naming.roles),
        "tenant": naming.tenant_id,
        "client": in_store.get("client_id"),
        "client_enabled": in_store.get("enabled"),
        "accepted": refused is None,
        "refused_because": None if refused is None else refused[0],
        "refused_detail": None if refused is None else refused[1],
    }


def _standing_rows(described: CertificateDescription, standing: dict[str, Any]) -> list[tuple[str, object]]:
    rule, named, client = standing["rule"], standing["client_id"], standing["client"]
    if named is None:
        who = "none: it is a CA" if described.is_ca else "none"
    elif standing["client_enabled"] is None:  # there is no store
        who = named
    elif client is None:
        who = f"none: no client has the certificate id {named}"
    else:
        who = client if standing["client_enabled"] else f"{client}, which is disabled"
    rows: list[tuple[str, object]] = [
        ("by rule", "none" if rule is None else f"[[tls.client_id]] #{rule}"),
        ("client", who),
    ]
    if standing["tenant"]:
        rows.append(("of the tenant", standing["tenant"]))
    if standing["roles"]:
        rows.append(("roles by rule", standing["roles"]))
    detail = standing["refused_detail"]
    return [*rows, ("accepted", "yes" if detail is None else f"no: {detail}")]


def examined(
    config_file: Path, described: CertificateDescription, certificate_id: str | None, tenant_id: str | None
) -> dict[str, Any]:
    """What the store knows of the certificate; {}: there is no store."""
    if not _has_store(config_file):
        return {}
    return perform(
        config_file,
        "certs.examine",
        serial_number=described.serial,
        fingerprint=described.fingerprint,
        issuer=described.issuer,
        certificate=certificate_id,
        certificate_tenant=tenant_id,
    )


def _store_revocations(config_file: Path) -> dict[str, list[dict[str, Any]]]:
    """What the store refuses, by serial number."""
    found: dict[str, list[dict[str, Any]]] = {}
    if _has_store(config_file):
        for record in all_pages(config_file, "certs.revoked", "revoked"):
            found.setdefault(record["serial"], []).append(record)
    return found


def _taken(records: dict[str, list[dict[str, Any]]], certificate: IssuedCertificate) -> dict[str, Any] | None:
    """The first record by which the store refuses the certificate; all such are taken out of ``records``."""
    same_number = records.get(certificate.serial, [])
    of_it = [record for record in same_number if record["issuer"] in {None, certificate.issuer}]
    same_number[:] = [record for record in same_number if record not in of_it]
    return min(of_it, key=lambda record: str(record["revoked_at"]), default=None)


def _has_store(config_file: Path) -> bool:
    """A CA may be used without a gateway."""
    from persistence import missing_store

    return missing_store(read_settings(config_file).storage.path) is None


def _serials_of_client_cas(config_file: Path) -> frozenset[str]:
    """Of the CAs as far as they can be read: whoever revokes in an emergency is not held up by another file."""
    from certs.identity import CertificateError
    from certs.pem import read_certificates

    file = read_settings(config_file).tls.client_ca
    try:
        authorities = read_certificates(file) if file is not None else ()
    except CertificateError:
        return frozenset()
    return frozenset(f"{each.serial_number:x}" for each in authorities)


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


def _whose(yielded: str | None, recorded: dict[str, Any] | None) -> str:
    """Which client the new certificate names."""
    if yielded is None:
        return "By [[tls.client_id]] it names no client."
    if recorded is None:
        return f"It yields {yielded}."
    client_id = recorded["client_id"]
    if client_id is None:
        return f"It yields {yielded}, which no client has; to add one: ostiary clients add {shlex.quote(yielded)}"
    if client_id == yielded:
        return f"It names the client {client_id}."
    return f"It yields {yielded}, and so names the client {client_id}."


def audit_issued(
    config_file: Path, issued: IssuedCertificate, name: str, yielded: str | None
) -> dict[str, Any] | None:
    """Enter in the audit that a certificate was issued; whose it is. None: there is no store."""
    from gateway.operations.administration import OperationError
    from persistence import StoreError

    if not _has_store(config_file):
        return None
    try:
        return perform(
            config_file,
            "certs.issue",
            name=name,
            certificate_thumbprint=issued.fingerprint,
            certificate=yielded,
        )
    except (OperationError, StoreError, OSError) as error:
        told = f"{issued.path} was issued, but the audit does not have it: {error}"
        raise click.ClickException(told) from error


def issued_fields(certificate: IssuedCertificate, record: dict[str, Any] | None = None) -> dict[str, Any]:
    """A certificate as the JSON listings have it; ``record``: by which the store refuses it."""
    by_crl = None if certificate.revoked_at is None else _time(certificate.revoked_at)
    by_store = None if record is None else record["revoked_at"]
    return {
        "common_name": certificate.common_name,
        "subject": certificate.subject,
        "serial": certificate.serial,
        "x5t#S256": certificate.fingerprint,
        "sans": list(certificate.sans),
        "not_before": _time(certificate.not_before),
        "not_after": _time(certificate.not_after),
        "revoked_at": min(filter(None, (by_crl, by_store)), default=None),
        "revoked_by": [name for name, since in (("crl", by_crl), ("store", by_store)) if since],
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
        "name_constraints": list(certificate.name_constraints),
    }


def _state(certificate: dict[str, Any]) -> str:
    if certificate["revoked_by"]:
        return f"revoked ({', '.join(certificate['revoked_by'])})"
    return "valid" if certificate["not_after"] > _time(now()) else "expired"


def _time(seconds: float) -> str:
    from gateway.clock import rfc3339

    return rfc3339(seconds)


def day(seconds: float) -> str:
    """The day of a time in seconds since the epoch."""
    return _time(seconds)[:10]
