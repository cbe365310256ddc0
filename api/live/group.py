"""One watched group: its picture is kept up to date, and told to all watchers in the same bytes.

Once a second the pending touches are laid over the picture, and what has changed is encoded. At a
slower pace the database is asked: for what other processes wrote, for who came, left or was
renamed, and for positions. If it does not answer, ticks go on with what is known.

What was told lately is kept, once for all: a watcher that lags goes on where it was, one that lags
further starts over with a new picture.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from api.live.queries import GroupQueries
from api.live.snapshot import MOST_DEVICES, Fleet
from api.live.tracker_stats import TrackerStats
from tracker import StoreError
from tracker.instrumentation import LogThrottle

TICK_S: Final = 1.0
_LOOK_EVERY_S: Final = 2.0
_LOCATED_AT_ONCE: Final = 1000
_PATROLLED_AT_ONCE: Final = 200
_LOOKS_PER_COUNT: Final = 15
_UNWATCHED_TICKS: Final = 3
_KEPT_TICKS: Final = 120
_KEPT_BYTES: Final = 4 << 20
_SHARED_TICKS: Final = 10
"""A picture so old is still shown to newcomers: what changed since is short, they get it next."""
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All devices of a group as events, as of a tick.

    Args:
        number: of the tick.
        devices: how many there are.
        of: how many active devices the group has.
        pieces: the events.
        size_bytes: how long they are together.
    """

    number: int
    devices: int
    of: int
    pieces: list[bytes]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Tick:
    """What a tick told.

    Args:
        group: of the group, to all who watch it.
        service: of the service, to those of them who may know of all groups.
    """

    group: bytes
    service: bytes

    def __len__(self) -> int:
        """Return how many bytes it takes."""
        return len(self.group) + len(self.service)


class Group:
    """A group as long as it is watched; made by `start`.

    Args:
        group_id: which one; None is one that nobody is in.
        roster: what the database knows.
        pulse: what the tracker knows.
    """

    def __init__(self, group_id: str | None, roster: GroupQueries, pulse: TrackerStats) -> None:
        self.watchers = 0
        self.number = 0
        """Of the last tick."""
        self.over = False
        """Whether there will be no other: ask for the group anew."""
        self.crashed = False
        """Whether that is for a bug, so that asking at once would only meet it again."""
        self._group_id = group_id
        self._roster = roster
        self._pulse = pulse
        self._clock = roster.clock
        self._fleet = Fleet()
        self._members: int | None = None
        self._looks = 0
        self._told: deque[Tick] = deque()
        self._told_bytes = 0
        self._next = asyncio.Event()
        self._picture: Snapshot | None = None
        self._drawing = asyncio.Lock()
        self._earlier = pulse.pending()
        self._drains = pulse.drains()
        self._look_now = asyncio.Event()
        self._blind = False
        self._silent = LogThrottle(_LOG_EVERY_S)
        self.loaded = asyncio.create_task(self._load(), name=f"live-load-{group_id}")
        """Done when there is a picture; raises StoreError if the database is away."""
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many devices are shown."""
        return len(self._fleet)

    async def run(self) -> None:
        """Keep the picture up to date until nobody has watched for a while.

        Raises:
            StoreError: the database is away, so that there is none to begin with.
        """
        try:
            await self.loaded
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(self._look_again_and_again())
                await self._tick_while_watched()
                looking.cancel()
        finally:
            self.loaded.cancel()
            self.over = True
            self._next.set()

    async def _load(self) -> None:
        self._earlier = self._pulse.pending()  # before the SELECT, as every view
        await self._look_at_members()
        while self._fleet.to_locate:
            await self._look_at_positions()
        self._lay_over()
        for _ in self._fleet.changes(0.0):  # nobody has been shown anything yet
            await asyncio.sleep(0)

    async def _tick_while_watched(self) -> None:
        due, unwatched = time.monotonic(), 0
        while unwatched < _UNWATCHED_TICKS and not self._fleet.worn_out:
            due = max(due + TICK_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            await self._tick()
            unwatched = 0 if self.watchers else unwatched + 1

    async def _tick(self) -> None:
        self._lay_over()
        await asyncio.sleep(0)
        pieces = []
        for piece in self._fleet.changes(round(self._clock.now(), 3), blind=self._blind):
            pieces.append(piece)
            await asyncio.sleep(0)
        told = Tick(b"".join(pieces), self._pulse.service())
        self._told.append(told)
        self._told_bytes += len(told)
        while len(self._told) > _KEPT_TICKS or self._told_bytes > _KEPT_BYTES:
            self._told_bytes -= len(self._told.popleft())
        self.number += 1
        done, self._next = self._next, asyncio.Event()
        done.set()

    def _lay_over(self) -> None:
        latest, view, drains = int(self._clock.now()), self._pulse.pending(), self._pulse.drains()
        self._fleet.lay_over(view, latest)
        # The earlier one still has what has been written since. If there was more than one flush,
        # touches may have come and gone unseen; they are in the table.
        if drains != self._drains:
            self._fleet.lay_over(self._earlier, latest)
        if drains - self._drains > 1:
            self._look_now.set()
        self._earlier, self._drains = view, drains

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._look_now.wait()
            except TimeoutError:
                pass
            self._look_now.clear()
            try:
                await self._look_at_members()
                self._fleet.patrol(_PATROLLED_AT_ONCE)
                await self._look_at_positions()
                self._blind = False
            except StoreError as error:
                self._blind = True
                if times := self._silent.due():
                    log.warning("live.stale", error=str(error), times=times)

    async def _look_at_members(self) -> None:
        summary = await self._roster.summary(self._group_id)
        if summary.members != self._members:
            await self._read_members()
            return
        self._fleet.saw(summary.seen)
        self._looks += 1
        if self._looks % _LOOKS_PER_COUNT == 0:
            await self._count_members()

    async def _read_members(self) -> None:
        order: list[int] = []
        members = 0
        page = await self._roster.page(self._group_id)
        while page:
            del page[MOST_DEVICES - len(order) :]
            order += [self._fleet.put(*row) for *row, _ in page]
            members += sum(row[-1] for row in page)
            if len(order) == MOST_DEVICES:
                break
            page = await self._roster.page(self._group_id, (page[-1][1], page[-1][0]))
        self._fleet.keep(order)
        self._members = members  # of what was read: what changes meanwhile is seen at the next look
        await self._count_members()

    async def _count_members(self) -> None:
        """Take note of how many there are beyond those that are shown."""
        shown = len(self._fleet)
        full = shown == MOST_DEVICES
        self._fleet.of = await self._roster.count(self._group_id) if full else shown

    async def _look_at_positions(self) -> None:
        numbers, ids, known_ms = self._fleet.next_to_locate(_LOCATED_AT_ONCE)
        if not numbers:
            return
        try:
            found = await self._roster.positions(ids, known_ms)
        except BaseException:
            self._fleet.to_locate.update(dict.fromkeys(numbers))
            raise
        for place, position in found:
            self._fleet.locate(numbers[place], position)

    async def picture(self) -> Snapshot:
        """Return all devices as of a tick that `told` still knows the next one of."""
        async with self._drawing:
            if self._picture is None or not self._is_fresh(self._picture):
                number, pieces = self.number, []
                devices, of = len(self._fleet), self._fleet.of
                for piece in self._fleet.pieces():
                    pieces.append(piece)
                    await asyncio.sleep(0)
                self._picture = Snapshot(number, devices, of, pieces, sum(map(len, pieces)))
            return self._picture

    def _is_fresh(self, picture: Snapshot) -> bool:
        since = self.number - picture.number
        if since > min(_SHARED_TICKS, len(self._told)):
            return False
        later = islice(reversed(self._told), since)
        return sum(map(len, later)) <= picture.size_bytes

    def remembers(self, number: int) -> bool:
        """Whether all ticks from this one on are still known, or yet to come."""
        return number > self.number - len(self._told)

    async def told(self, number: int) -> Tick | None:
        """Return what a tick told when it has; None if it is not known any more, or never will be.

        Args:
            number: of the tick, from that of a picture on.
        """
        while number > self.number and not self.over:
            await self._next.wait()
        if self.over or not self.remembers(number):
            return None
        return self._told[number - self.number - 1]
