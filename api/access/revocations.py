"""Doubts the cache of keys soon after keys were changed, by whatever process or hand.

A trigger counts changes of `api_keys` in `key_revision`, in the same transaction, and this polls
that one row. Polling works through a pooler in transaction mode, where LISTEN does not, and has no
connection whose silent end would go unnoticed. With the count comes the database's time.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.access.lookup import CachedLookup
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database
from tracker import StoreError, StoreMisconfigured, StoreUnavailable

_MOST_PATIENCE_S: Final = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Revocations(Collector):
    """Watches for changes of keys while it runs; tells Prometheus how long ago it last could.

    Args:
        database: where keys are stored.
        keys: the cache.
        clock: what keys expire by.
        every_s: time between looks, in seconds.
    """

    def __init__(
        self,
        database: Database,
        keys: CachedLookup[bytes, Any],
        clock: DatabaseClock,
        *,
        every_s: float,
    ) -> None:
        self.error: StoreError | None = None
        """Why the last look failed; None when it did not."""
        self._database = database
        self._keys = keys
        self._clock = clock
        self._every_s = every_s
        self._seen_at = time.monotonic()

    async def watch(self) -> None:
        """Watch, without end."""
        seen: int | None = None
        # A connection that says nothing is given up fast; a slow network gets its time in the end.
        patience_s = 2 * self._every_s
        while True:
            try:
                revision = await self._revision(patience_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, watching goes on
                patience_s = min(2 * patience_s, _MOST_PATIENCE_S)
                self._failed(error)
            else:
                self._seen_at = time.monotonic()
                patience_s = 2 * self._every_s
                if self.error is not None:
                    self.error = None
                    log.info("revocations.healthy")
                self._keys.reached()
                if revision != seen:
                    seen = revision
                    self._keys.doubt()
            await asyncio.sleep(self._every_s)

    def collect(self) -> Iterator[Metric]:
        """Yield the gauge."""
        yield GaugeMetricFamily(
            "auth_revocation_lag_seconds",
            "Time since changes of keys were last looked for with success.",
            value=time.monotonic() - self._seen_at,
        )

    async def _revision(self, patience_s: float) -> int:
        asked_at = self._clock.monotonic()
        rows = await self._database.fetch(
            "SELECT revision, extract(epoch FROM now())::float8 FROM key_revision",
            deadline_s=patience_s,
        )
        if not rows:
            raise StoreMisconfigured("key_revision is empty: it must have one row")
        revision: int = rows[0][0]
        self._clock.set(rows[0][1], asked_at=asked_at)
        return revision

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, StoreError):
            error = StoreMisconfigured(f"{type(error).__name__}: {error}")
        if self.error is None:
            log.error("revocations.failed", error=str(error))
        self.error = error
        if not isinstance(error, StoreUnavailable):
            # The database is there and this does not work: ask for every key until it does.
            self._keys.doubt()
