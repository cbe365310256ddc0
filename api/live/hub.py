"""All that is watched: groups come when somebody asks for them, and go when nobody watches."""

import asyncio
from collections.abc import Iterator
from contextvars import Context
from typing import Final, Protocol

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.live.group import Group
from api.live.queries import GroupQueries
from api.live.tracker_stats import TrackerStats
from tracker import StoreError, StoreUnavailable
from tracker.instrumentation import LogThrottle

_PATIENCE_S: Final = 5.0
"""How long the first picture of a group may take: a large one behind others takes a second."""
_MOST_WATCHED: Final = 100_000
"""How many devices, in all groups: each costs 700 bytes or so, and a look-up a second."""
_LOG_EVERY_S: Final = 60.0
_GRACE_S: Final = 0.5
"""How long a watcher may take for the last word, when the service stops."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class NoRoom(StoreUnavailable):
    """As much is being watched as may be; the message is what."""


class Watcher(Protocol):
    """Who is sent events until one of the two sides ends it."""

    ended: asyncio.Event

    @property
    def is_open(self) -> bool:
        """Whether the watcher is there, as far as is known."""
        ...

    def abort(self) -> None:
        """End here and now, whatever has not been sent."""
        ...


class Hub(Collector):
    """Has the groups that are watched, and tells Prometheus how many watch.

    Args:
        roster: what the database knows.
        pulse: what the tracker knows.
        max_streams: how many may watch at a time.
    """

    def __init__(self, roster: GroupQueries, pulse: TrackerStats, *, max_streams: int) -> None:
        self.clock = roster.clock
        self.streams: set[Watcher] = set()
        self.sent_bytes = 0
        self.stopping = False
        self._roster = roster
        self._pulse = pulse
        self._max_streams = max_streams
        self._groups: dict[str | None, Group] = {}
        self._tasks: dict[Group, asyncio.Task[None]] = {}
        self._crashes = LogThrottle(_LOG_EVERY_S)

    @property
    def is_full(self) -> bool:
        """Whether nobody else may watch; who has left does not count, even if not noticed yet."""
        return sum(stream.is_open for stream in self.streams) >= self._max_streams

    async def group(self, group_id: str | None) -> Group:
        """Return a group that has a picture.

        Args:
            group_id: which; None is one that nobody is in.

        Raises:
            NoRoom: too many groups or devices are watched.
            StoreError: the database is away or too slow.
        """
        if self.stopping:
            raise StoreUnavailable("the service is stopping")
        group = self._groups.get(group_id)
        if group is None or group.over:
            self._make_room()
            group = self._groups[group_id] = Group(group_id, self._roster, self._pulse)
            self._tasks[group] = asyncio.create_task(
                self._run(group_id, group), name=f"live-{group_id}", context=Context()
            )
        if not group.loaded.done():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await asyncio.wait((group.loaded,))
            except TimeoutError as error:
                raise StoreUnavailable("the group's devices took too long to come") from error
        if group.loaded.cancelled():
            raise StoreUnavailable("the service is stopping")
        failure = group.loaded.exception()
        if failure is not None:
            raise StoreUnavailable(str(failure))  # a new one: tracebacks would pile up on the old
        if not group.watchers and sum(map(len, self._tasks)) > _MOST_WATCHED:
            if group in self._tasks:
                self._tasks[group].cancel()
            raise NoRoom("too many devices are being watched")
        return group

    def _make_room(self) -> None:
        """Let go of a group that nobody watches, if there are as many as may be watched."""
        if len(self._tasks) < self._max_streams:
            return
        for group, task in self._tasks.items():
            if not group.watchers and group.loaded.done() and not task.cancelling():
                task.cancel()
                return
        raise NoRoom("too many groups are being asked for")

    async def _run(self, group_id: str | None, group: Group) -> None:
        try:
            await group.run()
        except StoreError:
            pass  # whoever asked for the group is told
        except Exception:
            group.crashed = True
            if times := self._crashes.due():
                log.exception("live.crashed", group_id=group_id, times=times)
        finally:
            del self._tasks[group]
            if self._groups.get(group_id) is group:
                del self._groups[group_id]

    async def stop(self) -> None:
        """End all streams, and let no other begin."""
        self.stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended = [stream.ended.wait() for stream in self.streams]
        try:
            async with asyncio.timeout(_GRACE_S):
                await asyncio.gather(*ended)
        except TimeoutError:
            for stream in self.streams:  # these do not read, and shall keep nobody waiting
                stream.abort()

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield GaugeMetricFamily(
            "live_streams", "Live streams that are open.", value=len(self.streams)
        )
        yield GaugeMetricFamily(
            "live_capacity_streams", "The most live streams.", value=self._max_streams
        )
        yield CounterMetricFamily(
            "live_sent_bytes", "Bytes of events handed to live streams.", value=self.sent_bytes
        )
