"""How many devices of the fleet are in each state, and how long the listening gaps were.

A count reads the whole table, so one process counts for all: the one that finds the count due. The
next is due 15 seconds later, or 200 times as long as this one took, up to five minutes: so it takes
at most half a percent of a core of the database, however many processes there are and however often
they are scraped.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.fleet.presence import PRESENCES, PresenceRule, presence_sql
from api.postgres.database import Database
from tracker import StoreError
from tracker.instrumentation import Family, LogThrottle, families

_EVERY_S: Final = 15
_AFTER_FAILURE_S: Final = 60.0
_REST: Final = 200
"""For how many times its own duration no count follows another."""
_MAX_EVERY_S: Final = 300
_KEPT_S: Final = 2 * _MAX_EVERY_S
"""Numbers that are older are not shown."""
_DEADLINE_S: Final = 60.0
_LOG_EVERY_S: Final = 600.0
_STATE: Final = presence_sql(idle_after_s="$1", offline_after_s="$2", is_watched="$3")
_COUNTS: Final = ", ".join(
    f"count(*) FILTER (WHERE state = '{state}') AS {state}" for state in PRESENCES
)
_COUNT: Final = f"""
WITH turn AS MATERIALIZED (
    -- A due time that is far away was set by a clock that ran ahead.
    SELECT FROM device_counts
    WHERE due_at <= now() OR due_at > now() + interval '{2 * _MAX_EVERY_S} s'
    FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT {_COUNTS} FROM (
        SELECT {_STATE} AS state FROM devices WHERE is_active AND EXISTS (SELECT FROM turn)
    ) AS devices
)
UPDATE device_counts AS c SET
    {", ".join(f"{state} = counted.{state}" for state in PRESENCES)}, counted_at = now(),
    due_at = now() + greatest(interval '{_EVERY_S} s', least(
        interval '{_MAX_EVERY_S} s', {_REST} * (clock_timestamp() - statement_timestamp())))
FROM counted WHERE EXISTS (SELECT FROM turn)
"""  # noqa: S608 - of constants
_READ: Final = f"""
SELECT c.counted_at > now() - interval '{_KEPT_S} s', {", ".join(PRESENCES)},
       (SELECT coalesce(sum(extract(epoch FROM
                   least(g.ended_at, now()) - greatest(g.began_at, now() - interval '1 day')
               )), 0)::float8
        FROM listening_gaps AS g
        WHERE isfinite(g.began_at) AND g.ended_at > now() - interval '1 day'
              AND g.began_at < now())
FROM device_counts AS c
"""  # noqa: S608 - of constants

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class DeviceCounts(Collector):
    """Counts when that is due, while it runs, and collects the numbers.

    Args:
        database: where devices are stored.
        rule: when a device is online.
    """

    def __init__(self, database: Database, rule: PresenceRule) -> None:
        self._database = database
        self._rule = rule
        self._failed = LogThrottle(_LOG_EVERY_S)
        self.counts: dict[str, int] = {}
        """Active devices by presence; empty if that is not known."""
        self.recent_gap_s: float | None = None
        """How long no process listened in the last 24 hours, in seconds; None if not known."""

    async def run(self) -> None:
        """Count until the task is cancelled."""
        while True:
            wait_s = float(_EVERY_S)
            try:
                await self.refresh()
            except StoreError as error:
                self.counts, self.recent_gap_s = {}, None
                wait_s = _AFTER_FAILURE_S
                if times := self._failed.due():
                    log.warning("presence.count_failed", error=str(error), times=times)
            await asyncio.sleep(wait_s)

    async def refresh(self) -> None:
        """Count if it is due, and read the numbers.

        Raises:
            StoreError: the database is unavailable, or it took too long.
        """
        rule = self._rule
        await self._database.fetch(
            *(_COUNT, rule.idle_after_s, rule.offline_after_s, rule.is_watched),
            deadline_s=_DEADLINE_S,
        )
        ((is_recent, *counts, self.recent_gap_s),) = await self._database.fetch(_READ)
        self.counts = dict(zip(PRESENCES, counts, strict=True)) if is_recent else {}

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families; without numbers they have no samples."""
        yield from families(_FAMILIES, {"": self})
        known = {} if self.recent_gap_s is None else {"": self}
        yield from families(_GAPS, known)


_FAMILIES: Final[tuple[Family[DeviceCounts], ...]] = (
    Family(
        GaugeMetricFamily,
        "activity_devices",
        "Active devices of the whole fleet by presence, as stored; one process counts for all.",
        lambda counts: counts.counts,
        by="presence",
    ),
)
_GAPS: Final[tuple[Family[DeviceCounts], ...]] = (
    Family(
        GaugeMetricFamily,
        "presence_recent_gap_seconds",
        "How long no process listened in the last 24 hours, by what is stored.",
        lambda counts: counts.recent_gap_s or 0.0,
    ),
)
