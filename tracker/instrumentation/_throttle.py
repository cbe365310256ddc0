"""For what may happen a thousand times a second and should be logged once in a while."""

import time
from collections.abc import Callable


class LogThrottle:
    """Counts something, and says when it is time to speak of it again.

    Args:
        every_s: the least time between two reports, in seconds.
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, every_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._monotonic = monotonic
        self._times = 0
        self._quiet_until = 0.0

    def due(self) -> int:
        """Count one more; return how many there were since the last report if one is due, or 0."""
        self._times += 1
        now = self._monotonic()
        if now < self._quiet_until:
            return 0
        self._quiet_until = now + self._every_s
        times, self._times = self._times, 0
        return times
