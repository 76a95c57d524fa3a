"""``ostiary mfa``, and ``ostiary clients mfa-reset``."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.clients import clients
from gateway.cli.session import config_option, perform


@click.group()
def mfa() -> None:
    """Second factors."""


@mfa.command(name="rotate-key")
@config_option
def rotate_key(config_file: Path) -> None:
    """Seal all second factors with a new key.

    The old one is forgotten. Keep the old key file with backups that were made before: they are sealed with it.
    """
    count = perform(config_file, "mfa.rotate_key")["sealed"]
    click.echo(f"{count} second factor{'' if count == 1 else 's'} sealed with a new key.")


@clients.command(name="mfa-reset")
@click.argument("name")
@config_option
def mfa_reset(name: str, config_file: Path) -> None:
    """Take the second factor of NAME away, whose phone was lost."""
    if perform(config_file, "clients.mfa_reset", client_id=name)["reset"]:
        click.echo(f"{name} signs in by the password alone now, and may enrol anew.")
    else:
        click.echo(f"{name} has no second factor.")
