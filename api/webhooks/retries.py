"""When a delivery that failed is tried again: exponential backoff, or Retry-After."""

import random
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_FIRST_S: Final = 1.0
_DOUBLINGS: Final = 20
_JITTER: Final = 0.25
_MAX_RETRY_AFTER_S: Final = 3600.0


def delay_s(
    attempts: int,
    retry_after_s: float | None,
    *,
    max_s: float,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float:
    """Return how long to wait before the next try, in seconds.

    Args:
        attempts: how many tries have failed, from 1.
        retry_after_s: for how long the receiver asks to be left alone; it is obeyed for an hour.
        max_s: the longest wait, unless the receiver requests a longer one.
        uniform: random numbers.
    """
    wait_s = min(max_s, _FIRST_S * 2.0 ** min(attempts - 1, _DOUBLINGS))
    # After the limit, so that receivers that failed together are not tried together for ever.
    wait_s *= uniform(1.0, 1.0 + _JITTER)
    return max(wait_s, min(retry_after_s or 0.0, _MAX_RETRY_AFTER_S))


def read_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for; None if it asks for nothing.

    Args:
        value: a number of seconds, or a date as HTTP has them (RFC 9110).
        now: in seconds since the Unix epoch.
    """
    if value is None or not value.isascii():
        return None
    value = value.strip()
    if value.isdecimal():
        return float(value[:10])
    try:
        at = parsedate_to_datetime(value)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError, TypeError):
        return None
