"""Shared parts of suites that measure flushes: touches, a flusher, a stopwatch and a check."""

import gc
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from api.config import TrackerSettings
from api.targets import targets
from benchmarks.harness.report import BenchmarkFailedError
from benchmarks.harness.testbed import connected
from tracker import Target
from tracker._buffer.buffer import Buffer
from tracker._flush.flusher import Flusher
from tracker.postgres import Pool
from tracker.postgres._store import PostgresStore

TIMEOUTS: Final = {"statement_timeout_s": 60.0, "lock_timeout_s": 0.25}
DEVICES: Final[Target] = next(
    target for target in targets(TrackerSettings()) if target.table == "devices"
)
CHUNK_KEYS: Final = TrackerSettings().chunk_keys
_LONG_AGO: Final = 1_600_000_000
_MICRO: Final = 1e6

Touches = Sequence[tuple[str, int]]


@dataclass(slots=True)
class Round:
    """The measurements of a flush."""

    rows_per_s: float
    cpu_us_per_row: float = 0.0


class Clock:
    """Gives the touches of each round a second of its own, in the past."""

    def __init__(self) -> None:
        self.at = _LONG_AGO

    def touches(self, devices: Sequence[str], count: int) -> Touches:
        """Return touches of some devices, in random order, within five seconds."""
        self.at += 10
        return touches_at(devices, count, self.at, within_s=5)


def touches_at(devices: Sequence[str], count: int, at: int, *, within_s: int = 1) -> Touches:
    """Return touches of some devices, in random order.

    Args:
        devices: their ids.
        count: how many of them are touched.
        at: the second of the first touch.
        within_s: over how many seconds the touches are spread.
    """
    chosen = random.sample(devices, count)
    # Each touch has a string object of its own, as in requests.
    touches = [(f"{one[:8]}{one[8:]}", at + random.randrange(within_s)) for one in chosen]
    gc.collect()
    gc.freeze()  # the garbage collector must not scan these touches during a flush
    return touches


def our_flusher(pool: Pool, touches: Touches) -> Flusher:
    """Return a flusher with these touches pending."""
    buffer = Buffer(DEVICES)
    for key, at in touches:
        buffer.touch(key, at=at)
    return Flusher(buffer, PostgresStore(pool, DEVICES, **TIMEOUTS), chunk_keys=CHUNK_KEYS)


async def timed(rows: int, work: Callable[[], Awaitable[object]]) -> Round:
    """Measure a flush of some rows."""
    cpu = time.process_time()
    started = time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    return Round(rows / seconds, (time.process_time() - cpu) / rows * _MICRO)


async def check(dsn: str, touches: Touches) -> None:
    """Check that the table holds what was touched.

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
