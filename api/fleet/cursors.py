"""Cursors: where a page of a listing ended, as a text that clients hand back unread."""

import base64
from typing import Final, NamedTuple
from uuid import UUID

import msgspec


class Position(NamedTuple):
    """A place in the listing's order: behind the device that has, or had, this name and this id."""

    display_name: str
    device_id: UUID


_decode: Final = msgspec.json.Decoder(Position).decode
_encode: Final = msgspec.json.Encoder().encode


def to_cursor(position: Position) -> str:
    """Return a cursor for a position: base64url without padding, so it needs no escaping."""
    return base64.urlsafe_b64encode(_encode(position)).rstrip(b"=").decode()


def from_cursor(cursor: str) -> Position:
    """Return the position that a cursor stands for.

    Args:
        cursor: as `to_cursor` made it.

    Raises:
        ValueError: nothing of ours, or no longer whole.
    """
    try:
        position = _decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError) as error:
        raise ValueError("Expected a next_cursor of a listing") from error
    # Each position has one spelling, and Postgres has no text with a NUL in it.
    if to_cursor(position) != cursor or "\0" in position.display_name:
        raise ValueError("Expected a next_cursor of a listing")
    return position
