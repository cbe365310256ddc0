"""The flush alone: how fast rows are written, what that costs the event loop, and the table.

All contenders write the same touches, of 100,000 devices in random order, into tables of the same
shape on the same server, each round a second later than the one before.
"""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from api.app import targets
from api.config import TrackerSettings
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.stall import Stall, longest_stall
from benchmarks.harness.testbed import Fleet, Testbed, connected
from tracker import Target
from tracker._buffer.buffer import Buffer
from tracker._flush.flusher import Flusher
from tracker.postgres import Pool, open_pool
from tracker.postgres._statements import begin, statements
from tracker.postgres._store import PostgresStore

ROWS: Final = 200_000
TOUCHED: Final = 100_000
_ONE_BY_ONE: Final = 10_000
"""Fewer for what is slow; figures are per row."""
_STEADY_SHARE: Final = 10
_STEADY_ROUNDS: Final = 10
_WRITERS: Final = 4
_ROUNDS: Final = 5
STEPS: Final = 4 * _ROUNDS + 2 + 2 * _ROUNDS
_LONG_AGO: Final = 1_600_000_000
_MICRO: Final = 1e6
_TIMEOUTS: Final = {"statement_timeout_s": 60.0, "lock_timeout_s": 0.25}
DEVICES: Final[Target] = targets(TrackerSettings())[0]
CHUNK_KEYS: Final = TrackerSettings().chunk_keys

Touches = Sequence[tuple[str, int]]


@dataclass(slots=True)
class Round:
    """A flush, measured."""

    rows_per_s: float
    cpu_us_per_row: float = 0.0


class Clock:
    """Gives each round of touches a second of its own, long ago."""

    def __init__(self) -> None:
        self.at = _LONG_AGO

    def touches(self, devices: Sequence[str], count: int) -> Touches:
        """Return touches of some devices, in random order, within five seconds."""
        self.at += 10
        chosen = random.sample(devices, count)
        # A string of its own for each, as it comes out of a request.
        touches = [(f"{one[:8]}{one[8:]}", self.at + random.randrange(5)) for one in chosen]
        gc.collect()
        gc.freeze()  # these touches are the benchmark's, not to be looked through in a flush
        return touches


def our_flusher(pool: Pool, touches: Touches) -> Flusher:
    """Return a flush of our own that has these touches to write."""
    buffer = Buffer(DEVICES)
    for key, at in touches:
        buffer.touch(key, at=at)
    return Flusher(buffer, PostgresStore(pool, DEVICES, **_TIMEOUTS), chunk_keys=CHUNK_KEYS)


async def timed(rows: int, work: Callable[[], Awaitable[object]]) -> Round:
    """Measure a flush of some rows."""
    cpu = time.process_time()
    started = time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    return Round(rows / seconds, (time.process_time() - cpu) / rows * _MICRO)


class Contest:
    """The contenders; each has a table of its own.

    Args:
        clock: gives times to touches.
        fleets: a database for each contender.
        pools: a connection to each.
    """

    def __init__(self, clock: Clock, fleets: dict[str, Fleet], pools: dict[str, Pool]) -> None:
        self._clock = clock
        self._fleets = fleets
        self._pools = pools

    def _new(self, name: str, count: int = TOUCHED) -> Touches:
        return self._clock.touches(self._fleets[name].devices, count)

    async def _check(self, name: str, touches: Touches) -> None:
        await check(self._fleets[name].dsn, touches)

    async def ours(self) -> Round:
        """Flush as the library does."""
        touches = self._new("ours")
        measured = await timed(TOUCHED, our_flusher(self._pools["ours"], touches).flush)
        await self._check("ours", touches)
        return measured

    async def staged(self) -> Round:
        """Run the same UPDATE, in the same chunks, from a table inside the server."""
        touches = self._new("staged")
        ordered = sorted(touches)  # so that its chunks are of neighbours too
        chunks = [ordered[at : at + CHUNK_KEYS] for at in range(0, TOUCHED, CHUNK_KEYS)]
        fast = statements(DEVICES).fast
        given = "unnest((SELECT $1::text)::uuid[], (SELECT $2::text)::bigint[]) AS given(key, at)"
        if given not in fast:
            raise BenchmarkFailedError("the statement has changed: adapt the staged contender")
        statement = fast.replace(
            given, "(SELECT key, at FROM staged WHERE chunk = $1) AS given(key, at)"
        )
        transaction = begin(**_TIMEOUTS)
        async with self._pools["staged"].acquire() as connection:
            await connection.execute("TRUNCATE staged")
            await connection.copy_records_to_table(
                "staged",
                records=[
                    (number, key, at) for number, chunk in enumerate(chunks) for key, at in chunk
                ],
            )
            await connection.execute("VACUUM ANALYZE staged")

            async def run() -> None:
                for number in range(len(chunks)):
                    await connection.execute(transaction)
                    await connection.fetch(statement, number)
                    await connection.execute("COMMIT")

            measured = await timed(TOUCHED, run)
        await self._check("staged", touches)
        return measured

    async def executemany(self) -> Round:
        """Send an UPDATE for each row, all in one transaction."""
        touches = self._new("executemany", _ONE_BY_ONE)
        rows = [(key, float(at)) for key, at in touches]

        async def run() -> None:
            await self._pools["executemany"].executemany(
                "UPDATE devices SET last_seen_at = to_timestamp($2) WHERE device_id = $1", rows
            )

        measured = await timed(_ONE_BY_ONE, run)
        await self._check("executemany", touches)
        return measured

    async def unsorted(self) -> Round:
        """Run one plain bulk UPDATE for each chunk, with whatever plan Postgres picks."""
        touches = self._new("unsorted")

        async def run() -> None:
            for start in range(0, TOUCHED, CHUNK_KEYS):
                chunk = touches[start : start + CHUNK_KEYS]
                await self._pools["unsorted"].execute(
                    "UPDATE devices SET last_seen_at = to_timestamp(u.at) "
                    "FROM unnest($1::uuid[], $2::bigint[]) AS u(key, at) WHERE device_id = u.key",
                    [key for key, _ in chunk],
                    [at for _, at in chunk],
                )

        measured = await timed(TOUCHED, run)
        await self._check("unsorted", touches)
        return measured

    async def stall(self) -> Stall:
        """Flush, and return the longest time that the loop was kept from its next turn."""
        touches = self._new("ours")
        flusher = our_flusher(self._pools["ours"], touches)
        async with longest_stall() as stall:
            await flusher.flush()
        await self._check("ours", touches)
        return stall


async def check(dsn: str, touches: Touches) -> None:
    """See that the table holds what was touched.

    Raises:
        BenchmarkFailedError: it does not.
    """
    async with connected(dsn) as connection:
        stored = await connection.fetchval(
            "SELECT count(*) FROM unnest($1::text::uuid[], $2::bigint[]) AS u(key, at) "
            "JOIN devices ON device_id = u.key AND last_seen_at = to_timestamp(u.at)",
            f"{{{','.join(key for key, _ in touches)}}}",
            [at for _, at in touches],
        )
    if stored != len(touches):
        raise BenchmarkFailedError(f"{stored:,} of {len(touches):,} touches are in the table")


@asynccontextmanager
async def contest(testbed: Testbed, clock: Clock) -> AsyncIterator[Contest]:
    """Make a table for each contender."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(testbed.fleet(ROWS))
        fleets = {"ours": first}
        for name in ("staged", "executemany", "unsorted"):
            fleets[name] = await stack.enter_async_context(testbed.copy(first))
        pools = {
            name: await stack.enter_async_context(open_pool(fleet.dsn, connections=1))
            for name, fleet in fleets.items()
        }
        await pools["staged"].execute(
            "CREATE UNLOGGED TABLE staged (chunk bigint, key uuid, at bigint);"
            "CREATE INDEX ON staged (chunk, key)"
        )
        yield Contest(clock, fleets, pools)


async def flush(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where tables are made.
        report: where findings go.
        advance: called as it gets on.

    Raises:
        BenchmarkFailedError: a table does not hold what was touched.
    """
    clock = Clock()
    async with contest(testbed, clock) as four:
        await four.ours()  # from now on pages have room and are in memory
        await four.staged()
        await four.unsorted()
        measured = await alternate(
            _ROUNDS,
            {
                "ours": four.ours,
                "staged": four.staged,
                "executemany": four.executemany,
                "unsorted": four.unsorted,
            },
            advance,
        )
        rates = {
            name: Measured(name, [one.rows_per_s for one in rounds], "rows/s")
            for name, rounds in measured.items()
        }
        report.compare(
            *("flush", "rows/s, ours / staged in the server", rates["ours"], rates["staged"]),
            goal=0.85,
        )
        report.compare(
            *("flush", "rows/s, ours / executemany", rates["ours"], rates["executemany"]), goal=5
        )
        report.compare("flush", "rows/s, ours / unsorted", rates["ours"], rates["unsorted"])
        cpu = [one.cpu_us_per_row for one in measured["ours"]]
        report.state("flush", "client CPU per row", cpu, "us", goal=0.6)
        stalls = [await four.stall() for _ in range(_ROUNDS)]
        advance()
        report.state(
            *("flush", "longest stall of the event loop, 100,000 keys"),
            *([stall.wall_ms for stall in stalls], "ms"),
            goal=5,
        )
        report.state("flush", "of which CPU", [stall.cpu_ms for stall in stalls], "ms")
        report.series("flush", "ours", rates["ours"].values)
        report.series("flush", "unsorted", rates["unsorted"].values)
        report.series("flush", "executemany", rates["executemany"].values)
    await _steady(testbed, clock, report)
    advance()
    await _writers(testbed, clock, report, advance)


async def _steady(testbed: Testbed, clock: Clock, report: Report) -> None:
    """One device in ten is touched in each flush, over and over: what does the table make of it."""
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


async def _writers(
    testbed: Testbed, clock: Clock, report: Report, advance: Callable[[], None]
) -> None:
    """Four processes' worth of flushes at once: of the same rows, and of rows of their own."""
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
