"""Durations as people write them: a number and a unit, `30s`, `15m`, `36h`, `7d`, `2w`."""

import re
from typing import Annotated, Final, TypeAlias

import msgspec

_PATTERN: Final = r"^[0-9]{1,10}[smhdw](?!\n)$"
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LONGEST_S: Final = 100 * 365 * 86_400

Duration: TypeAlias = Annotated[
    str, msgspec.Meta(extra_json_schema={"pattern": _PATTERN, "examples": ["7d"]})
]
"""For declarations, which document the format; `seconds` reports what is wrong with a value."""


def seconds(duration: str) -> int:
    """Return the seconds in a duration.

    Args:
        duration: a whole number from 1 and s, m, h, d or w, such as `90d`; 100 years at most.

    Raises:
        ValueError: it is none; the message says what is needed.
    """
    found = re.search(_PATTERN, duration)
    length_s = int(duration[:-1]) * _UNITS_S[duration[-1]] if found else 0
    if not 0 < length_s <= _LONGEST_S:
        raise ValueError(
            "a whole number from 1 and one of s, m, h, d, w are needed, as in 7d; 100 years at most"
        )
    return length_s
