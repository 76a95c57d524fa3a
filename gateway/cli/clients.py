"""``ostiary clients``"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from gateway.cli.output import print_fields, print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, password_from_stdin, perform

password_stdin_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from a line of stdin."
)


@click.group()
def clients() -> None:
    """The clients: services, agents and people."""


@clients.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of [roles]; may be repeated.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    metavar="PERMISSION",
    help="resource:action; may be repeated.",
)
@click.option(
    "--tenant", default="default", show_default=True, metavar="NAME", help="The tenant that it belongs to."
)
@click.option(
    "--certificate", metavar="ID", help="What its certificates yield: NAME by default; none: no certificate."
)
@click.option(
    "--require-certificate", is_flag=True, help="Its tokens are issued and good only with its certificate."
)
@password_stdin_option
@config_option
@json_option
def add(
    name: str,
    *,
    roles: tuple[str, ...],
    permissions: tuple[str, ...],
    tenant: str,
    certificate: str | None,
    config_file: Path,
    require_certificate: bool,
    password_stdin: bool,
    as_json: bool,
) -> None:
    """Add the client NAME: its client_id and its username."""
    answer = perform(
        config_file,
        "clients.add",
        client_id=name,
        roles=roles,
        permissions=permissions,
        tenant_id=tenant,
        certificate=certificate,
        require_certificate=require_certificate,
        password=password_from_stdin() if password_stdin else None,
    )
    if as_json:
        print_json(answer)
        return
    click.echo(f"{name} was added.")
    client = answer["client"]
    if not client["has_password"]:
        click.echo(f"It has no password; to set one: ostiary clients set-password {shlex.quote(name)}")
    if client["certificate"]:
        click.echo(_certificate_hint(client["certificate"]))


@clients.command(name="list")
@config_option
@json_option
def list_clients(config_file: Path, *, as_json: bool) -> None:
    """List the clients."""
    found = all_pages(config_file, "clients.list", "clients")
    if as_json:
        print_json({"clients": found})
        return
    rows = [
        (
            c["client_id"],
            c["tenant_id"],
            c["roles"],
            c["certificate"],
            "yes" if c["has_password"] else "no",
            "no" if c["mfa"] is None else "yes",
            _state(c),
        )
        for c in found
    ]
    print_table(("CLIENT", "TENANT", "ROLES", "CERTIFICATE", "PASSWORD", "MFA", "STATE"), rows)


@clients.command()
@click.argument("name")
@config_option
@json_option
def show(name: str, config_file: Path, *, as_json: bool) -> None:
    """Show one client."""
    _print_client(perform(config_file, "clients.show", client_id=name), as_json=as_json)


@clients.command()
@click.argument("name")
@config_option
def disable(name: str, config_file: Path) -> None:
    """Let NAME in no more, by whatever credentials."""
    perform(config_file, "clients.disable", client_id=name)
    click.echo(f"{name} is disabled.")


@clients.command()
@click.argument("name")
@config_option
def enable(name: str, config_file: Path) -> None:
    """Let NAME in again."""
    perform(config_file, "clients.enable", client_id=name)
    click.echo(f"{name} is enabled.")


@clients.command(name="set-password")
@click.argument("name")
@password_stdin_option
@config_option
def set_password(name: str, config_file: Path, *, password_stdin: bool) -> None:
    """Set the password of NAME, asking for it twice."""
    perform(config_file, "clients.set_password", client_id=name, password=_new_password(stdin=password_stdin))
    click.echo(f"The password of {name} is set.")


@clients.command(name="set-certificate")
@click.argument("name")
@click.option("--certificate", metavar="ID", help="What its certificates yield; none: no certificate.")
@click.option(
    "--require-certificate/--no-require-certificate",
    default=None,
    help="Whether its tokens are issued and good only with its certificate.",
)
@config_option
@json_option
def set_certificate(
    name: str, *, certificate: str | None, require_certificate: bool | None, config_file: Path, as_json: bool
) -> None:
    """Change the certificate of NAME, or whether it needs it.

    This holds at once, on open connections, too. Certificates that yield what was its ID before name nobody any more.
    """
    wanted: dict[str, object] = {} if certificate is None else {"certificate": certificate}
    if require_certificate is not None:
        wanted["require_certificate"] = require_certificate
    if not wanted:
        raise click.UsageError("say what is to change: --certificate, --require-certificate or both.")
    _print_client(perform(config_file, "clients.change", client_id=name, **wanted), as_json=as_json)


@clients.command()
@click.argument("name")
@config_option
def erase(name: str, config_file: Path) -> None:
    """Erase NAME for good, and revoke its tokens.

    It goes from the store, the audit, and the backups that are made afterwards. What stays cannot be read, and keeps its name and certificate id from being anybody else's.
    """
    answer = perform(config_file, "clients.erase", client_id=name)
    count = answer["audit_values"]
    click.echo(
        f"{name} is erased; {answer['revoked']} of its tokens were revoked, and {count} values taken out of the audit."
    )
    click.echo("Older backups and what the log was written to still have it.")


@clients.command()
@click.argument("name")
@config_option
def export(name: str, config_file: Path) -> None:
    """Print all that is held of NAME, as JSON.

    Of secrets (hashes of passwords, say) only whether there are any.
    """
    held = perform(config_file, "clients.export", client_id=name)
    cursor = held.pop("next_cursor")
    while cursor is not None:
        page = perform(config_file, "clients.export", client_id=name, cursor=cursor)
        held["audit"] += page["audit"]
        cursor = page["next_cursor"]
    print_json(held)


@clients.command()
@click.argument("name")
@config_option
def unlock(name: str, config_file: Path) -> None:
    """End every lock-out of NAME after wrong passwords or codes."""
    answer = perform(config_file, "clients.unlock", client_id=name)
    if answer["unlocked"]:
        click.echo(f"{name} is unlocked.")
    else:
        click.echo(f"{name} was not locked out.")


@clients.command()
@click.argument("name")
@click.option(
    "--role",
    "role",
    multiple=True,
    metavar="ROLE",
    help="Have these roles, instead of those it has; may be repeated.",
)
@click.option("--add-role", "--add", multiple=True, metavar="ROLE", help="Have this role, too.")
@click.option("--remove-role", "--remove", multiple=True, metavar="ROLE", help="Have this role no more.")
@click.option("--no-roles", is_flag=True, help="Have no role.")
@click.option(
    "--permission",
    multiple=True,
    metavar="PERMISSION",
    help="Have these permissions, instead of those it has; may be repeated.",
)
@click.option("--add-permission", multiple=True, metavar="PERMISSION", help="Have this permission, too.")
@click.option(
    "--remove-permission", multiple=True, metavar="PERMISSION", help="Have this permission no more."
)
@click.option("--no-permissions", is_flag=True, help="Have no permission of its own.")
@config_option
@json_option
def roles(
    name: str,
    *,
    role: tuple[str, ...],
    add_role: tuple[str, ...],
    remove_role: tuple[str, ...],
    permission: tuple[str, ...],
    add_permission: tuple[str, ...],
    remove_permission: tuple[str, ...],
    config_file: Path,
    no_roles: bool,
    no_permissions: bool,
    as_json: bool,
) -> None:
    """Change or show the roles and permissions of NAME."""
    if (role and no_roles) or (permission and no_permissions):
        raise click.UsageError(
            "--role and --no-roles, or --permission and --no-permissions, contradict each other."
        )
    answer = perform(
        config_file,
        "clients.roles",
        client_id=name,
        roles=role if role or no_roles else None,
        add_roles=add_role,
        remove_roles=remove_role,
        permissions=permission if permission or no_permissions else None,
        add_permissions=add_permission,
        remove_permissions=remove_permission,
    )
    _print_client(answer, as_json=as_json)


def all_pages(config_file: Path, operation: str, key: str, **parameters: object) -> list[dict[str, Any]]:
    """Everything of a listing, page after page."""
    found: list[dict[str, Any]] = []
    page = perform(config_file, operation, **parameters)
    found += page[key]
    while page["next_cursor"] is not None:
        page = perform(config_file, operation, cursor=page["next_cursor"], **parameters)
        found += page[key]
    return found


def _certificate_hint(certificate: str) -> str:
    """How to come by a certificate of that id."""
    from certs.identity import UnusableNameError
    from certs.names import checked_file_name

    theirs = f"Its certificates are those that yield {certificate}"
    try:
        checked_file_name(certificate)
    except UnusableNameError as error:
        return f"{theirs}. Not as common names of `ostiary certs issue`: {error}. [[tls.client_id]] has other rules."
    return f"{theirs}; to issue one: ostiary certs issue {shlex.quote(certificate)} --out DIR"


def _new_password(*, stdin: bool) -> str:
    if stdin:
        return password_from_stdin()
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on; give the password with --password-stdin.")
    password: str = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    return password


def _print_client(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    client = answer["client"]
    print_fields(
        [
            ("client", client["client_id"]),
            ("tenant", client["tenant_id"]),
            ("state", _state(client)),
            ("roles", client["roles"]),
            ("permissions", client["permissions"]),
            ("certificate", client["certificate"] or "none is accepted"),
            ("certificate required", "yes" if client["require_certificate"] else "no"),
            ("password", "set" if client["has_password"] else "none"),
            ("second factor", _second_factor(client["mfa"])),
            ("name", " ".join(filter(None, (client["given_name"], client["family_name"]))) or "none"),
            ("e-mail", _email(client)),
            ("created", short_time(client["created_at"])),
            ("changed", short_time(client["updated_at"])),
        ]
    )


def _second_factor(mfa: dict[str, Any] | None) -> str:
    if mfa is None:
        return "none"
    left = mfa["recovery_codes_left"]
    return f"since {short_time(mfa['enabled_at'])}, {left} recovery code{'' if left == 1 else 's'} left"


def _email(client: dict[str, Any]) -> str:
    if client["email"] is None:
        return "none"
    return f"{client['email']} ({'verified' if client['email_verified'] else 'not verified'})"


def _state(client: dict[str, Any]) -> str:
    if client["erased_at"] is not None:
        return "erased"
    return "enabled" if client["disabled_at"] is None else "disabled"
