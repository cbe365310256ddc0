"""Tables on a terminal or a pipe: nothing of a cell is cut, and texts are shown as they are."""

import sys
from datetime import datetime
from typing import Final

from rich.console import Console
from rich.table import Table

DATE_COLUMNS: Final = 10
"""A time is broken between date and time of day where there is no room for both."""


def new_table() -> Table:
    """Return an empty table, without lines."""
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)


def print_table(table: Table) -> None:
    """Print a table on stdout."""
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width to keep to
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def shown(at: datetime | None) -> str:
    """Return a time in UTC as it is shown to people."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"
