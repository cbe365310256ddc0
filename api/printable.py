"""Texts from elsewhere, as they may be shown on a terminal, which would obey some of them."""

from typing import Final

_MOST_SHOWN: Final = 300


def printable(text: str) -> str:
    """Return what may be shown of a text from elsewhere: one line, of bounded length."""
    line = "".join(char if char.isprintable() else " " for char in text[: 2 * _MOST_SHOWN])
    line = " ".join(line.split())
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}…"
