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
    """Look for everything that would stop the gateway or weaken it, and say what to do about each."""
    from gateway.checks import check as look

    problems = look(config_file, environment(), now())
    if as_json:
        print_json({"problems": problems})
        return 1 if problems else 0
    for problem in problems:
        click.echo(printable(problem))
    if problems:
        click.echo(f"ostiary: {len(problems)} to mend before `ostiary serve`", err=True)
        return 1
    click.echo(f"{config_file}: nothing to mend")
    return 0
