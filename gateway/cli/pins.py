"""``ostiary tools approve|diff|forget|list``: what upstreams say of themselves, as seen and as approved."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import click

from gateway.cli.output import print_json, print_table
from gateway.cli.session import config_option, json_option, perform

upstream_argument = click.argument("upstream", required=False)
name_argument = click.argument("tool", required=False, metavar="[NAME]")
kind_option = click.option(
    "--kind",
    type=click.Choice(["tool", "prompt", "template", "instructions"]),
    help="Only what is of that kind.",
)


@click.command()
@upstream_argument
@name_argument
@kind_option
@click.option("--digest", metavar="SHA256", help="Only if what was seen last is what `diff` showed with it.")
@config_option
@json_option
def approve(
    upstream: str | None,
    tool: str | None,
    kind: str | None,
    digest: str | None,
    config_file: Path,
    *,
    as_json: bool,
) -> None:
    """Approve definitions as they were seen last.

    Those of all upstreams, of UPSTREAM, or the one called NAME. `ostiary tools diff` ends with the command that approves
    what it showed, and nothing that came after.
    """
    done = perform(config_file, "tools.approve", upstream=upstream, tool=tool, kind=kind, digest=digest)
    found = done["tools"]
    if as_json:
        print_json({"tools": found})
        return
    for each in found:
        click.echo(f"{printable(each['pin_id'])} is approved: sha256 {each['approved_digest']}")
    if not found:
        click.echo("There is nothing that is not approved.")


@click.command()
@upstream_argument
@name_argument
@kind_option
@config_option
@json_option
def diff(
    upstream: str | None, tool: str | None, kind: str | None, config_file: Path, *, as_json: bool
) -> None:
    """Show what has changed since it was approved.

    Ends 1 if anything has.
    """
    every = perform(config_file, "tools.list", upstream=upstream, tool=tool, kind=kind)
    found = [each for each in every["tools"] if each["status"] in {"changed", "not approved"}]
    seen = every["digest"] if tool is None or not found else found[0]["seen_digest"]
    if as_json:
        print_json({"tools": found, "digest": seen})
    else:
        for each in found:
            click.echo(difference(each))
    if not found:
        return
    if not as_json:
        chosen = [word for word in (upstream, tool, kind and f"--kind {kind}") if word]
        words = " ".join(printable(word) for word in chosen)
        click.echo(f"to approve this: ostiary tools approve {words}{' ' * bool(words)}--digest {seen}")
    click.get_current_context().exit(1)


@click.command()
@upstream_argument
@name_argument
@kind_option
@config_option
@json_option
def forget(
    upstream: str | None, tool: str | None, kind: str | None, config_file: Path, *, as_json: bool
) -> None:
    """Forget what upstreams list no more, with its approval.

    That of all upstreams, of UPSTREAM, or the one called NAME, also if it is listed: then it is new again, and not approved.
    """
    found = perform(config_file, "tools.forget", upstream=upstream, tool=tool, kind=kind)["tools"]
    if as_json:
        print_json({"tools": found})
        return
    for each in found:
        click.echo(f"{printable(each['pin_id'])} is forgotten")
    if not found:
        click.echo("There is nothing that is gone.")


@click.command(name="list")
@upstream_argument
@kind_option
@config_option
@json_option
def listed(upstream: str | None, kind: str | None, config_file: Path, *, as_json: bool) -> None:
    """List what was seen, and what of it is approved."""
    found = perform(config_file, "tools.list", upstream=upstream, tool=None, kind=kind)["tools"]
    if as_json:
        print_json({"tools": found})
        return
    rows = [
        (printable(t["pin_id"]), t["kind"], t["status"], t["seen_digest"][:16], t["approved_at"])
        for t in found
    ]
    print_table(("NAME", "KIND", "STATUS", "SHA256", "APPROVED"), rows)


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
