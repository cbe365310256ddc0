"""A log throttle: for events that may happen a thousand times a second and are logged rarely."""

import time
from collections.abc import Callable


class LogThrottle:
    """Counts events and decides when the next log line about them is due.

    Args:
        every_s: the shortest time between two log lines, in seconds.
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, every_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._monotonic = monotonic
        self._times = 0
        self._not_before = 0.0

    def due(self) -> int:
        """Count one event; if a log line is due, return how many it stands for, else 0."""
        self._times += 1
        now = self._monotonic()
        if now < self._not_before:
            return 0
        self._not_before = now + self._every_s
        times, self._times = self._times, 0
        return times
