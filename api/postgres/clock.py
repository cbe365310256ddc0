"""The database's clock, by which keys expire: as it last told it, carried on by our own.

Whatever asks the database anyway asks it for the time as well; the look for revoked keys does so
several times a second. So a clock of ours that is wrong matters nothing, and one of theirs that is
set right is soon followed. While the database is away, our monotonic clock carries on.
"""

import time
from collections.abc import Callable


class DatabaseClock:
    """Tells the database's time without asking it.

    Args:
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = monotonic
        """What answers are timed by, see `set`."""
        self._ahead_s = float("-inf")  # until it is first told, nothing has expired

    def now(self) -> float:
        """Return the time in epoch seconds: never behind, ahead by what an answer takes at most."""
        return self.monotonic() + self._ahead_s

    def set(self, now: float, *, asked_at: float) -> None:
        """Take note of what the database says.

        Args:
            now: its time in epoch seconds, read after it was asked.
            asked_at: when it was asked, by the monotonic clock.
        """
        self._ahead_s = now - asked_at
