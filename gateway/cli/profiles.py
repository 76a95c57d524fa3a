"""``ostiary clients profile`` and ``ostiary clients email-code``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli.output import print_fields, print_json, short_time
from gateway.cli.session import config_option, json_option, perform


@click.command()
@click.argument("name")
@click.option("--given-name", metavar="TEXT", help="Its given name; empty: none.")
@click.option("--family-name", metavar="TEXT", help="Its family name; empty: none.")
@click.option("--email", metavar="ADDRESS", help="Its e-mail address, not verified yet; empty: none.")
@click.option("--verified/--not-verified", default=None, help="Whether you know the address to be its own.")
@config_option
@json_option
def profile(
    name: str,
    *,
    given_name: str | None,
    family_name: str | None,
    email: str | None,
    verified: bool | None,
    config_file: Path,
    as_json: bool,
) -> None:
    """Change or show the names and the e-mail address of NAME."""
    wanted: dict[str, Any] = {
        key: value or None
        for key, value in (("given_name", given_name), ("family_name", family_name), ("email", email))
        if value is not None
    }
    if verified is not None:
        wanted["email_verified"] = verified
    answer = perform(config_file, "clients.profile", client_id=name, **wanted)
    if as_json:
        print_json(answer)
        return
    shown = answer["profile"]
    print_fields(
        [
            ("client", shown["client_id"]),
            ("given name", shown["given_name"] or "none"),
            ("family name", shown["family_name"] or "none"),
            ("e-mail", shown["email"] or "none"),
            ("verified", "yes" if shown["email_verified"] else "no"),
        ]
    )


@click.command(name="email-code")
@click.argument("name")
@config_option
@json_option
def email_code(name: str, config_file: Path, *, as_json: bool) -> None:
    """Make a code that proves the e-mail address of NAME.

    Send it to that address: whoever enters it at /auth/verify-email reads mail there. It is good once, for a day.
    """
    answer = perform(config_file, "clients.email_code", client_id=name)
    if as_json:
        print_json(answer)
        return
    print_fields(
        [("send to", answer["email"]), ("code", answer["code"]), ("until", short_time(answer["expires_at"]))]
    )
