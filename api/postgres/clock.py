"""The database's clock, as the database last told it, carried on by our monotonic clock.

API keys expire by it, and touches are recorded by it: a host whose clock is wrong would show a live
fleet as silent, or for ever as just seen. Each query that is made anyway asks for the time as well;
the poll for revoked keys does so several times a second. So a clock of the database that is set
right is soon followed. While the database is away, the monotonic clock carries on.
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
"""Beyond this offset of the host's clock a warning is logged."""
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
        """What queries are timed by, see `set`."""
        self._wall = wall
        self._ahead_s = -math.inf  # until it is first told, nothing has expired
        self._uncertain_s = _AGREED_S
        self._log = LogThrottle(_LOG_EVERY_S, monotonic)

    def now(self) -> float:
        """Return the time in epoch seconds: never behind, ahead by what a query takes at most.

        Before the database has told its time it is minus infinity.
        """
        return self.monotonic() + self._ahead_s

    def has_passed(self, at: float) -> bool:
        """Return whether a time has passed, by the database if it has told its own.

        Args:
            at: in epoch seconds; infinity for never.
        """
        now = self.now()
        return at <= (now if now > 0 else self._wall())

    def now_or_host(self) -> float:
        """Return the time in epoch seconds; by the host if its clock is near the database's.

        The host's clock is smooth. What the database says is late by up to as long as the query
        took, so it is used only where the two differ by more than that and `_AGREED_S`.
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
