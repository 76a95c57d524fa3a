"""``ostiary tenants``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.clients import all_pages
from gateway.cli.output import print_fields, print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, perform


@click.group()
def tenants() -> None:
    """The tenants: whom clients and all of theirs belong to."""


@tenants.command()
@click.argument("tenant")
@click.option("--name", metavar="TEXT", help="What people call it; TENANT by default.")
@click.option("--mfa-required", is_flag=True, help="Nobody of it signs in by a password alone.")
@config_option
@json_option
def add(tenant: str, name: str | None, config_file: Path, *, mfa_required: bool, as_json: bool) -> None:
    """Add the tenant TENANT: a short name that stays."""
    answer = perform(config_file, "tenants.add", tenant_id=tenant, name=name, mfa_required=mfa_required)
    if as_json:
        print_json(answer)
        return
    click.echo(f"The tenant {tenant} was added; to add a client: ostiary clients add NAME --tenant {tenant}")


@tenants.command(name="list")
@config_option
@json_option
def list_tenants(config_file: Path, *, as_json: bool) -> None:
    """List the tenants."""
    found = all_pages(config_file, "tenants.list", "tenants")
    if as_json:
        print_json({"tenants": found})
        return
    rows = [(t["tenant_id"], t["name"], _mfa(t), _state(t)) for t in found]
    print_table(("TENANT", "NAME", "MFA", "STATE"), rows)


@tenants.command()
@click.argument("tenant")
@config_option
@json_option
def show(tenant: str, config_file: Path, *, as_json: bool) -> None:
    """Show one tenant."""
    _print(perform(config_file, "tenants.show", tenant_id=tenant), as_json=as_json)


@tenants.command(name="set")
@click.argument("tenant")
@click.option("--name", metavar="TEXT", help="What people call it.")
@click.option(
    "--mfa-required/--no-mfa-required",
    default=None,
    help="Whether nobody of it signs in by a password alone.",
)
@config_option
@json_option
def set_tenant(
    tenant: str, name: str | None, config_file: Path, *, mfa_required: bool | None, as_json: bool
) -> None:
    """Change the name or the settings of TENANT."""
    if name is None and mfa_required is None:
        raise click.UsageError("say what to change: --name, --mfa-required or --no-mfa-required.")
    answer = perform(config_file, "tenants.set", tenant_id=tenant, name=name, mfa_required=mfa_required)
    _print(answer, as_json=as_json)


@tenants.command()
@click.argument("tenant")
@config_option
def disable(tenant: str, config_file: Path) -> None:
    """Let no client of TENANT in any more."""
    perform(config_file, "tenants.set", tenant_id=tenant, disabled=True)
    click.echo(f"The tenant {tenant} is disabled, and with it all of its clients.")


@tenants.command()
@click.argument("tenant")
@config_option
def enable(tenant: str, config_file: Path) -> None:
    """Let the clients of TENANT in again."""
    perform(config_file, "tenants.set", tenant_id=tenant, disabled=False)
    click.echo(f"The tenant {tenant} is enabled.")


@tenants.command()
@click.argument("tenant")
@config_option
def remove(tenant: str, config_file: Path) -> None:
    """Remove TENANT, of which nothing is left.

    That is no client, no role and no open invitation. Its name is not given again: the audit has entries of it.
    """
    perform(config_file, "tenants.remove", tenant_id=tenant)
    click.echo(f"The tenant {tenant} is removed.")


def _print(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    tenant = answer["tenant"]
    print_fields(
        [
            ("tenant", tenant["tenant_id"]),
            ("name", tenant["name"]),
            ("state", _state(tenant)),
            ("second factor", _mfa(tenant)),
            ("created", short_time(tenant["created_at"])),
            ("changed", short_time(tenant["updated_at"])),
        ]
    )


def _mfa(tenant: dict[str, Any]) -> str:
    return "required" if tenant["settings"]["mfa_required"] else "as each client has it"


def _state(tenant: dict[str, Any]) -> str:
    return "disabled" if tenant["disabled"] else "enabled"
