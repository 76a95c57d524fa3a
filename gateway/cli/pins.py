"""``ostiary tools approve|diff|list``: the definitions of upstreams' tools, as seen and as approved."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import click

from gateway.cli.output import print_json, print_table
from gateway.cli.session import config_option, json_option, perform

upstream_argument = click.argument("upstream", required=False)
tool_argument = click.argument("tool", required=False)


@click.command()
@upstream_argument
@tool_argument
@click.option("--digest", metavar="SHA256", help="Only if the definition that was seen last has this digest.")
@config_option
@json_option
def approve(
    upstream: str | None, tool: str | None, digest: str | None, config_file: Path, *, as_json: bool
) -> None:
    """Approve tools' definitions as they were seen last.

    Those of all upstreams, of UPSTREAM, or of its TOOL alone.
    """
    if digest is not None and tool is None:
        raise click.UsageError("--digest is of one tool: name UPSTREAM and TOOL.")
    found = perform(config_file, "tools.approve", upstream=upstream, tool=tool, digest=digest)["tools"]
    if as_json:
        print_json({"tools": found})
        return
    for each in found:
        click.echo(f"{printable(each['pin_id'])} is approved: sha256 {each['approved_digest']}")
    if not found:
        click.echo("There is nothing that is not approved.")


@click.command()
@upstream_argument
@tool_argument
@config_option
@json_option
def diff(upstream: str | None, tool: str | None, config_file: Path, *, as_json: bool) -> None:
    """Show what has changed since it was approved.

    Ends 1 if anything has.
    """
    every = perform(config_file, "tools.list", upstream=upstream, tool=tool)["tools"]
    found = [each for each in every if each["status"] != "approved"]
    if as_json:
        print_json({"tools": found})
    else:
        for each in found:
            click.echo(difference(each))
    if found:
        click.get_current_context().exit(1)


@click.command(name="list")
@upstream_argument
@config_option
@json_option
def listed(upstream: str | None, config_file: Path, *, as_json: bool) -> None:
    """List the tools that were seen, and what is approved."""
    found = perform(config_file, "tools.list", upstream=upstream, tool=None)["tools"]
    if as_json:
        print_json({"tools": found})
        return
    rows = [(printable(t["pin_id"]), t["status"], t["seen_digest"][:16], t["approved_at"]) for t in found]
    print_table(("TOOL", "STATUS", "SHA256", "APPROVED"), rows)


def difference(pin: dict[str, Any]) -> str:
    """A unified diff of the definitions, member by member, that a terminal can show."""
    name = printable(pin["pin_id"])
    lines = difflib.unified_diff(
        _lines(pin["approved"]), _lines(pin["seen"]), f"{name} approved", f"{name} seen", lineterm=""
    )
    return "\n".join(lines) + f"\nsha256 {pin['seen_digest']}"


def _lines(definition: str | None) -> list[str]:
    """One member a line. Escaped as ASCII: what cannot be seen must not hide."""
    if definition is None:
        return []
    return json.dumps(json.loads(definition), indent=2, sort_keys=True, ensure_ascii=True).splitlines()


def printable(text: str) -> str:
    """An upstream's words, without what a terminal would obey."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
