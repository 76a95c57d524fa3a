"""``ostiary api-keys``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.clients import all_pages
from gateway.cli.output import print_json, print_table, short_time
from gateway.cli.session import config_option, json_option, perform


@click.group(name="api-keys")
def api_keys() -> None:
    """The API keys of clients, for machines.

    Clients make their own over HTTP, too (/auth/api-keys).
    """


@api_keys.command()
@click.argument("client")
@click.option("--name", required=True, metavar="NAME", help="What it is for; need not be unique.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="PERMISSION",
    help="It may do this and no more; may be repeated. None: all that CLIENT may do at the time.",
)
@click.option(
    "--expires-in",
    default="90d",
    show_default=True,
    metavar="DURATION",
    help="12h, 30d: how long it is good.",
)
@config_option
@json_option
def add(
    client: str, name: str, *, scopes: tuple[str, ...], expires_in: str, config_file: Path, as_json: bool
) -> None:
    """Make an API key for CLIENT, and print it once."""
    answer = perform(
        config_file,
        "api_keys.add",
        client_id=client,
        name=name,
        scopes=scopes,
        expires_in=_seconds("--expires-in", expires_in),
    )
    _print_new(answer, as_json=as_json)


@api_keys.command(name="list")
@click.argument("client", required=False)
@config_option
@json_option
def list_keys(client: str | None, config_file: Path, *, as_json: bool) -> None:
    """List the API keys that are good, of CLIENT or of all."""
    found = all_pages(config_file, "api_keys.list", "api_keys", client_id=client)
    if as_json:
        print_json({"api_keys": found})
        return
    rows = [
        (
            each["key_id"],
            each["client_id"],
            each["name"],
            each["prefix"],
            each["scopes"],
            short_time(each["expires_at"]),
            short_time(each["last_used_at"]),
            "rotated" if each["successor_id"] else "good",
        )
        for each in found
    ]
    columns = ("KEY", "CLIENT", "NAME", "PREFIX", "SCOPES", "EXPIRES (UTC)", "LAST USED (UTC)", "STATE")
    print_table(columns, rows)


@api_keys.command()
@click.argument("key_id")
@click.option(
    "--overlap",
    default="1d",
    show_default=True,
    metavar="DURATION",
    help="How long the old one stays good: 0s, 7d.",
)
@click.option(
    "--expires-in", default="90d", show_default=True, metavar="DURATION", help="How long the new one is good."
)
@config_option
@json_option
def rotate(key_id: str, *, overlap: str, expires_in: str, config_file: Path, as_json: bool) -> None:
    """Make a key in the place of KEY_ID, and print it once.

    It has the same client, name and scopes. The old one is good beside it for a while.
    """
    answer = perform(
        config_file,
        "api_keys.rotate",
        key_id=key_id,
        overlap=_seconds("--overlap", overlap),
        expires_in=_seconds("--expires-in", expires_in),
    )
    _print_new(answer, as_json=as_json)


@api_keys.command()
@click.argument("key_id")
@config_option
@json_option
def revoke(key_id: str, config_file: Path, *, as_json: bool) -> None:
    """End the API key KEY_ID, and the tokens had with it."""
    answer = perform(config_file, "api_keys.revoke", key_id=key_id)
    if as_json:
        print_json(answer)
        return
    count = answer["revoked"]
    had = f"; {count} token{'' if count == 1 else 's'} that were had with it ended, too" if count else ""
    click.echo(f"API key {key_id} of {answer['key']['client_id']} is good no more{had}.")


def _print_new(answer: dict[str, Any], *, as_json: bool) -> None:
    key = answer["key"]
    if as_json:
        print_json({"api_key": answer["api_key"], **key})
        return
    until = short_time(key["expires_at"])
    click.echo(f"API key {key['key_id']} of {key['client_id']}, good until {until} UTC, shown this once:")
    click.echo(f"\n    {answer['api_key']}")


def _seconds(option: str, text: str) -> int:
    """Raises click.UsageError."""
    from gateway.config.shapes import parse_duration

    seconds = parse_duration(text)
    if seconds is None:
        raise click.UsageError(f'{option} is a duration such as "12h" or "30d".')
    return int(seconds)
