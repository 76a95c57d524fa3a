"""``ostiary serve``"""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.session import config_option, environment


@click.command()
@config_option
def serve(config_file: Path) -> int:
    """Run the gateway until SIGTERM; SIGHUP reloads."""
    from gateway.app import run

    return run(config_file, environment())
