"""The key types: what a touch may be keyed by, and its one canonical form.

A buffer must never hold two spellings of one key, or the older of two touches could win inside a
single UPDATE. So every key is converted to its canonical form first: `str` for `uuid` and `text`,
`int` for `bigint` and `integer`. Uuids are strings because a `uuid.UUID` is slower to hash, to
compare and to send, and because paths and headers contain strings.

What a touch and a view accept as a key of each type, and nothing else:

- `uuid`: a `uuid.UUID`, or 32 hexadecimal digits in upper or lower case, with hyphens or without.
- `bigint`, `integer`: an `int` in range, or its decimal digits as Postgres prints them: `"10"`, but
  not `"1_0"`, `" 7 "`, `"+7"`, `"007"` or digits of other scripts. No `bool`, `float` or `Decimal`.
- `text`: a `str` without NUL that UTF-8 can encode, exactly as it is.
"""

import re
import uuid
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

Key: TypeAlias = str | int
Entries: TypeAlias = dict[Key, int]
"""Key to the latest second, since the Unix epoch, at which it was touched."""
KeyType: TypeAlias = Literal["uuid", "bigint", "integer", "text"]

_CANONICAL_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_ANY_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}").fullmatch
"""`uuid.UUID` itself also accepts spaces and underscores, and returns a different uuid for them."""

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,18}").fullmatch
"""`int` itself also accepts blanks, underscores, signs and digits of every script."""
_LONGEST_TEXT_BYTES: Final = 65_535


def uuid_key(value: object) -> str:
    """Return the lower-case, hyphenated form of a uuid.

    Args:
        value: a `uuid.UUID` (asyncpg's own included) or 32 hexadecimal digits, with hyphens or not.

    Raises:
        ValueError: it is not a uuid.
        TypeError: its type is neither `str` nor `uuid.UUID`.
    """
    if isinstance(value, str):
        if _CANONICAL_UUID(value):
            return str.__str__(value)
        if not _ANY_UUID(value):
            raise ValueError(f"not a uuid: {value!r:.100}")
        return str(uuid.UUID(value))
    if not isinstance(value, uuid.UUID):
        raise TypeError(f"not a uuid: {value!r:.100}")
    return str(value)


def text_key(value: object) -> str:
    """Return a string that Postgres can store.

    Raises:
        ValueError: it holds a NUL, cannot be encoded as UTF-8, or is longer than any index accepts.
        TypeError: it is not a string.
    """
    if not isinstance(value, str):
        raise TypeError(f"not a text key: {value!r:.100}")
    if "\0" in value:
        raise ValueError(f"a NUL in a text key: {value!r:.100}")
    encoded = value.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    if len(encoded) > _LONGEST_TEXT_BYTES:
        raise ValueError(f"a text key of {len(encoded)} bytes")
    return str.__str__(value)  # also of a subclass: str() would return the name of an enum member


def _integer_key(bits: int) -> Callable[[object], int]:
    limit = 1 << (bits - 1)

    def integer_key(value: object) -> int:
        if isinstance(value, str):
            if not _INTEGER(value):
                raise ValueError(f"not an integer key: {value!r:.100}")
            number = int(str.__str__(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            number = int.__index__(value)
        else:
            raise TypeError(f"not an integer key: {value!r:.100}")
        if not -limit <= number < limit:
            raise ValueError(f"outside {bits} bits")
        return number

    return integer_key


CANONICAL: Final[dict[KeyType, Callable[[object], Key]]] = {
    "uuid": uuid_key,
    "bigint": _integer_key(64),
    "integer": _integer_key(32),
    "text": text_key,
}
"""For each key type, the function that converts a key to its canonical form.

It raises ValueError or TypeError for a value that is not such a key.
"""

PLAIN: Final[dict[KeyType, type[Key]]] = {
    "uuid": str,
    "bigint": int,
    "integer": int,
    "text": str,
}
"""For each key type, the class of its canonical form.

A key of exactly this class equals an entry only if it is that key; one of another class, such as
`True`, may equal the entry of another key.
"""
