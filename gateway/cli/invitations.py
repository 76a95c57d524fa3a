"""``ostiary invitations``"""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.clients import all_pages
from gateway.cli.output import print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, perform


@click.group()
def invitations() -> None:
    """Invitations to make an account.

    They are needed with [accounts] register = "invitation".
    """


@invitations.command()
@click.option(
    "--role", "roles", multiple=True, metavar="ROLE", help="What the account gets; may be repeated."
)
@click.option("--tenant", default="default", show_default=True, metavar="TENANT", help="Whose it is.")
@click.option("--name", metavar="NAME", help="What it is for; no two of a tenant have the same.")
@click.option("--days", default=7, show_default=True, help="How long it is good.")
@config_option
@json_option
def add(
    *,
    roles: tuple[str, ...],
    tenant: str,
    name: str | None,
    days: int,
    config_file: Path,
    as_json: bool,
) -> None:
    """Make an invitation for one account, and print its code once."""
    answer = perform(config_file, "invitations.add", roles=roles, tenant_id=tenant, name=name, days=days)
    if as_json:
        print_json(answer)
        return
    click.echo(f"The code of invitation {answer['invitation']['invitation_id']}, shown this once:")
    click.echo(f"\n    {answer['code']}")


@invitations.command(name="list")
@config_option
@json_option
def list_invitations(config_file: Path, *, as_json: bool) -> None:
    """List the invitations."""
    found = all_pages(config_file, "invitations.list", "invitations")
    if as_json:
        print_json({"invitations": found})
        return
    rows = [
        (
            each["invitation_id"],
            each["name"],
            each["tenant_id"],
            each["roles"],
            short_time(each["expires_at"]),
            each["client_id"] or "",
        )
        for each in found
    ]
    print_table(("INVITATION", "NAME", "TENANT", "ROLES", "EXPIRES (UTC)", "USED BY"), rows)


@invitations.command()
@click.argument("invitation_id")
@config_option
def revoke(invitation_id: str, config_file: Path) -> None:
    """Take an invitation back."""
    perform(config_file, "invitations.revoke", invitation_id=invitation_id)
    click.echo(f"Invitation {invitation_id} is good no more.")
