"""Cursors: where a page of a list ended, as a text that clients send back as it is."""

import base64
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec


class Position(NamedTuple):
    """A position in the listing: after the device that has, or had, this name and this id."""

    display_name: str
    device_id: UUID


_T = TypeVar("_T")
_encode: Final = msgspec.json.Encoder().encode
_position: Final = msgspec.json.Decoder(Position)
_text: Final = msgspec.json.Decoder(str)


def to_cursor(place: Position | str) -> str:
    """Return a cursor for a place in a list: base64url without padding, so it needs no escaping.

    Args:
        place: a position in a listing of devices, or the id of a group.
    """
    return base64.urlsafe_b64encode(_encode(place)).rstrip(b"=").decode()


def from_cursor(cursor: str) -> Position:
    """Return the position in a listing of devices that a cursor stands for.

    Args:
        cursor: as `to_cursor` made it.

    Raises:
        ValueError: it is not from `to_cursor`, or not complete.
    """
    position = _read(cursor, _position)
    if "\0" in position.display_name:  # Postgres has no text with a NUL in it
        raise _not_a_cursor()
    return position


def group_from_cursor(cursor: str) -> str:
    """Return the id of the group that a cursor stands for.

    Args:
        cursor: as `to_cursor` made it.

    Raises:
        ValueError: it is not from `to_cursor`, or not complete.
    """
    group_id = _read(cursor, _text)
    if "\0" in group_id:
        raise _not_a_cursor()
    return group_id


def _read(cursor: str, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        place = decoder.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError) as error:
        raise _not_a_cursor() from error
    # Each position has exactly one cursor.
    if base64.urlsafe_b64encode(_encode(place)).rstrip(b"=").decode() != cursor:
        raise _not_a_cursor()
    return place


def _not_a_cursor() -> ValueError:
    return ValueError("Expected a next_cursor of a listing")
