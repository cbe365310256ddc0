"""Lists of rows: a table without truncated cells for people, or a JSON array for programs."""

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from api.printable import escaped, without_controls

DATE_COLUMNS: Final = 10
"""Where a column is too narrow, a time is divided between its date and its time of day."""
_UNBOUNDED_COLUMNS: Final = 1000
"""The width of a pipe, which has none."""


def new_table() -> Table:
    """Return an empty table, without lines."""
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)


def print_table(table: Table) -> None:
    """Print a table on stdout; a terminal that is too narrow for it wraps its lines."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not sys.stdout.isatty():
        console.width = _UNBOUNDED_COLUMNS
    console.width = max(console.width, sum(map(_least_columns, table.columns)))
    console.print(table)


def _least_columns(column: Column) -> int:
    """Set the minimum width of a column to what is legible, and return it."""
    texts = [str(text) for text in (column.header, *column.cells)]
    if column.no_wrap:
        column.min_width = max(map(cell_len, texts))
    else:
        longest_word = max(map(cell_len, " ".join(texts).split()))
        column.min_width = max(column.min_width or 0, min(longest_word, DATE_COLUMNS))
    return column.min_width + 1


def print_json(things: Iterable[object]) -> None:
    """Print a JSON array on stdout, one item a line.

    Control characters are escaped, because a terminal may show the output.
    """
    lines = ",\n".join(escaped(msgspec.json.encode(thing).decode()) for thing in things)
    typer.echo(f"[\n{lines}\n]" if lines else "[]")


def cell(text: str) -> Text:
    """Return an untrusted text with its control characters escaped."""
    return Text(without_controls(text))


def shown(at: datetime | None) -> str:
    """Return a time in UTC as text."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"
