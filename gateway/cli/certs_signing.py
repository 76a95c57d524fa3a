"""``ostiary certs renew``, ``sign`` and ``crl``: what a CA does beside issuing. The CA may be on another machine."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.ca_key import open_authority
from gateway.cli.certs import DAYS, audit_issued, day, examined, issued_fields, names_that_can_be_used
from gateway.cli.output import print_json
from gateway.cli.session import config_option, json_option, now

ca_option = click.option(
    "--ca",
    "ca_folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="A CA's folder (ca.pem, ca.key), where there is no gateway; else that of the configuration.",
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="Its key; FILE with .key by default."
)
@click.option(
    "--days", type=DAYS, metavar="N", help="How long it is valid; as long as the old one by default."
)
@config_option
@json_option
def renew(file: Path, *, key: Path | None, days: int | None, config_file: Path, as_json: bool) -> None:
    """Renew the certificate in FILE and its key.

    The names stay the same. The old certificate stays good until it expires: revoke it, if its key may be in other hands.
    """
    from certs.authority import describe
    from gateway.cli.naming import Names

    authority, names = open_authority(config_file), Names.load(config_file)
    in_store = examined(config_file, describe(file), None, None)
    if in_store.get("revoked_at"):
        raise click.ClickException(f"{file}: was revoked here; issue a new one instead")
    issued = authority.renew(file, key or file.with_suffix(".key"), days=days, now=now())
    audit_issued(config_file, issued, issued.common_name, names.of(issued.path).certificate_id)
    if as_json:
        print_json({"certificate": issued_fields(issued)})
        return
    click.echo(f"{issued.path}, valid until {day(issued.not_after)}.")


@click.command()
@click.argument("request", metavar="CSR", type=click.Path(path_type=Path))
@click.option("--server", is_flag=True, help="For a server; else for a client.")
@click.option("--days", type=DAYS, metavar="N", help="How long it is valid; 30 by default, 90 for a server.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to; CSR with .pem by default."
)
@ca_option
@config_option
@json_option
def sign(
    request: Path,
    *,
    server: bool,
    days: int | None,
    out: Path | None,
    ca_folder: Path | None,
    config_file: Path,
    as_json: bool,
) -> None:
    """Sign the certificate request in CSR (PEM).

    The key stays with who made it. Its common name, alternative names and key are taken over; nothing else that it asks for is.
    """
    from gateway.cli.naming import Names

    authority = open_authority(config_file, ca_folder)
    names = Names.load(config_file) if ca_folder is None else None
    with names_that_can_be_used():
        issued = authority.sign(
            request, server=server, days=days, out=out or request.with_suffix(".pem"), now=now()
        )
    if names is not None:
        client_id = names.of(issued.path).certificate_id
        audit_issued(config_file, issued, issued.common_name, client_id)
    if as_json:
        print_json({"certificate": issued_fields(issued)})
        return
    shown = ", ".join((issued.common_name, *issued.sans))
    click.echo(f"{issued.path} for {shown}, valid until {day(issued.not_after)}.")


@click.command()
@ca_option
@config_option
@json_option
def crl(*, ca_folder: Path | None, config_file: Path, as_json: bool) -> None:
    """Write the CRL anew, for another 30 days.

    An empty one where there is none yet.
    """
    authority = open_authority(config_file, ca_folder)
    end = authority.renew_crl(now=now())
    if as_json:
        print_json({"crl": str(authority.crl), "next_update": day(end)})
        return
    click.echo(f"{authority.crl}, good until {day(end)}.")
