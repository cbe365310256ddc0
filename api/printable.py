"""Texts from elsewhere, as they may be shown on a terminal, which would obey some of them."""

from typing import Final

_MOST_SHOWN: Final = 300


def without_controls(text: str) -> str:
    """Return a text with a blank for each character that a terminal might obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def printable(text: str) -> str:
    """Return what may be shown of a text from elsewhere: one line, of bounded length."""
    line = " ".join(without_controls(text[: 2 * _MOST_SHOWN]).split())
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}…"
