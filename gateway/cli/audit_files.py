"""``ostiary audit verify`` and ``export``: what reads the audit's files, beside a running server or without one."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from gateway.cli.output import print_fields, print_json, printable, short_time
from gateway.cli.session import config_option, json_option, read_settings

if TYPE_CHECKING:
    from persistence.audit_verify import Report

SHOWN_PROBLEMS = 50
"""So many are printed line by line; the rest are counted."""


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A checkpoint that was kept elsewhere: the audit must hold everything that it was signed for. "
    "[audit] checkpoint_file, if there is one, where none is given.",
)
@click.option(
    "--key", metavar="KEY", help="The public key that must have signed, as --json and `audit key` show it."
)
@config_option
@json_option
def verify(checkpoint: Path | None, key: str | None, config_file: Path, *, as_json: bool) -> int:
    """Check every entry, file and signature.

    Ends 1 if anything is not as it was written, and says where.
    """
    from persistence.audit_verify import verify as verify_files
    from persistence.checkpoint_file import published
    from persistence.records import StoreError

    settings = read_settings(config_file)
    store, elsewhere = settings.storage.path, checkpoint or settings.audit.checkpoint_file
    against = None
    if elsewhere is not None:  # before the store is read: a server goes on publishing
        against = published(elsewhere)
        if against is None:
            raise StoreError(
                f"{elsewhere}: No such file, so there is nothing to compare the audit with; mend its path "
                "([audit] checkpoint_file: the gateway writes it when it starts)"
            )
    with _progress_bar("Verifying") as progress:
        report = asyncio.run(verify_files(store, against=against, key=key, progress=progress))
    if as_json:
        print_json(_document(report))
    else:
        _print(report)
    return 0 if report.intact else 1


@click.command()
@config_option
def key(config_file: Path) -> None:
    """Print the public key that the audit is signed with.

    Keep it elsewhere, for `verify --key`.
    """
    from persistence.audit_state import read_audit
    from persistence.snapshot import take_snapshot

    with closing(take_snapshot(read_settings(config_file).storage.path)) as snapshot:
        click.echo(asyncio.run(read_audit(snapshot)).public_key)


@click.command()
@click.option("--since", metavar="TIME", help="From this time on (RFC 3339, or a date).")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="json and jsonl have the entries as they are stored, chain and all.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="A new file, mode 0600."
)
@config_option
def export(since: str | None, until: str | None, form: str, out: Path | None, config_file: Path) -> None:
    """Write the entries, oldest first."""
    from persistence.audit_segments import EntryFilter
    from persistence.records import AuditQuery

    store = read_settings(config_file).storage.path
    wanted = EntryFilter(AuditQuery(since=_time(since, "--since"), until=_time(until, "--until")))
    if out is None:
        count = asyncio.run(_export(store, wanted, form, sys.stdout))
        sys.stdout.flush()
    else:
        count = _export_to(out, lambda file: asyncio.run(_export(store, wanted, form, file)))
    click.echo(f"{count} entries", err=True)


async def _export(store: Path, wanted: Any, form: str, file: IO[str]) -> int:
    from persistence.audit_export import export_lines
    from persistence.snapshot import take_snapshot

    write = _WRITERS[form]
    with closing(take_snapshot(store)) as snapshot:
        return write(await export_lines(snapshot, wanted), file)


def _export_to(out: Path, export_into: Callable[[IO[str]], int]) -> int:
    """Write a new file; a half-written one does not stay."""
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a descriptor
            return export_into(file)
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def _write_jsonl(lines: Iterator[bytes], file: IO[str]) -> int:
    count = 0
    for line in lines:
        file.write(f"{line.decode()}\n")
        count += 1
    return count


def _write_json(lines: Iterator[bytes], file: IO[str]) -> int:
    count = 0
    file.write('{"entries":[')
    for line in lines:
        file.write(f"{',' if count else ''}\n{line.decode()}")
        count += 1
    file.write("\n]}\n")
    return count


def _write_csv(lines: Iterator[bytes], file: IO[str]) -> int:
    from persistence.records import AuditEntry

    columns = ("seq", *AuditEntry.__struct_fields__)
    row = io.StringIO()
    writer = csv.writer(row)
    writer.writerow(columns)
    count = 0
    for line in lines:
        entry = json.loads(line)
        writer.writerow([_cell(entry.get(column)) for column in columns])
        file.write(row.getvalue())
        row.seek(0)
        row.truncate()
        count += 1
    file.write(row.getvalue())
    return count


def _cell(value: object) -> object:
    """A value as a spreadsheet may have it: text that it would take for a formula is quoted."""
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return f"'{value}"
    return value


_WRITERS: dict[str, Callable[[Iterator[bytes], IO[str]], int]] = {
    "json": _write_json,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}


def _time(text: str | None, option: str) -> str | None:
    from gateway.operations.parameters import stored_time

    if text is None:
        return None
    stored = stored_time(text)
    if stored is None:
        raise click.UsageError(f"{option} is not a time; write it as 2026-01-31T12:00:00Z.")
    return stored


def _document(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    return {"intact": report.intact, **asdict(report)}


def _print(report: Report) -> None:
    print_fields(
        [
            ("entries", f"{report.entries} ({report.first_seq} to {report.last_seq})"),
            (
                "before the chain",
                f"{report.before_chain} (their files are signed)" if report.before_chain else None,
            ),
            ("sealed segments", report.segments),
            ("erased values", report.erased),
            ("signed up to", f"entry {report.signed_seq}, {short_time(report.signed_at) or '-'}"),
            ("not yet signed", report.unsigned),
            (
                "compared with",
                f"the checkpoint of {short_time(report.compared_with)}"
                if report.compared_with
                else "nothing kept elsewhere: an older audit in its place is not seen (--checkpoint)",
            ),
            (
                "unfinished",
                f"{'; '.join(report.unfinished)}: `ostiary clients erase NAME` again, unless it is under way"
                if report.unfinished
                else None,
            ),
            ("left over", ", ".join(report.left_over) or None),
            ("public key", report.key),
        ]
    )
    for problem in report.problems[:SHOWN_PROBLEMS]:
        click.echo(f"ostiary: {printable(problem)}", err=True)
    if len(report.problems) > SHOWN_PROBLEMS:
        click.echo(f"ostiary: and {len(report.problems) - SHOWN_PROBLEMS} more", err=True)
    if report.intact:
        click.echo("The audit is as it was written.")
    else:
        click.echo("ostiary: the audit is NOT as it was written", err=True)


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """On a terminal, on stderr."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
