"""``ostiary roles``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.clients import all_pages
from gateway.cli.output import print_fields, print_json, print_table
from gateway.cli.session import config_option, json_option, perform

tenant_option = click.option(
    "--tenant", metavar="TENANT", help="The role of this tenant; without it, of every tenant."
)
permissions_option = click.option(
    "--permission",
    "permissions",
    multiple=True,
    required=True,
    metavar="PERMISSION",
    help="What it grants, resource:action; may be repeated.",
)


@click.group()
def roles() -> None:
    """The roles: those of [roles], and those made while running."""


@roles.command()
@click.argument("role")
@permissions_option
@tenant_option
@config_option
@json_option
def add(
    role: str, permissions: tuple[str, ...], tenant: str | None, config_file: Path, *, as_json: bool
) -> None:
    """Add the role ROLE."""
    answer = perform(config_file, "roles.add", role=role, tenant_id=tenant, permissions=permissions)
    _print(answer, as_json=as_json)


@roles.command(name="set")
@click.argument("role")
@permissions_option
@tenant_option
@config_option
@json_option
def set_role(
    role: str, permissions: tuple[str, ...], tenant: str | None, config_file: Path, *, as_json: bool
) -> None:
    """Have ROLE grant these permissions, and no others.

    At once, and to tokens that are out, too.
    """
    answer = perform(config_file, "roles.set", role=role, tenant_id=tenant, permissions=permissions)
    _print(answer, as_json=as_json)


@roles.command(name="list")
@config_option
@json_option
def list_roles(config_file: Path, *, as_json: bool) -> None:
    """List the roles."""
    found = all_pages(config_file, "roles.list", "roles")
    if as_json:
        print_json({"roles": found})
        return
    rows = [(r["role"], r["tenant_id"] or "every", r["source"], r["permissions"]) for r in found]
    print_table(("ROLE", "TENANT", "FROM", "WHAT"), rows)


@roles.command()
@click.argument("role")
@tenant_option
@config_option
@json_option
def show(role: str, tenant: str | None, config_file: Path, *, as_json: bool) -> None:
    """Show one role."""
    _print(perform(config_file, "roles.show", role=role, tenant_id=tenant), as_json=as_json)


@roles.command()
@click.argument("role")
@tenant_option
@config_option
def remove(role: str, tenant: str | None, config_file: Path) -> None:
    """Remove ROLE, which no client has any more."""
    perform(config_file, "roles.remove", role=role, tenant_id=tenant)
    click.echo(f"The role {role} is removed.")


def _print(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    role = answer["role"]
    print_fields(
        [
            ("role", role["role"]),
            ("tenant", role["tenant_id"] or "every tenant"),
            ("from", role["source"]),
            ("permissions", role["permissions"]),
        ]
    )
