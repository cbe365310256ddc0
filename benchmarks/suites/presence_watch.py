"""Measures the watcher of a million devices: memory, CPU while nothing changes, and its delay.

The watcher runs in this process, where its memory and CPU can be measured. A tenth of the devices
fall silent, 10,000 in each second; all the others were seen since their timers were set, which then
only have to be set again.
"""

import asyncio
import gc
from collections.abc import Callable
from statistics import median
from typing import Final

import psutil

from api.background import background
from api.config import DatabaseSettings, PresenceSettings
from api.fleet.pending import Pending
from api.postgres.clock import DatabaseClock
from api.postgres.database import open_database
from api.presence.listening import Listening
from api.presence.watcher import Watcher
from benchmarks.harness.cpu import CpuMeter, pids_in
from benchmarks.harness.report import BenchmarkFailedError, Report
from benchmarks.harness.testbed import Testbed, connected
from tracker import no_touches

DEVICES: Final = 1_000_000
_SILENT_PER_S: Final = 10_000
_SILENT_FOR_S: Final = 10
_QUIET_S: Final = 5
_QUIET_ROUNDS: Final = 3
STEPS: Final = 3
_SPREAD_S: Final = PresenceSettings().offline_after_s
"""Over how many seconds the timers of all devices are spread."""
_LOADED_WITHIN_S: Final = 25
"""From when rows are there until the first timers are due."""
_MARGIN_S: Final = 5
"""From when rows are changed until the first device falls silent."""
_FOUND_WITHIN_S: Final = 40
_ALL_DONE_WITHIN_S: Final = 110
"""From when all devices are loaded until the last silent one is found, at the latest."""
_PERCENTILE: Final = 0.99
_MAKE: Final = """
ALTER TABLE devices DISABLE TRIGGER USER;
INSERT INTO devices (device_id, display_name, group_id, platform, is_online, presence_since,
                     event_seq, last_seen_at)
SELECT gen_random_uuid(), 'a phone', 'fleet', 'android', true, now(), 1,
       date_trunc('second', now()) - make_interval(secs => n % $2::integer)
FROM generate_series(1, $1) AS n;
ALTER TABLE devices ENABLE TRIGGER USER;
UPDATE presence_clock SET listened_until = now();
"""
_LET_SILENCE_BEGIN: Final = """
UPDATE devices AS d SET last_seen_at = date_trunc('second', now())
    + make_interval(secs => $2::integer - $1::integer + chosen.n / $3::integer)
FROM (
    SELECT device_id, row_number() OVER () - 1 AS n FROM devices LIMIT $3::integer * $4::integer
) AS chosen
WHERE d.device_id = chosen.device_id
RETURNING uuid_send(d.device_id)
"""
_SEE_THE_OTHERS: Final = """
UPDATE devices SET last_seen_at = date_trunc('second', now())
WHERE last_seen_at < now() - make_interval(secs => $1)
"""


class _Delays:
    """Keeps each delay, in place of a histogram.

    Args:
        clock: of the database, by which deadlines are whole seconds.
    """

    def __init__(self, clock: DatabaseClock) -> None:
        self._clock = clock
        self.by_second: dict[int, list[float]] = {}
        self.count = 0

    def observe(self, value: float) -> None:
        second = round(self._clock.now() - value)
        self.by_second.setdefault(second, []).append(value)
        self.count += 1


async def watch(
    testbed: Testbed,
    report: Report,
    advance: Callable[[], None],
    *,
    devices: int = DEVICES,
    per_s: int = _SILENT_PER_S,
) -> None:
    """Run this part.

    Args:
        testbed: where the database is created.
        report: receives the findings.
        advance: called after each step.
        devices: how many are watched.
        per_s: how many fall silent in each of ten seconds.

    Raises:
        BenchmarkFailedError: not all silent devices were found, or others were.
    """
    async with testbed.fleet(0) as fleet, connected(fleet.dsn) as db:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        for statement in _MAKE.split(";")[:-1]:
            numbers = (devices, _SPREAD_S)
            await db.execute(statement, *(numbers if "generate_series" in statement else ()))
        await db.execute("VACUUM (FREEZE, ANALYZE) devices")
        due_at = loop.time() + _LOADED_WITHIN_S
        offline_after_s = round(due_at - began_at) + _SPREAD_S
        clock = DatabaseClock()
        async with open_database(fleet.dsn, DatabaseSettings(), connections=3) as database:
            asked_at = clock.monotonic()
            ((now,),) = await database.fetch("SELECT extract(epoch FROM now())::float8")
            clock.set(now, asked_at=asked_at)
            listening = Listening(database, offline_after_s=offline_after_s)
            watcher = Watcher(
                *(database, Pending(no_touches), clock, listening), offline_after_s=offline_after_s
            )
            delays = _Delays(clock)
            watcher.delays = delays  # type: ignore[assignment]
            gc.collect()
            before = psutil.Process().memory_info().rss
            async with background(watcher.run(), "presence"):
                loading_since = loop.time()
                async with asyncio.timeout(_FOUND_WITHIN_S):
                    while not watcher._loaded:  # noqa: SLF001 - no user needs to know it
                        await asyncio.sleep(0.01)
                report.state(
                    "presence",
                    f"time to load {devices:,} devices",
                    [loop.time() - loading_since],
                    "s",
                )
                gc.collect()
                grown = psutil.Process().memory_info().rss - before
                if devices == DEVICES:
                    report.state("presence", "memory a device", [grown / devices], "B", goal=48)
                advance()
                # Their timers are due within the next minutes; their rows are newer.
                await db.execute(_SEE_THE_OTHERS, offline_after_s - _ALL_DONE_WITHIN_S)
                if loop.time() >= due_at:
                    raise BenchmarkFailedError("it took too long to make and load the devices")
                await asyncio.sleep(due_at - loop.time())
                await _quiet(report, fleet.dsn, f"{devices:,}")
                advance()
                rows = await db.fetch(
                    *(_LET_SILENCE_BEGIN, offline_after_s, _MARGIN_S, per_s, _SILENT_FOR_S)
                )
                watcher.watch([row[0] for row in rows])
                async with asyncio.timeout(_FOUND_WITHIN_S):
                    while delays.count < per_s * _SILENT_FOR_S:
                        await asyncio.sleep(0.05)
        await _check(db, per_s * _SILENT_FOR_S)
    _report_delays(report, delays, devices, per_s)
    advance()


async def _quiet(report: Report, dsn: str, shown: str) -> None:
    """Measure the CPU of both sides while timers are due whose devices were seen since."""
    own, server = [], []
    for _ in range(_QUIET_ROUNDS):
        meter = CpuMeter(await pids_in(dsn))
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(_QUIET_S)
        seconds = asyncio.get_running_loop().time() - started
        own_s, server_s = meter.used_s()
        own.append(own_s / seconds * 100)
        if server_s is not None:
            server.append(server_s / seconds * 100)
    what = f"CPU of watching {shown} quiet devices"
    report.state("presence", f"{what}, of a core", own, "%", goal=1)
    if server:
        report.state("presence", f"{what}, of a core of the database", server, "%", goal=1)


async def _check(db: object, expected: int) -> None:
    """Check that each silent device has its event, and no other device has one.

    Raises:
        BenchmarkFailedError: that is not so.
    """
    events, offline = await db.fetchrow(  # type: ignore[attr-defined]
        "SELECT (SELECT count(*) FROM event_outbox WHERE type = 'device.offline'), "
        "(SELECT count(*) FROM devices WHERE NOT is_online)"
    )
    if not events == offline == expected:
        raise BenchmarkFailedError(
            f"{events:,} events of {offline:,} devices were stored, not {expected:,}"
        )


def _report_delays(report: Report, delays: _Delays, devices: int, per_s: int) -> None:
    everything = sorted(one for some in delays.by_second.values() for one in some)
    p99s = [
        sorted(some)[int(len(some) * _PERCENTILE)]
        for some in delays.by_second.values()
        if len(some) >= per_s // 2
    ]
    what = f"offline found after its deadline, {devices:,} devices, {per_s:,} a second"
    report.state("presence", f"{what}, p99 of each second", p99s, "s", goal=2)
    report.state("presence", f"{what}, p50", [median(everything)], "s")
    report.state("presence", f"{what}, maximum", [everything[-1]], "s")
