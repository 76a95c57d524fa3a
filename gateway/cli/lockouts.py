"""``ostiary lockouts``"""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.clients import all_pages
from gateway.cli.output import print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, perform

_WHAT = {
    "account_at_address": "account at this address",
    "account": "account, from anywhere new",
    "address": "address",
    "second_factor": "second factor",
}


@click.group()
def lockouts() -> None:
    """Who has to wait, after too many wrong passwords or codes."""


@lockouts.command(name="list")
@click.option("--client", "client_id", metavar="NAME", help="Only those of this client.")
@config_option
@json_option
def list_lockouts(client_id: str | None, config_file: Path, *, as_json: bool) -> None:
    """List the lock-outs that are not over."""
    wanted = {} if client_id is None else {"client_id": client_id}
    found = all_pages(config_file, "lockouts.list", "lockouts", **wanted)
    if as_json:
        print_json({"lockouts": found})
        return
    rows = [
        (
            each["lockout_id"],
            _WHAT.get(each["scope"], each["scope"]),
            each["client_id"] or "",
            each["origin"] or "",
            each["count"],
            short_time(each["locked_until"]),
        )
        for each in found
    ]
    print_table(("ID", "LOCKED", "CLIENT", "ADDRESS", "WRONG", "UNTIL"), rows)


@lockouts.command()
@click.argument("lockout_id", metavar="ID")
@config_option
def end(lockout_id: str, config_file: Path) -> None:
    """End the lock-out ID.

    `ostiary clients unlock NAME` ends all of a client's.
    """
    perform(config_file, "lockouts.end", lockout_id=lockout_id)
    click.echo("The lock-out is ended.")
