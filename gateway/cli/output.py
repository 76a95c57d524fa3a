"""What commands print: one JSON document, or a table. Text from the store may hold anything, so it is made printable.

An id is never cut or folded, so that it can be copied.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

_GAP = 3
"""What rich puts between two columns, and around them all."""
FREE_TEXT = frozenset({"ROLES", "SCOPES", "NAME", "ALTERNATIVE NAMES", "WHAT", "REASON"})
"""The columns that may be folded between words; all others hold ids, times and the like."""


def print_json(document: object) -> None:
    """One document, in ASCII: no terminal can be steered by what is in it."""
    click.echo(json.dumps(document, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table by rich on a terminal, aligned text elsewhere. None and "" show as "-".

    A terminal that is too narrow for it gets the rows one below another, a field a line.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells)
        return
    widths = [max(len(line[index]) for line in [list(columns), *cells]) for index in range(len(columns))]
    for line in [list(columns), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    widths = _widths(columns, cells, console.width)
    if widths is None:
        for line in cells:
            print_fields(list(zip(columns, line, strict=True)))
            click.echo()
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, width=width)
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """How wide each column shall be, where free text gives way down to its longest word; None: there is no room."""
    from rich.cells import cell_len

    widths = []
    excess = _GAP * len(columns) - room
    for index, column in enumerate(columns):
        widths.append(max(cell_len(text) for text in [column, *(line[index] for line in cells)]))
        excess += widths[-1]
    for index, column in enumerate(columns):
        if excess > 0 and column in FREE_TEXT:
            words = " ".join([column, *(line[index] for line in cells)]).split()
            given = min(excess, widths[index] - max(map(cell_len, words)))
            widths[index] -= given
            excess -= given
    return None if excess > 0 else widths


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """One thing, a field a line."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{name.ljust(width)}  {printable(value)}")


def printable(value: object) -> str:
    """A cell: lists joined, nothing as "-", everything that is not printable escaped."""
    if isinstance(value, list | tuple):
        value = " ".join(str(item) for item in value)
    if value is None or value == "":
        return "-"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_time(rfc3339: str | None) -> str | None:
    """``2026-01-02T03:04:05.678Z`` as ``2026-01-02 03:04:05`` (UTC)."""
    return None if rfc3339 is None else rfc3339[:19].replace("T", " ")
