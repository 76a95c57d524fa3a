"""``ostiary tokens``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.clients import all_pages
from gateway.cli.output import print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, now, perform


@click.group()
def tokens() -> None:
    """What is known of the tokens that were issued."""


@tokens.command(name="list")
@click.option("--client", "client_id", metavar="NAME", help="Those of one client.")
@config_option
@json_option
def list_tokens(client_id: str | None, config_file: Path, *, as_json: bool) -> None:
    """List the tokens that have not been purged."""
    found = all_pages(config_file, "tokens.list", "tokens", client_id=client_id)
    if as_json:
        print_json({"tokens": found})
        return
    rows = [(t["token_id"], t["client_id"], t["kind"], _expiry(t), _state(t)) for t in found]
    print_table(("TOKEN", "CLIENT", "KIND", "EXPIRES (UTC)", "STATE"), rows)


@tokens.command()
@click.argument("token_id", metavar="[TOKEN_ID]", required=False)
@click.option("--client", "client_id", metavar="NAME", help="All tokens of one client.")
@config_option
@json_option
def revoke(token_id: str | None, client_id: str | None, config_file: Path, *, as_json: bool) -> None:
    """Revoke one token, or every token of a client.

    With the TOKEN_ID of a refresh token, all that came from it is revoked, too.
    """
    if (token_id is None) == (client_id is None):
        raise click.UsageError("name one TOKEN_ID, or one client with --client NAME.")
    answer = perform(config_file, "tokens.revoke", token_id=token_id, client_id=client_id)
    if as_json:
        print_json(answer)
        return
    count = answer["revoked"]
    click.echo(
        f"{count} token{'' if count == 1 else 's'} revoked." if count else "No live token: nothing to revoke."
    )
    if answer["certificate"]:
        name = answer["client_id"]
        click.echo(
            f"A certificate of {name}, if any, still works; to stop that, too: ostiary clients disable {name}"
        )


def _expiry(token: dict[str, Any]) -> str | None:
    from gateway.clock import rfc3339

    return short_time(rfc3339(token["exp"]))


def _state(token: dict[str, Any]) -> str:
    if token["revoked_at"] is not None:
        return "revoked"
    return "live" if token["exp"] > now() else "expired"
