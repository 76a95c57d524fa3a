"""``ostiary reload``"""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.session import config_option, perform


@click.command()
@config_option
def reload(config_file: Path) -> None:
    """Have the running gateway read its files anew.

    That is certificate, key, CAs, CRL, identity rules and signing keys. If anything is wrong with them, it says so, and
    the old ones stay in force.
    """
    perform(config_file, "server.reload")
    click.echo("The gateway has read its certificates, CAs, CRL and keys anew.")
