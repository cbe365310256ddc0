"""Durations as they are written on the command line: a number and a unit, as in 90d."""

import re
from typing import Final

from api.cli.common import fail

_DURATION: Final = re.compile(r"([0-9]{1,10})([smhdw])").fullmatch
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LONGEST_S: Final = 100 * 365 * 86_400


def seconds(duration: str, option: str) -> int:
    """Return the seconds of a duration; end with an error if it is none.

    Args:
        duration: what was given.
        option: where it was given.
    """
    found = _DURATION(duration)
    result = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 0 < result <= _LONGEST_S:
        fail(
            f"{option} {duration!r}: a number and s, m, h, d or w are needed, 100 years at most",
            code=2,
        )
    return result
