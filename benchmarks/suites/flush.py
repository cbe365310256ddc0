"""Measures flushes alone: rows per second, stalls of the event loop, and the cost for the table.

All contenders write the same touches, of 100,000 devices in random order, into tables of the same
shape on the same server, each round a second later than the one before.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from benchmarks.harness.flushing import (
    CHUNK_KEYS,
    DEVICES,
    TIMEOUTS,
    Clock,
    Round,
    Touches,
    check,
    our_flusher,
    timed,
)
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.stall import Stall, longest_stall
from benchmarks.harness.testbed import Fleet, Testbed
from benchmarks.suites import flush_table
from tracker.postgres import Pool, open_pool
from tracker.postgres._statements import begin, statements

ROWS: Final = 200_000
TOUCHED: Final = 100_000
_ONE_BY_ONE: Final = 10_000
"""Number of rows for slow contenders; figures are per row."""
_ROUNDS: Final = 5
STEPS: Final = 4 * _ROUNDS + 1 + flush_table.STEPS


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
        ordered = sorted(touches)  # its chunks are of neighbouring keys, too
        chunks = [ordered[at : at + CHUNK_KEYS] for at in range(0, TOUCHED, CHUNK_KEYS)]
        fast = statements(DEVICES).fast
        given = "unnest((SELECT $1::text)::uuid[], (SELECT $2::text)::bigint[]) AS given(key, at)"
        if given not in fast:
            raise BenchmarkFailedError("the statement has changed: adapt the staged contender")
        statement = fast.replace(
            given, "(SELECT key, at FROM staged WHERE chunk = $1) AS given(key, at)"
        )
        transaction = begin(**TIMEOUTS)
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
        """Run one plain bulk UPDATE for each chunk, with the plan that Postgres chooses."""
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
        """Flush, and return the longest stall of the event loop."""
        touches = self._new("ours")
        flusher = our_flusher(self._pools["ours"], touches)
        async with longest_stall() as stall:
            await flusher.flush()
        await self._check("ours", touches)
        return stall


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
        testbed: where tables are created.
        report: receives the findings.
        advance: called after each step.

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
        report.state("flush", "CPU time of that stall", [stall.cpu_ms for stall in stalls], "ms")
        report.series("flush", "ours", rates["ours"].values)
        report.series("flush", "unsorted", rates["unsorted"].values)
        report.series("flush", "executemany", rates["executemany"].values)
    await flush_table.steady(testbed, clock, report)
    advance()
    await flush_table.writers(testbed, clock, report, advance)
