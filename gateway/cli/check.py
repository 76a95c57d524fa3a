"""``ostiary check``"""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.output import print_json, printable
from gateway.cli.session import config_option, environment, json_option, now


@click.command()
@config_option
@json_option
def check(config_file: Path, *, as_json: bool) -> int:
    """Check configuration, secret, certificates and file modes.

    What stops `ostiary serve` is a problem, and ends 1. What only costs something is a warning. Nothing is changed, and
    no upstream is asked whether it answers.
    """
    from gateway.checks import check as look

    found = look(config_file, environment(), now())
    if as_json:
        print_json({"problems": found.problems, "warnings": found.warnings})
        return 1 if found.problems else 0
    for problem in found.problems:
        click.echo(printable(problem))
    for warning in found.warnings:
        click.echo(f"warning: {printable(warning)}")
    if found.problems:
        click.echo(f"ostiary: {len(found.problems)} to mend before `ostiary serve`", err=True)
        return 1
    click.echo(f"{config_file}: nothing to mend")
    return 0
