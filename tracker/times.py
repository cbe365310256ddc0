"""Times that callers pass: which are accepted, and what is stored of them."""

from datetime import datetime
from decimal import Decimal
from typing import Final, TypeAlias

Time: TypeAlias = float | Decimal | datetime
"""Seconds since the epoch, as a number, or an aware `datetime`."""
MAX_SKEW_S: Final = 60
"""How far ahead of the clock a time may be: two clocks differ, but not by more than a minute."""


def second_of(at: object, now: float) -> int:
    """Return the whole second of a time that a caller passes, never later than now.

    A time far ahead is a mistake, such as milliseconds taken for seconds. It must not count as now:
    a replay of an old queue would mark all its keys as active.

    Args:
        at: a `Time`; an `int` or a `float` is in seconds since the epoch.
        now: by the clock, in seconds since the epoch.

    Raises:
        ValueError: it is a `datetime` without a time zone, before 1970, not finite, or more than
            `MAX_SKEW_S` ahead of the clock.
        TypeError: it is no time.
    """
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise ValueError("a datetime without a time zone")
        at = at.timestamp()
    elif isinstance(at, bool) or not isinstance(at, (int, float, Decimal)):
        raise TypeError(f"not a time: {at!r:.100}")
    if not 0 <= at <= now + MAX_SKEW_S:
        raise ValueError(f"before 1970, or more than {MAX_SKEW_S} s ahead of the clock")
    return int(min(at, now))
