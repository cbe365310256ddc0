"""Finds devices that have fallen silent, in time and not before their row was read again."""

import asyncio
import time
from collections.abc import Iterable, Iterator
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
from api.presence.listening import IS_LISTENING, Listening
from api.presence.wheel import Wheel
from tracker import StoreError
from tracker.instrumentation import Family, Histogram, LogThrottle, families

_TICK_S: Final = 0.5
_SLICE: Final = 5000
_AT_ONCE: Final = 1000
"""How many rows one statement reads again."""
_AGAIN_S: Final = 1
"""When a device is looked at again whose row was locked, in seconds."""
_DEADLINE_S: Final = 5.0
_LOAD_DEADLINE_S: Final = 30.0
_LOG_EVERY_S: Final = 60.0
_GROUPS_LAG_S: Final = 10
"""How late a change of a group may commit and still be seen, in seconds."""
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_DELAYS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

_OFFLINE_AT: Final = """
to_timestamp(ceil(extract(epoch FROM
    d.last_seen_at
    + make_interval(secs => coalesce(
        d.offline_after_s,
        (SELECT s.offline_after_s FROM group_settings AS s WHERE s.group_id = d.group_id),
        $1::integer))
    + coalesce((SELECT sum(least(g.ended_at, now()) - greatest(g.began_at, d.last_seen_at))
                FROM listening_gaps AS g
                WHERE g.ended_at > d.last_seen_at AND g.began_at < now()), interval '0')
)))
"""
"""SQL: when device d is offline unless it is seen again; times of no listening do not count."""
_MAY_FALL_SILENT: Final = "d.is_active AND d.is_online IS NOT FALSE AND isfinite(d.last_seen_at)"
_LOAD: Final = f"""
SELECT uuid_send(d.device_id), extract(epoch FROM {_OFFLINE_AT})::bigint FROM devices AS d
WHERE {_MAY_FALL_SILENT} AND d.device_id > $2 ORDER BY d.device_id LIMIT {_SLICE}
"""
_LOAD_GROUP: Final = f"""
SELECT uuid_send(d.device_id), extract(epoch FROM {_OFFLINE_AT})::bigint FROM devices AS d
WHERE {_MAY_FALL_SILENT} AND d.group_id = $3 AND d.device_id > $2
ORDER BY d.device_id LIMIT {_SLICE}
"""
_READ: Final = f"""
SELECT uuid_send(d.device_id), d.device_id::text, extract(epoch FROM {_OFFLINE_AT})::bigint,
       extract(epoch FROM d.last_seen_at)::bigint, extract(epoch FROM now())::float8
FROM devices AS d WHERE d.device_id = ANY($2::uuid[]) AND {_MAY_FALL_SILENT}
"""
_SILENCE: Final = f"""
WITH due AS (
    SELECT d.device_id, d.is_online, {_OFFLINE_AT} AS at FROM devices AS d
    WHERE d.device_id = ANY($2::uuid[]) AND {_MAY_FALL_SILENT} AND {_OFFLINE_AT} <= now()
          AND {IS_LISTENING}
    ORDER BY d.device_id FOR UPDATE OF d SKIP LOCKED
), changed AS (
    UPDATE devices AS d SET
        is_online = false, presence_since = due.at,
        -- Whether it was online before presence was watched is not known.
        event_seq = d.event_seq + due.is_online::boolean::integer
    FROM due WHERE d.device_id = due.device_id AND due.is_online
    RETURNING d.device_id, d.event_seq, d.group_id, d.last_seen_at, due.at
), unknown AS (
    UPDATE devices AS d SET is_online = false, presence_since = due.at
    FROM due WHERE d.device_id = due.device_id AND due.is_online IS NULL
    RETURNING d.device_id, NULL::bigint, NULL::text, NULL::timestamptz, due.at
), written AS (
    INSERT INTO event_outbox (device_id, seq, type, group_id, at, data)
    SELECT device_id, event_seq, 'device.offline', group_id, at,
           jsonb_build_object('last_seen_at', to_char(last_seen_at AT TIME ZONE 'UTC',
                                                      'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
    FROM changed
)
SELECT device_id::text, extract(epoch FROM now() - at)::float8, group_id IS NOT NULL
FROM (SELECT * FROM changed UNION ALL SELECT * FROM unknown) AS both_kinds
"""
_CHANGED_GROUPS: Final = f"""
SELECT group_id, changed_at FROM group_settings
WHERE changed_at > now() - interval '{_GROUPS_LAG_S} s'
"""

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
        """Watch a device that somebody has changed: it may have another time by now.

        Args:
            device_id: in canonical form.
        """
        self.watch([UUID(device_id).bytes])

    async def run(self) -> None:
        """Watch until the task is cancelled."""
        while True:
            started = time.monotonic()
            try:
                await self._listening.note()
                if not self._loaded:
                    await self._load(_LOAD)
                    self._loaded = True
                await self._follow_groups()
                await self._look_at_due()
            except StoreError as error:
                if times := self._failed.due():
                    log.warning("presence.failed", error=str(error), times=times)
            except Exception:
                if times := self._failed.due():
                    log.exception("presence.crashed", times=times)
            await asyncio.sleep(max(0.05, _TICK_S - (time.monotonic() - started)))

    async def _load(self, statement: str, *more: str) -> None:
        """Watch all devices that a statement finds, slice by slice."""
        after, noted_at = _NIL, time.monotonic()
        while True:
            rows = await self._database.fetch(
                statement, self._offline_after_s, after, *more, deadline_s=_LOAD_DEADLINE_S
            )
            for device_id, second in rows:
                self._wheel.add(second, device_id)
            if len(rows) < _SLICE:
                return
            after = _text(rows[-1][0])
            if time.monotonic() - noted_at > 1.0:  # it may take longer than a gap
                await self._listening.note()
                noted_at = time.monotonic()

    async def _follow_groups(self) -> None:
        rows = await self._database.fetch(_CHANGED_GROUPS, deadline_s=_DEADLINE_S)
        changed: dict[str, object] = {row[0]: row[1] for row in rows}
        for group_id, at in changed.items():
            if self._groups.get(group_id) != at:
                await self._load(_LOAD_GROUP, group_id)
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
            _READ, self._offline_after_s, list(map(_text, device_ids)), deadline_s=_DEADLINE_S
        )
        view = await pending.of([row[1] for row in rows])
        silent: dict[str, bytes] = {}
        for device_id, text, offline_at, seen, now in rows:
            touched = view.get(text)
            if touched is not None and touched > seen:
                offline_at += touched - seen  # noqa: PLW2901 - as it will be once that is written
            if offline_at <= now:
                silent[text] = device_id
            else:
                self._wheel.add(max(offline_at, int(now) + _AGAIN_S), device_id)
        if silent:
            found = await self._database.fetch(
                _SILENCE, self._offline_after_s, list(silent), deadline_s=_DEADLINE_S
            )
            self._count(found)
            again = int(self._clock.now()) + _AGAIN_S
            for text in silent.keys() - {row[0] for row in found}:
                # Its row was locked, or it was seen or silenced just now.
                self._wheel.add(again, silent[text])

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
