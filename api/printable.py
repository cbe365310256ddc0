"""Escapes control characters in texts of clients and servers, before a terminal shows them."""

from typing import Final

_MOST_SHOWN: Final = 300


def without_controls(text: str) -> str:
    """Return a text with a blank for each character that a terminal might obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def escaped(text: str) -> str:
    r"""Return a text with `\uXXXX` for each character that a terminal might obey.

    Inside a JSON string that is another spelling of the same character. Line breaks stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else _json_escape(char) for char in text
    )


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def printable(text: str) -> str:
    """Return what may be shown of a text from elsewhere: one line, of bounded length."""
    line = " ".join(without_controls(text[: 2 * _MOST_SHOWN]).split())
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}…"
