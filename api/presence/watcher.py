"""Finds devices that have gone offline, in time and not before their row was read again."""

import asyncio
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final
from uuid import UUID

import structlog
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from api.fleet.pending import Pending
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database, Records
from api.presence.listening import GAP_S, Listening
from api.presence.statements import (
    CHANGED_GROUPS,
    LOAD,
    LOAD_GROUP,
    READ,
    READ_TOUCHED,
    SILENCE,
    SLICE,
)
from api.presence.wheel import Wheel
from tracker import StoreError
from tracker.instrumentation import Family, Histogram, LogThrottle, families

_TICK_S: Final = 0.5
_AT_ONCE: Final = 1000
"""How many rows one statement reads again."""
_AGAIN_S: Final = 1
"""When a device is looked at again whose row was locked, in seconds."""
_DEADLINE_S: Final = 5.0
_LOAD_DEADLINE_S: Final = 30.0
_LOG_EVERY_S: Final = 60.0
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_DELAYS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Watcher(Collector):
    """Watches all devices of the service.

    Args:
        database: where devices are stored.
        pending: touches that are not in the table yet: a device that has one is not silent.
        clock: of the database.
        listening: notes that this process listens.
        offline_after_s: when a device is offline of which nothing else is said, in seconds.
    """

    def __init__(
        self,
        database: Database,
        pending: Pending,
        clock: DatabaseClock,
        listening: Listening,
        *,
        offline_after_s: int,
    ) -> None:
        self._database = database
        self._pending = pending
        self._clock = clock
        self._listening = listening
        self._offline_after_s = offline_after_s
        self._wheel = Wheel()
        self._groups: dict[str, object] = {}  # when each was changed, as far as that is recent
        self._loaded = False
        self._looked_at = -math.inf  # by the database's clock
        self._failed = LogThrottle(_LOG_EVERY_S)
        self.silenced = 0
        """How many devices this process has found to be offline."""
        self.delays = Histogram(_DELAYS_S)

    def watch(self, device_ids: Iterable[bytes]) -> None:
        """Watch devices that were seen just now, or whose settings have changed.

        Args:
            device_ids: 16 bytes each.
        """
        now = int(self._clock.now_or_host())
        for device_id in device_ids:
            self._wheel.add(now, device_id)  # their row says when they are due

    def look_at_soon(self, device_id: str) -> None:
        """Watch a device that was changed: it may have another timeout by now.

        Args:
            device_id: in canonical form.
        """
        self.watch([UUID(device_id).bytes])

    async def run(self) -> None:
        """Watch until the task is cancelled."""
        while True:
            started = time.monotonic()
            try:
                await self.run_once()
            except StoreError as error:
                if times := self._failed.due():
                    log.warning("presence.failed", error=str(error), times=times)
            except Exception:
                if times := self._failed.due():
                    log.exception("presence.crashed", times=times)
            await asyncio.sleep(max(0.05, _TICK_S - (time.monotonic() - started)))

    async def run_once(self) -> None:
        """Note that this process listens, and find the devices that are offline by now.

        Raises:
            StoreError: the database is unavailable; what was not done is done the next time.
        """
        await self._listening.note()
        now = self._clock.now()
        if now < self._looked_at - GAP_S:
            self._loaded = False  # the clock was set back: devices may be due earlier
        self._looked_at = now
        if not self._loaded:
            self._wheel = Wheel()
            await self._load(LOAD)
            self._loaded = True
        await self._follow_groups()
        await self._look_at_due()

    async def _load(self, statement: str, *more: str) -> None:
        """Watch all devices that a statement finds, slice by slice."""
        after, noted_at = _NIL, time.monotonic()
        while True:
            rows = await self._database.fetch(
                statement, self._offline_after_s, after, *more, deadline_s=_LOAD_DEADLINE_S
            )
            for device_id, second in rows:
                self._wheel.add(second, device_id)
            if len(rows) < SLICE:
                return
            after = _text(rows[-1][0])
            if time.monotonic() - noted_at > 1.0:  # it may take longer than a gap
                await self._listening.note()
                noted_at = time.monotonic()

    async def _follow_groups(self) -> None:
        rows = await self._database.fetch(CHANGED_GROUPS, deadline_s=_DEADLINE_S)
        changed: dict[str, object] = {row[0]: row[1] for row in rows}
        for group_id, at in changed.items():
            if self._groups.get(group_id) != at:
                await self._load(LOAD_GROUP, group_id)
        self._groups = changed

    async def _look_at_due(self) -> None:
        now = self._clock.now()
        if now <= 0:
            return
        due = iter(self._wheel.take_due(int(now)))
        while some := list(islice(due, _AT_ONCE)):
            try:
                await self._look_at(some)
            except BaseException:
                for device_id in (*some, *due):  # none may be forgotten
                    self._wheel.add(int(now) + _AGAIN_S, device_id)
                raise

    async def _look_at(self, device_ids: list[bytes]) -> None:
        """Read devices again: silence those that are offline, set the timers of the others."""
        pending = await self._pending.view()
        rows = await self._database.fetch(
            READ, self._offline_after_s, _array(map(bytes.hex, device_ids)), deadline_s=_DEADLINE_S
        )
        view = await pending.of([row[1] for row in rows])
        touched: dict[str, int] = {}
        for _, text, _, seen, _ in rows:
            second = view.get(text)
            if second is not None and second > seen:
                touched[text] = second
        deadlines = await self._deadlines_of(touched)
        silent: dict[str, bytes] = {}
        for device_id, text, of_row, _, now in rows:
            offline_at = deadlines.get(text, of_row)
            if offline_at <= now:
                silent[text] = device_id
            else:
                self._wheel.add(max(offline_at, int(now) + _AGAIN_S), device_id)
        if silent:
            found = await self._database.fetch(
                SILENCE, self._offline_after_s, _array(silent), deadline_s=_DEADLINE_S
            )
            self._count(found)
            again = int(self._clock.now()) + _AGAIN_S
            for text in silent.keys() - {row[0] for row in found}:
                # Its row was locked, or it was seen or silenced just now.
                self._wheel.add(again, silent[text])

    async def _deadlines_of(self, touched: Mapping[str, int]) -> dict[str, int]:
        """Return when devices are offline by touches that are not written yet."""
        if not touched:
            return {}
        rows = await self._database.fetch(
            *(READ_TOUCHED, self._offline_after_s, _array(touched)),
            _array(map(str, touched.values())),
            deadline_s=_DEADLINE_S,
        )
        return {row[0]: row[1] for row in rows}

    def _count(self, found: Records) -> None:
        for _, delay_s, was_known in found:
            if was_known:
                self.silenced += 1
                self.delays.observe(max(0.0, delay_s))

    @property
    def timers(self) -> int:
        """How many timers there are."""
        return len(self._wheel)

    @property
    def listening(self) -> Listening:
        """What notes that this process listens."""
        return self._listening

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self})


def _text(device_id: bytes) -> str:
    return str(UUID(bytes=device_id))


def _array(values: Iterable[str]) -> str:
    """Return an array literal: the driver takes longer for an array of uuids."""
    return f"{{{','.join(values)}}}"


_FAMILIES: Final[tuple[Family[Watcher], ...]] = (
    Family(
        GaugeMetricFamily,
        "presence_timers",
        "Timers of devices that are watched; a device may have more than one for a while.",
        lambda watcher: watcher.timers,
    ),
    Family(
        CounterMetricFamily,
        "presence_silenced_devices",
        "Devices that this process found to be offline.",
        lambda watcher: watcher.silenced,
    ),
    Family(
        HistogramMetricFamily,
        "presence_offline_delay_seconds",
        "From the time at which a device was offline until that was stored.",
        lambda watcher: watcher.delays,
    ),
    Family(
        CounterMetricFamily,
        "presence_listening_gaps",
        "Times in which no process listened, as found by this process.",
        lambda watcher: watcher.listening.gaps,
    ),
    Family(
        CounterMetricFamily,
        "presence_listening_gap_seconds",
        "How long no process listened; devices are not offline for that.",
        lambda watcher: watcher.listening.gap_s,
    ),
)
