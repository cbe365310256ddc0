"""Measures what flushes do to the table: WAL, HOT updates, and four concurrent writers."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from benchmarks.harness.flushing import Clock, check, our_flusher
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed, connected
from tracker._flush.flusher import Flusher
from tracker.postgres import open_pool

ROWS: Final = 200_000
TOUCHED: Final = 100_000
_ROUNDS: Final = 5
STEPS: Final = 1 + 2 * _ROUNDS
_STEADY_SHARE: Final = 10
_STEADY_ROUNDS: Final = 10
_WRITERS: Final = 4


async def steady(testbed: Testbed, clock: Clock, report: Report) -> None:
    """Measure WAL and HOT updates while each flush writes one device in ten."""
    wal, hot = [], []
    async with (
        testbed.fleet(ROWS) as fleet,
        open_pool(fleet.dsn, connections=1) as pool,
        connected(fleet.dsn) as connection,
    ):
        await connection.execute("CHECKPOINT")
        for number in range(_STEADY_ROUNDS + 1):
            touches = clock.touches(fleet.devices, ROWS // _STEADY_SHARE)
            before = await _written(connection)
            await our_flusher(pool, touches).flush()
            await pool.execute("SELECT pg_stat_force_next_flush()")
            after = await _written(connection)
            rows = after[1] - before[1]
            if rows != len(touches):
                raise BenchmarkFailedError(f"{rows:,} rows were updated, not {len(touches):,}")
            if number:  # the first round writes whole pages into the WAL
                wal.append((after[0] - before[0]) / rows)
                hot.append((after[2] - before[2]) / rows * 100)
    report.state("flush", "WAL per written row, steady", wal, "B")
    report.state("flush", "HOT updates, steady", hot, "%", goal=98, better="higher")


async def _written(connection: "asyncpg.Connection[asyncpg.Record]") -> tuple[int, int, int]:
    """Return the WAL in bytes, the updates and the heap-only updates of a table so far."""
    wal, updates, heap_only = await connection.fetchrow(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, "
        "n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'devices'"
    ) or (0, 0, 0)
    return wal, updates, heap_only


async def writers(
    testbed: Testbed, clock: Clock, report: Report, advance: Callable[[], None]
) -> None:
    """Measure four concurrent flushes: of the same rows, and of different rows."""
    each = TOUCHED // _WRITERS
    async with testbed.fleet(ROWS) as fleet, AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(open_pool(fleet.dsn, connections=1))
            for _ in range(_WRITERS)
        ]
        shared = fleet.devices[:each]

        async def write(parts: Sequence[Sequence[str]]) -> float:
            touches = [clock.touches(part, each) for part in parts]
            flushers = [our_flusher(pool, some) for pool, some in zip(pools, touches, strict=True)]

            async def until_written(flusher: Flusher) -> None:
                while len(flusher.buffer):
                    await flusher.flush()

            started = time.perf_counter()
            await asyncio.gather(*map(until_written, flushers))
            seconds = time.perf_counter() - started
            newest: dict[str, int] = {}
            for key, at in (one for some in touches for one in some):
                newest[key] = max(at, newest.get(key, 0))
            await check(fleet.dsn, list(newest.items()))
            return _WRITERS * each / seconds

        async def overlapping() -> float:
            return await write([shared] * _WRITERS)

        async def disjoint() -> float:
            return await write([fleet.devices[at : at + each] for at in range(0, TOUCHED, each)])

        await disjoint()
        measured = await alternate(
            _ROUNDS, {"overlapping": overlapping, "disjoint": disjoint}, advance
        )
        async with connected(fleet.dsn) as connection:
            deadlocks = await connection.fetchval(
                "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            )
        if deadlocks:
            raise BenchmarkFailedError(f"{deadlocks} deadlocks among {_WRITERS} writers")
    report.compare(
        *("flush", "rows/s of four writers, same keys / own keys"),
        *(Measured(name, measured[name], "rows/s") for name in ("overlapping", "disjoint")),
        goal=0.6,
    )
