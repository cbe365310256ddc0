"""Measures what presence costs the flush, against the same tables without its triggers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from benchmarks.harness.cpu import CpuMeter, pids_of
from benchmarks.harness.flushing import check, our_flusher, timed, touches_at
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Fleet, Testbed
from tracker.postgres import Pool, open_pool

ROWS: Final = 40_000
TOUCHED: Final = 20_000
_ROUNDS: Final = 7
_CHANGING_SHARE: Final = 10
STEPS: Final = 2 * 2 * _ROUNDS
_WITHOUT: Final = """
DROP TRIGGER presence_begins ON devices;
DROP TRIGGER presence_registered ON devices;
DROP TRIGGER presence_changes ON devices
"""
_LET_SOME_BE_OFFLINE: Final = """
UPDATE devices SET is_online = false, presence_since = last_seen_at
WHERE device_id = ANY($1::text::uuid[])
"""


class _Table:
    """A fleet, and the connection that flushes to it."""

    def __init__(self, fleet: Fleet, pool: Pool, *, watched: bool) -> None:
        self.fleet = fleet
        self.pool = pool
        self.watched = watched
        self._last = 0

    async def flush(self, changing: int) -> tuple[float, float | None]:
        """Flush touches of this second, some of them of devices that are offline.

        Returns:
            Rows per second, and microseconds of CPU time for a row, of client and server; None if
            the server is on another machine.
        """
        while (now := int(time.time())) == self._last:
            await asyncio.sleep(0.05)  # each round has a second of its own
        self._last = now
        touches = touches_at(self.fleet.devices, TOUCHED, now)
        if changing:
            text = f"{{{','.join(key for key, _ in touches[:changing])}}}"
            await self.pool.execute(_LET_SOME_BE_OFFLINE, text)
            await self.pool.execute("TRUNCATE event_outbox")
            await self.pool.execute("VACUUM devices")
        flusher = our_flusher(self.pool, touches)
        meter = CpuMeter(await pids_of(self.pool))
        measured = await timed(TOUCHED, flusher.flush)
        client_s, server_s = meter.used_s()
        await check(self.fleet.dsn, touches)
        events = await self.pool.fetchval("SELECT count(*) FROM event_outbox")
        if events != (changing if self.watched else 0):
            raise BenchmarkFailedError(f"{events:,} events of {changing:,} changes were stored")
        cpu_s = None if server_s is None else client_s + server_s
        return measured.rows_per_s, None if cpu_s is None else cpu_s / TOUCHED * 1e6


@asynccontextmanager
async def _tables(testbed: Testbed) -> AsyncIterator[dict[str, _Table]]:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(testbed.fleet(ROWS))
        copy = await stack.enter_async_context(testbed.copy(first))
        tables = {}
        for name, fleet in (("on", first), ("off", copy)):
            pool = await stack.enter_async_context(open_pool(fleet.dsn, connections=1))
            if name == "off":
                await pool.execute(_WITHOUT)
            await pool.execute(
                "UPDATE devices SET is_online = true, last_seen_at = now() - interval '1 h'"
            )
            await pool.execute("TRUNCATE event_outbox")
            await pool.execute("VACUUM (FREEZE, ANALYZE) devices")
            tables[name] = _Table(fleet, pool, watched=name == "on")
        yield tables


async def flush(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run this part.

    Args:
        testbed: where tables are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a table does not hold what was touched, or an event is missing.
    """
    async with _tables(testbed) as tables:
        for changing, what, goal in (
            (0, "no state changes", 0.95),
            (TOUCHED // _CHANGING_SHARE, f"{100 // _CHANGING_SHARE} % changing", 0.7),
        ):
            measure = {name: partial(table.flush, changing) for name, table in tables.items()}
            for warm_up in measure.values():
                await warm_up()
            measured = await alternate(_ROUNDS, measure, advance)
            rates = {
                name: Measured(name, [rate for rate, _ in rounds], "rows/s")
                for name, rounds in measured.items()
            }
            report.compare(
                *("presence", f"flush rows/s, on / off, {what}", rates["on"], rates["off"]),
                goal=goal,
            )
            costs = {
                name: Measured(name, [cpu for _, cpu in rounds if cpu is not None], "us")
                for name, rounds in measured.items()
            }
            if costs["on"].values:
                report.compare(  # less affected by other load on the machine
                    *("presence", f"CPU of a flushed row, on / off, {what}"),
                    *(costs["on"], costs["off"]),
                    goal=1 / goal,
                    better="lower",
                )
