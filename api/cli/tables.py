"""Lists, for people and for programs: a table of which nothing is cut, or a JSON array."""

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.printable import printable

DATE_COLUMNS: Final = 10
"""A time is broken between date and time of day where there is no room for both."""


def new_table() -> Table:
    """Return an empty table, without lines."""
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)


def print_table(table: Table) -> None:
    """Print a table on stdout."""
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width to keep to
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def print_json(things: Iterable[object]) -> None:
    """Print a JSON array on stdout, each thing on a line of its own."""
    lines = ",\n".join(msgspec.json.encode(thing).decode() for thing in things)
    typer.echo(f"[\n{lines}\n]" if lines else "[]")


def cell(text: str) -> Text:
    """Return a text from elsewhere as it may be shown on a terminal."""
    return Text(printable(text))


def shown(at: datetime | None) -> str:
    """Return a time in UTC as it is shown to people."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"
