"""One group with subscribers: keeps its snapshot up to date and encodes each change once for all.

A tick, once a second, overlays the pending touches on the snapshot and encodes what has changed.
Every two seconds the database is queried for what other processes wrote: touches, members and their
names, positions. If the database is unavailable, ticks continue with what is known and say `stale`.

The last ticks are kept, shared by all subscribers. A subscriber that lags continues where it was;
one that lags further than that starts over with a new snapshot.
"""

import asyncio
import time
from collections import deque
from itertools import islice
from typing import Final

import structlog

from api.events.feed import EventFeed
from api.events.recent import RecentEvents
from api.fleet.presence import PresenceRule
from api.live.events import event
from api.live.queries import GroupQueries
from api.live.snapshot import MAX_DEVICES, GroupSnapshot
from api.live.ticks import Snapshot, Tick
from api.live.tracker_stats import TrackerStats
from api.siblings import LiveNews, LiveNewsSource
from tracker import StoreError
from tracker.instrumentation import LogThrottle

TICK_S: Final = 1.0
_REFRESH_EVERY_S: Final = 2.0
_LOCATED_PER_REFRESH: Final = 1000
_RECHECKED_PER_REFRESH: Final = 200
_REFRESHES_PER_COUNT: Final = 15
_IDLE_TICKS: Final = 3
_KEPT_TICKS: Final = 120
_KEPT_BYTES: Final = 4 << 20
_SHARED_TICKS: Final = 10
"""An encoded snapshot is sent to new subscribers for so many ticks; they get these ticks next."""
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Group:
    """The live state of one group while it has subscribers.

    Args:
        group_id: the group; None is an empty group.
        queries: reads the database.
        stats: reads the tracker.
        rule: when a device is online.
        feed: notifies of new events.
        siblings: reports the touches of other workers; None if there are none.
    """

    def __init__(
        self,
        group_id: str | None,
        queries: GroupQueries,
        stats: TrackerStats,
        rule: PresenceRule,
        *,
        feed: EventFeed,
        siblings: LiveNewsSource | None = None,
    ) -> None:
        self.subscribers = 0
        self.number = 0
        """Number of the last tick."""
        self.closed = False
        """No more ticks will come; get a new Group from the hub."""
        self.crashed = False
        """It was closed by a bug, so a new Group would most likely fail in the same way."""
        self._group_id = group_id
        self._queries = queries
        self._stats = stats
        self._siblings = siblings
        self._news = LiveNews()
        self._clock = queries.clock
        self._devices = GroupSnapshot(rule)
        self._feed = feed
        self._events = RecentEvents()
        self._members: int | None = None
        self._refreshes = 0
        self._ticks: deque[Tick] = deque()
        self._ticks_bytes = 0
        self._next = asyncio.Event()
        self._encoded: Snapshot | None = None
        self._encoding = asyncio.Lock()
        self._earlier = stats.pending()
        self._drains = stats.drains()
        self._refresh_now = asyncio.Event()
        self._stale = False
        self._stale_log = LogThrottle(_LOG_EVERY_S)
        self.loaded = asyncio.create_task(self._load(), name=f"live-load-{group_id}")
        """Done when the snapshot is complete; raises StoreError if the database is unavailable."""
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many devices the snapshot holds."""
        return len(self._devices)

    async def run(self) -> None:
        """Keep the snapshot up to date until there has been no subscriber for some ticks.

        Raises:
            StoreError: the database was unavailable when the snapshot was loaded.
        """
        try:
            await self.loaded
            with self._feed.following(self._group_id) as self._events:
                async with asyncio.TaskGroup() as tasks:
                    refreshing = tasks.create_task(self._refresh_forever())
                    await self._tick_while_subscribed()
                    refreshing.cancel()
        finally:
            self.loaded.cancel()
            self.closed = True
            self._next.set()

    async def _load(self) -> None:
        self._earlier = self._stats.pending()  # before the SELECT, as every view
        await self._refresh_members()
        while self._devices.to_locate:
            await self._refresh_positions()
        await self._overlay()
        await self._update_presence()
        for _ in self._devices.changes(self._clock.now()):  # no subscribers yet: discard
            await asyncio.sleep(0)

    async def _tick_while_subscribed(self) -> None:
        due, idle = time.monotonic(), 0
        while idle < _IDLE_TICKS and not self._devices.is_exhausted:
            due = max(due + TICK_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            await self._tick()
            idle = 0 if self.subscribers else idle + 1

    async def _tick(self) -> None:
        await self._overlay()
        await asyncio.sleep(0)
        await self._update_presence()
        chunks = []
        for chunk in self._devices.changes(round(self._clock.now(), 3), stale=self._stale):
            chunks.append(chunk)
            await asyncio.sleep(0)
        if new := self._events.take():
            chunks.append(event("events", new))
        tick = Tick(b"".join(chunks), self._stats.service(self._news.targets))
        self._ticks.append(tick)
        self._ticks_bytes += len(tick)
        while len(self._ticks) > _KEPT_TICKS or self._ticks_bytes > _KEPT_BYTES:
            self._ticks_bytes -= len(self._ticks.popleft())
        self.number += 1
        done, self._next = self._next, asyncio.Event()
        done.set()

    async def _overlay(self) -> None:
        if self._siblings is not None:
            self._news = await self._siblings.news(self._devices.device_ids)
            self._devices.advance(self._news.seen, int(self._clock.now()))
            if self._news.missed:
                self._refresh_now.set()
        latest, view, drains = int(self._clock.now()), self._stats.pending(), self._stats.drains()
        self._devices.overlay(view, latest)
        # The view of the last tick still has the touches that one flush has written since. If there
        # was more than one flush, some touches were in neither view; they are in the table.
        if drains != self._drains:
            self._devices.overlay(self._earlier, latest)
        if drains - self._drains > 1:
            self._refresh_now.set()
        self._earlier, self._drains = view, drains

    async def _update_presence(self) -> None:
        """Compute the states of devices that may have changed, some at a time."""
        for _ in self._devices.update_presence(self._clock.now()):
            await asyncio.sleep(0)

    async def _refresh_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_REFRESH_EVERY_S):
                    await self._refresh_now.wait()
            except TimeoutError:
                pass
            self._refresh_now.clear()
            try:
                await self._refresh_members()
                self._devices.recheck(_RECHECKED_PER_REFRESH)
                await self._refresh_positions()
                self._stale = False
            except StoreError as error:
                self._stale = True
                if times := self._stale_log.due():
                    log.warning("live.stale", error=str(error), times=times)

    async def _refresh_members(self) -> None:
        summary = await self._queries.summary(self._group_id)
        if summary.members != self._members:
            await self._read_members()
            return
        self._devices.saw(summary.seen, summary.stored)
        self._refreshes += 1
        if self._refreshes % _REFRESHES_PER_COUNT == 0:
            await self._count_members()

    async def _read_members(self) -> None:
        order: list[int] = []
        members = 0
        page = await self._queries.page(self._group_id)
        while page:
            del page[MAX_DEVICES - len(order) :]
            order += [
                self._devices.put(*known, stored=(stored, after_s))
                for *known, stored, after_s, _ in page
            ]
            members += sum(row[-1] for row in page)
            if len(order) == MAX_DEVICES:
                break
            page = await self._queries.page(self._group_id, (page[-1][1], page[-1][0]))
        self._devices.keep(order)
        self._members = (
            members  # of the rows that were read: a later change is found by the next refresh
        )
        await self._count_members()

    async def _count_members(self) -> None:
        """Count the devices of the group if there may be more than the snapshot can hold."""
        shown = len(self._devices)
        full = shown == MAX_DEVICES
        self._devices.of = await self._queries.count(self._group_id) if full else shown

    async def _refresh_positions(self) -> None:
        numbers, ids, known_ms = self._devices.next_to_locate(_LOCATED_PER_REFRESH)
        if not numbers:
            return
        try:
            found = await self._queries.positions(ids, known_ms)
        except BaseException:
            self._devices.to_locate.update(dict.fromkeys(numbers))
            raise
        for place, position in found:
            self._devices.locate(numbers[place], position)

    async def snapshot(self) -> Snapshot:
        """Return all devices as of a tick whose successor is still kept."""
        async with self._encoding:
            if self._encoded is None or not self._is_fresh(self._encoded):
                await self._update_presence()
                number, chunks = self.number, []
                devices, of = len(self._devices), self._devices.of
                for chunk in self._devices.chunks(self._clock.now()):
                    chunks.append(chunk)
                    await asyncio.sleep(0)
                self._encoded = Snapshot(number, devices, of, chunks, sum(map(len, chunks)))
            return self._encoded

    def _is_fresh(self, snapshot: Snapshot) -> bool:
        since = self.number - snapshot.number
        if since > min(_SHARED_TICKS, len(self._ticks)):
            return False
        later = islice(reversed(self._ticks), since)
        return sum(map(len, later)) <= snapshot.size_bytes

    def has_tick(self, number: int) -> bool:
        """Return whether this tick and all later ones are still kept, or yet to come."""
        return number > self.number - len(self._ticks)

    async def tick(self, number: int) -> Tick | None:
        """Wait for a tick and return it; None if it is no longer kept, or if the group has closed.

        Args:
            number: of the tick; the first one after a snapshot is `snapshot.number + 1`.
        """
        while number > self.number and not self.closed:
            await self._next.wait()
        if self.closed or not self.has_tick(number):
            return None
        return self._ticks[number - self.number - 1]
