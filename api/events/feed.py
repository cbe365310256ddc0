"""Follows the log of events: numbers new ones, and wakes the requests that wait for them."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, get_args

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.events.log import EventType, event_of, remove_old
from api.events.recent import RecentEvents
from api.events.sequencer import Sequencer
from api.postgres.database import Database
from tracker import StoreError
from tracker.instrumentation import Family, LogThrottle, families

_POLL_S: Final = 0.25
_REMOVE_EVERY_S: Final = 60.0
_LOG_EVERY_S: Final = 60.0
_MAX_WAITING: Final = 1000
_MAX_FOLLOWED: Final = 5000
_COMES_ONLINE: Final = ("device.online", "device.registered")
_LAST: Final = "SELECT last FROM event_position"
_NEW: Final = f"""
SELECT position, device_id::text, seq, type, group_id, at, data::text, uuid_send(device_id),
       data ->> 'from_group_id'
FROM device_events WHERE position > $1 ORDER BY position LIMIT {_MAX_FOLLOWED}
"""  # noqa: S608 - a constant

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class TooManyWait(Exception):
    """Too many requests wait for events."""


class EventFeed(Collector):
    """Follows the log while it runs.

    Args:
        database: where events are.
        sequencer: numbers them.
        on_online: called with the devices that are to be watched from now on, 16 bytes each.
        keep_days: how long events are kept, in days.
    """

    def __init__(
        self,
        database: Database,
        sequencer: Sequencer,
        *,
        on_online: Callable[[Iterable[bytes]], None],
        keep_days: int,
    ) -> None:
        self._database = database
        self._sequencer = sequencer
        self._on_online = on_online
        self._keep_days = keep_days
        self.position: int | None = None
        """Up to where this process has followed the log; None before the first time."""
        self.is_following = asyncio.Event()
        """Set as soon as no event is missed any more."""
        self._waiting: dict[asyncio.Future[None], tuple[str | None, int | None]] = {}
        # of each the group and the API key
        self._followers: dict[str, set[RecentEvents]] = {}
        self.is_stopping = False
        """Whether waiting has ended for good."""
        self._failed = LogThrottle(_LOG_EVERY_S)
        self.counts: dict[str, int] = dict.fromkeys(get_args(EventType), 0)
        """How many events of each type this process has followed."""

    async def run(self) -> None:
        """Follow the log until the task is cancelled."""
        loop = asyncio.get_running_loop()
        remove_at = loop.time() + _REMOVE_EVERY_S
        while True:
            try:
                await self.run_once()
                if loop.time() >= remove_at:
                    remove_at = loop.time() + _REMOVE_EVERY_S
                    # In small batches: the next one in the next round if there was one.
                    if await remove_old(self._database, keep_days=self._keep_days):
                        remove_at = loop.time()
            except StoreError as error:
                if times := self._failed.due():
                    log.warning("events.failed", error=str(error), times=times)
            except Exception:
                if times := self._failed.due():
                    log.exception("events.crashed", times=times)
            await asyncio.sleep(_POLL_S)

    async def run_once(self) -> None:
        """Number the events that are there, and follow the log.

        Raises:
            StoreError: the database is unavailable.
        """
        if self.position is None:
            ((self.position,),) = await self._database.fetch(_LAST)
            self.is_following.set()
        await self._sequencer.run_once()
        await self._follow()

    async def _follow(self) -> None:
        rows = await self._database.fetch(_NEW, self.position)
        if not rows:
            return
        self._on_online([row[7] for row in rows if row[3] in _COMES_ONLINE])
        groups: set[str] = set()
        for *row, _, left in rows:
            self.counts[row[3]] += 1
            for group_id in {row[4], left or row[4]}:  # a device that moves is news of both
                groups.add(group_id)
                for follower in self._followers.get(group_id, ()):
                    follower.add(event_of(row))
        self.position = rows[-1][0]
        for waiting, (group_id, _) in self._waiting.items():
            if (group_id is None or group_id in groups) and not waiting.done():
                waiting.set_result(None)

    @contextmanager
    def following(self, group_id: str | None) -> Iterator[RecentEvents]:
        """Collect the new events of a group while the block runs.

        Args:
            group_id: the group; None is an empty group.
        """
        recent = RecentEvents()
        if group_id is None:
            yield recent
            return
        followers = self._followers.setdefault(group_id, set())
        followers.add(recent)
        try:
            yield recent
        finally:
            followers.discard(recent)
            if not followers:
                self._followers.pop(group_id, None)

    def stop(self) -> None:
        """End all waiting."""
        self.is_stopping = True
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def wait(
        self, group_id: str | None, *, after: int, wait_s: float, key_id: int | None = None
    ) -> bool:
        """Wait for new events; return whether there may be some.

        Args:
            group_id: of this group alone; None for any.
            after: the position up to which events are known.
            wait_s: the longest time, in seconds.
            key_id: the API key that the wait is counted for; None for none.

        Raises:
            TooManyWait: so many wait for this API key, or for all.
        """
        if key_id is not None:
            keys = [key for _, key in self._waiting.values() if key is not None]
            if len(keys) >= _MAX_WAITING or keys.count(key_id) >= _MAX_WAITING // 2:
                raise TooManyWait(f"{_MAX_WAITING} requests wait for events at most")
        if self.position is not None and self.position > after:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = (group_id, key_id)
        try:
            async with asyncio.timeout(wait_s):
                await future
        except TimeoutError:
            return False
        else:
            return True
        finally:
            del self._waiting[future]

    @property
    def delay_s(self) -> float:
        """How long the oldest event of the last move had waited for its position, in seconds."""
        return self._sequencer.delay_s

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self})


_FAMILIES: Final[tuple[Family[EventFeed], ...]] = (
    Family(
        GaugeMetricFamily,
        "events_position",
        "The position of the last event that this process has followed.",
        lambda feed: feed.position or 0,
    ),
    Family(
        GaugeMetricFamily,
        "events_delay_seconds",
        "How long the oldest event of the last move from the outbox had waited there.",
        lambda feed: feed.delay_s,
    ),
    Family(
        CounterMetricFamily,
        "events_followed",
        "Events that this process has followed, by type.",
        lambda feed: feed.counts,
        by="type",
    ),
)
