"""``ostiary audit``"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import click

from gateway.cli.audit_files import export, key, verify
from gateway.cli.output import print_json, print_table, printable, short_time
from gateway.cli.session import config_option, json_option, perform, perform_soon, read_settings

FOLLOW_SECONDS = 1.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
PAGE = 1000
"""Entries that are asked for at once; where there are as many, the next ones at once."""


@click.group()
def audit() -> None:
    """Who did what, when, and how it ended."""


for command in (verify, export, key):
    audit.add_command(command)


@audit.command()
@click.option("--client", "client_id", metavar="NAME", help="The client who did it, or to whom it was done.")
@click.option("--status", help="ok, error, denied, failed, timeout or cancelled.")
@click.option("--event", help="Such as tool_call, auth_failed, token_issued, admin_change.")
@click.option("--tool", "tool_name", metavar="NAME", help="The tool, by its prefixed name.")
@click.option("--tenant", "tenant_id", metavar="NAME", help="The tenant.")
@click.option("--since", metavar="TIME", help="From this time on (RFC 3339, or a date).")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many."
)
@click.option("--cursor", help="Go on after a page: its next_cursor.")
@config_option
@json_option
def query(config_file: Path, *, as_json: bool, **filters: object) -> None:
    """Entries that match every filter, newest first."""
    page = perform(config_file, "audit.query", **filters)
    if as_json:
        print_json(page)
        return
    rows = [(*_facts(entry), entry["reason"]) for entry in page["entries"]]
    print_table(("TIME (UTC)", "EVENT", "STATUS", "CLIENT", "WHAT", "REASON"), rows)
    if page["next_cursor"] is not None:
        click.echo(f"There are more: --cursor {page['next_cursor']}", err=True)


@audit.command()
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="So many to begin with.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@config_option
def tail(lines: int, config_file: Path, *, follow: bool, as_json: bool) -> None:
    """The newest entries, oldest of them first."""
    asyncio.run(_tail(config_file, lines, follow=follow, as_json=as_json))


@audit.command()
@click.option(
    "--older-than",
    metavar="AGE",
    help="Remove sealed segments all of whose entries are older: 90d, 12w, 36h.",
)
@click.option("--compress", is_flag=True, help="Compress the sealed segments that stay.")
@config_option
@json_option
def prune(older_than: str | None, config_file: Path, *, compress: bool, as_json: bool) -> None:
    """Remove or compress what is old.

    Whole segments go; the rest still verifies, from a signed starting point.
    """
    if older_than is None and not compress:
        raise click.UsageError("Give --older-than AGE, --compress, or both.")
    answer: dict[str, Any] = {}
    if older_than is not None:
        answer |= perform(config_file, "audit.prune", older_than=_age(older_than))
    if compress:
        answer |= _compress(config_file)
    if as_json:
        print_json(answer)
        return
    if older_than is not None:
        click.echo(f"{answer['segments']} segments with {answer['entries']} entries were removed.")
        if (held := answer["held_back"]) is not None:
            click.echo(
                f"Segment {held['segment']} has an entry of {held['newest']}: it stays until that is old enough (was a clock"
                f" wrong?), and so do {held['older']} after it that are.",
                err=True,
            )
    if compress:
        click.echo(f"{answer['compressed']} segments were compressed.")


def _compress(config_file: Path) -> dict[str, Any]:
    """A few at a time, so that a server answers in between."""
    compressed = 0
    while True:
        answer = perform(config_file, "audit.compress")
        compressed += answer["compressed"]
        if not answer["left"] or not answer["compressed"]:
            return {"compressed": compressed}


def _age(text: str) -> int:
    """Seconds. Raises click.UsageError."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if found is None:
        raise click.UsageError("An age is a number with s, m, h, d or w, such as 90d.")
    return int(found[1]) * _UNITS[found[2]]


async def _tail(config_file: Path, lines: int, *, follow: bool, as_json: bool) -> None:
    from gateway.operations.control import NoServer, ask

    settings = read_settings(config_file)
    page = await perform_soon(settings, "audit.follow", {"limit": lines})
    _print_entries(page["entries"], as_json=as_json)
    while follow:
        if len(page["entries"]) < PAGE:
            await asyncio.sleep(FOLLOW_SECONDS)
        # Only a server writes entries worth following, and the store is not ours to hold while we wait for one.
        try:
            page = await ask(
                settings.storage.path, "audit.follow", {"limit": PAGE, "cursor": page["next_cursor"]}
            )
        except NoServer:
            await asyncio.sleep(FOLLOW_SECONDS)
            continue
        _print_entries(page["entries"], as_json=as_json)


def _print_entries(entries: list[dict[str, Any]], *, as_json: bool) -> None:
    for entry in entries:
        if as_json:
            click.echo(json.dumps(entry))
        else:
            click.echo("  ".join(map(printable, (*_facts(entry), entry["reason"]))))


def _facts(entry: dict[str, Any]) -> tuple[str | None, ...]:
    return short_time(entry["timestamp"]), entry["event"], entry["status"], entry["client_id"], _what(entry)


def _what(entry: dict[str, Any]) -> str:
    """What was acted upon, and how; a count where an entry sums up several."""
    words = [entry["tool_name"] or entry["target"] or "-"]
    if entry["event"] == "admin_change" or entry["actor"] is not None:
        words.insert(0, entry["method"] or "-")
    if entry["actor"] is not None:
        words += ["by", entry["actor"]]
    if entry["count"] > 1:
        words.append(f"(x{entry['count']})")
    return " ".join(words)
