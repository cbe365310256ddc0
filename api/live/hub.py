"""All live groups and streams: creates a group for its first subscriber, and enforces limits."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextvars import Context
from typing import Final, Protocol

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.events.feed import EventFeed
from api.fleet.presence import PresenceRule
from api.live.group import Group
from api.live.queries import GroupQueries
from api.live.tracker_stats import TrackerStats
from api.siblings import Alone, Siblings
from tracker import StoreError, StoreUnavailable
from tracker.instrumentation import Family, LogThrottle, families

_LOAD_TIMEOUT_S: Final = 5.0
"""Deadline for the first snapshot of a group; a large group behind several takes a second."""
_MAX_DEVICES: Final = 100_000
"""Limit of devices in all groups: each costs about 700 bytes, and one lookup a second."""
_LOG_EVERY_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 0.5
"""How long a subscriber may take to read its last event at shutdown."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class LimitReached(StoreUnavailable):
    """A limit of the live view is reached; the message names it."""


class Subscriber(Protocol):
    """One open stream."""

    ended: asyncio.Event
    key_id: int
    """The API key that it is counted for."""
    group_id: str | None
    """What it watches."""

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as is known."""
        ...

    def abort(self) -> None:
        """Close the connection at once and discard what has not been sent."""
        ...


class Hub(Collector):
    """Holds the live groups and streams, and exports their numbers to Prometheus.

    Args:
        queries: reads the database.
        stats: reads the tracker.
        rule: when a device is online.
        feed: notifies of new events.
        max_streams: limit of open streams.
        streams_per_key: limit of open streams of one API key; half of `max_streams` at most.
        siblings: the other workers, which know of touches, too.
    """

    def __init__(
        self,
        queries: GroupQueries,
        stats: TrackerStats,
        *,
        rule: PresenceRule,
        feed: EventFeed,
        max_streams: int,
        streams_per_key: int,
        siblings: Siblings | None = None,
    ) -> None:
        self.clock = queries.clock
        self.rule = rule
        self._feed = feed
        self.streams: set[Subscriber] = set()
        self.sent_bytes = 0
        self.stopping = False
        self._queries = queries
        self._stats = stats
        self._siblings = siblings or Alone()
        self.max_streams = max_streams
        self._streams_per_key = min(streams_per_key, max(1, max_streams // 2))
        self.denied = Counter(dict.fromkeys(("max_streams", "streams_per_key"), 0))
        self._groups: dict[str | None, Group] = {}
        self._tasks: dict[Group, asyncio.Task[None]] = {}
        self._crashes = LogThrottle(_LOG_EVERY_S)

    def find_room(self, key_id: int) -> None:
        """Return if an API key may open another stream.

        Streams that are closing do not count.

        Args:
            key_id: the API key.

        Raises:
            LimitReached: a limit of streams is reached; the message names it.
        """
        open_streams = [stream for stream in self.streams if stream.is_open]
        if len(open_streams) >= self.max_streams:
            self.denied["max_streams"] += 1
            raise LimitReached("as many live streams are open as live.max_streams allows")
        own = [stream for stream in open_streams if stream.key_id == key_id]
        if len(own) >= self._streams_per_key:
            self.denied["streams_per_key"] += 1
            raise LimitReached(
                "this API key has as many live streams open as limits.streams_per_key allows, or "
                "half of live.max_streams"
            )

    async def group(self, group_id: str | None) -> Group:
        """Return a group whose snapshot is loaded; load it if necessary.

        Args:
            group_id: the group; None is an empty group.

        Raises:
            LimitReached: too many groups or devices are live.
            StoreError: the database is unavailable or too slow, or the service is stopping.
        """
        if self.stopping:
            raise StoreUnavailable("the service is stopping")
        group = self._groups.get(group_id)
        if group is None or group.closed:
            self._evict_idle()
            group = self._groups[group_id] = Group(
                *(group_id, self._queries, self._stats, self.rule),
                feed=self._feed,
                siblings=self._siblings.live_news(),
            )
            self._tasks[group] = asyncio.create_task(
                self._run(group_id, group), name=f"live-{group_id}", context=Context()
            )
        if not group.loaded.done():
            try:
                async with asyncio.timeout(_LOAD_TIMEOUT_S):
                    await asyncio.wait((group.loaded,))
            except TimeoutError as error:
                raise StoreUnavailable("loading the group's devices timed out") from error
        if group.loaded.cancelled():
            raise StoreUnavailable("the service is stopping")
        failure = group.loaded.exception()
        if failure is not None:
            raise StoreUnavailable(
                str(failure)
            )  # a new error: the old one's traceback would grow with each raise
        if not group.subscribers and sum(map(len, self._tasks)) > _MAX_DEVICES:
            if group in self._tasks:
                self._tasks[group].cancel()
            raise LimitReached("too many devices are watched")
        return group

    def _evict_idle(self) -> None:
        """Cancel a group without subscribers if the limit of groups is reached."""
        if len(self._tasks) < self.max_streams:
            return
        for group, task in self._tasks.items():
            if not group.subscribers and group.loaded.done() and not task.cancelling():
                task.cancel()
                return
        raise LimitReached("too many groups are watched")

    async def _run(self, group_id: str | None, group: Group) -> None:
        try:
            await group.run()
        except StoreError:
            pass  # `group` reports it to the request
        except Exception:
            group.crashed = True
            if times := self._crashes.due():
                log.exception("live.crashed", group_id=group_id, times=times)
        finally:
            del self._tasks[group]
            if self._groups.get(group_id) is group:
                del self._groups[group_id]

    async def stop(self) -> None:
        """End all streams and accept no new ones."""
        self.stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended = [stream.ended.wait() for stream in self.streams]
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await asyncio.gather(*ended)
        except TimeoutError:
            for stream in self.streams:  # these do not read, and must not delay the shutdown
                stream.abort()

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self})


_FAMILIES: Final[tuple[Family[Hub], ...]] = (
    Family(
        GaugeMetricFamily,
        "live_streams",
        "Live streams that are open.",
        lambda hub: len(hub.streams),
    ),
    Family(
        GaugeMetricFamily,
        "live_capacity_streams",
        "The most live streams.",
        lambda hub: hub.max_streams,
    ),
    Family(
        CounterMetricFamily,
        "live_denied_streams",
        "Live streams that were not opened, by the setting that forbids them.",
        lambda hub: hub.denied,
        by="limit",
    ),
    Family(
        CounterMetricFamily,
        "live_sent_bytes",
        "Bytes of events handed to live streams.",
        lambda hub: hub.sent_bytes,
    ),
)
