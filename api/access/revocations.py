"""Invalidates the cache of API keys soon after one was changed, by any process or by hand.

A trigger counts changes of `api_keys` in `key_revision`, in the same transaction. This polls that
one row. Polling works through a pooler in transaction mode, where LISTEN does not, and needs no
connection that might be lost without notice. The query also returns the database's time.

Of several workers one polls, and the others ask it: the database has the same polls whatever their
number. A worker whose sibling does not answer, or has not polled just now, polls itself.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.access.lookup import CachedLookup
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database
from api.siblings import Revision, Siblings
from tracker import StoreError, StoreMisconfigured, StoreUnavailable
from tracker.instrumentation import Family, families

_MAX_DEADLINE_S: Final = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Revocations(Collector):
    """Polls for changes of API keys, and collects the time since the last successful poll.

    Args:
        database: where API keys are stored.
        keys: the cache of API keys.
        clock: receives the database's time.
        siblings: one of them may poll for this process.
        every_s: time between polls, in seconds.
        on_change: called after API keys were changed.
    """

    def __init__(
        self,
        database: Database,
        keys: CachedLookup[bytes, Any],
        clock: DatabaseClock,
        siblings: Siblings,
        *,
        every_s: float,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_change = on_change
        self.error: StoreError | None = None
        """Why the last poll failed; None if it succeeded."""
        self._database = database
        self._keys = keys
        self._clock = clock
        self._siblings = siblings
        self._every_s = every_s
        self.polled_at = float("-inf")
        """When a poll last succeeded, by the monotonic clock; minus infinity for never."""
        self._polled: Revision | None = None  # by this process
        self._started_at = time.monotonic()

    @property
    def lag_s(self) -> float:
        """Seconds since the last successful poll, or since the start."""
        return time.monotonic() - max(self.polled_at, self._started_at)

    @property
    def polled_here(self) -> Revision | None:
        """What this process has just polled, for its siblings; None if it has not."""
        if self.error is not None or self._polled is None:
            return None
        is_new = time.monotonic() - self._polled.asked_at <= 2 * self._every_s
        return self._polled if is_new else None

    async def poll(self) -> None:
        """Poll until the task is cancelled."""
        seen: int | None = None
        # A lost connection is given up fast; after failures the deadline grows for slow networks.
        deadline_s = 2 * self._every_s
        while True:
            try:
                revision = await self._siblings.revision() or await self._query(deadline_s)
            except Exception as error:  # noqa: BLE001 - no error may end the polling
                deadline_s = min(2 * deadline_s, _MAX_DEADLINE_S)
                is_first = self.error is None
                self._failed(error)
                if is_first:  # the next one has another connection
                    continue
            else:
                self._clock.set(revision.now, asked_at=revision.asked_at)
                self.polled_at = revision.asked_at
                deadline_s = 2 * self._every_s
                has_recovered, self.error = self.error is not None, None
                if has_recovered:
                    log.info("revocations.healthy")
                self._keys.note_available()
                if revision.number != seen:
                    seen = revision.number
                    self._keys.invalidate()
                    self._on_change()
                elif has_recovered:
                    # It may be a restored backup, in which other changes have brought the counter
                    # to the same number. Requests do not wait until all API keys are read again.
                    self._on_change()
            await asyncio.sleep(self._every_s)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self})

    async def _query(self, deadline_s: float) -> Revision:
        asked_at = self._clock.monotonic()
        rows = await self._database.fetch(
            "SELECT revision, extract(epoch FROM now())::float8 FROM key_revision",
            deadline_s=deadline_s,
        )
        if not rows:
            raise StoreMisconfigured("key_revision is empty: it must have one row")
        self._polled = Revision(rows[0][0], rows[0][1], asked_at)
        return self._polled

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, StoreError):
            error = StoreMisconfigured(f"{type(error).__name__}: {error}")
        if self.error is None:
            log.error("revocations.failed", error=str(error))
        self.error = error
        if not isinstance(error, StoreUnavailable):
            # The database is available but cannot be polled: query each key until it can be.
            self._keys.invalidate()


_FAMILIES: Final[tuple[Family[Revocations], ...]] = (
    Family(
        GaugeMetricFamily,
        "auth_revocation_lag_seconds",
        "Time since the last successful poll for changes of API keys.",
        lambda revocations: revocations.lag_s,
    ),
)
