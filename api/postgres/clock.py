"""The database's clock: its last reading, continued by the monotonic clock of this process.

API keys expire by it, and touches are recorded by it: with a wrong clock of the host a live fleet
would be shown as silent, or as just seen for ever. Some queries return the time as well, among them
the poll for revoked keys, several times a second. So a correction of the database's clock is soon
noticed. While the database is unavailable, the monotonic clock continues its time.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Final

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import LogThrottle

MAX_OFFSET_S: Final = 60.0
"""If the host's clock is off by more, a warning is logged."""
_AGREED_S: Final = 2.0
"""Clocks that differ by less agree: the write never stores a time past the database's clock."""
_LOG_EVERY_S: Final = 600.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class DatabaseClock(Collector):
    """Returns the database's time without a query.

    Args:
        monotonic: monotonic clock in seconds.
        wall: the host's clock in seconds since the epoch.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.monotonic = monotonic
        """The monotonic clock that times queries, see `set`."""
        self._wall = wall
        self._ahead_s = -math.inf  # before the first reading, nothing has expired
        self._uncertain_s = _AGREED_S
        self._log = LogThrottle(_LOG_EVERY_S, monotonic)

    def now(self) -> float:
        """Return the time in epoch seconds: never behind, and ahead by no more than a query takes.

        Before the first reading it is minus infinity.
        """
        return self.monotonic() + self._ahead_s

    def has_passed(self, at: float) -> bool:
        """Return whether a time has passed by the database's clock; False before its first reading.

        Args:
            at: in epoch seconds; infinity for never.
        """
        now = self.now()
        return at <= (now if now > 0 else self._wall())

    def now_or_host(self) -> float:
        """Return the time in epoch seconds; by the host if its clock is near the database's.

        The host's clock is smooth. A reading of the database's clock is late by up to the duration
        of its query, so it is used only if the two differ by more than that and `_AGREED_S`.
        """
        now, host = self.monotonic() + self._ahead_s, self._wall()
        return now if abs(now - host) > self._uncertain_s and now > 0 else host

    def offset_s(self) -> float:
        """Return how far the host's clock is ahead of the database's, in seconds; 0 if unknown."""
        now = self.monotonic() + self._ahead_s
        return self._wall() - now if now > 0 else 0.0

    def set(self, now: float, *, asked_at: float) -> None:
        """Set the clock to a reading of the database's time.

        Args:
            now: the database's time in epoch seconds.
            asked_at: when the query was sent, by the monotonic clock.
        """
        self._ahead_s = now - asked_at
        self._uncertain_s = _AGREED_S + self.monotonic() - asked_at
        offset_s = self.offset_s()
        if abs(offset_s) > MAX_OFFSET_S and (times := self._log.due()):
            log.warning("clock.offset", ahead_s=round(offset_s), times=times)

    def collect(self) -> Iterator[Metric]:
        """Yield the gauge."""
        yield GaugeMetricFamily(
            "database_clock_offset_seconds",
            "How far the host's clock is ahead of the database's; touches go by the database's.",
            value=self.offset_s(),
        )
