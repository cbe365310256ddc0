"""Measures the cost of a row in flushes of a thousand to a million keys of one table."""

import gc
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.harness.flushing import Clock, check, our_flusher
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed
from tracker.postgres import open_pool

ROWS: Final = 1_000_000
_SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
_LEAST_KEYS: Final = 20_000
"""A small flush is too short to time, so it is repeated up to this number of keys."""
_ROUNDS: Final = 5
STEPS: Final = _ROUNDS * len(_SIZES)
_MICRO: Final = 1e6


async def scale(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where the table is created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: the table does not hold what was touched.
    """
    clock = Clock()
    async with testbed.fleet(ROWS) as fleet, open_pool(fleet.dsn, connections=1) as pool:

        async def measure(keys: int) -> float:
            """Flush a number of keys, and return the microseconds per key."""
            seconds, times = 0.0, max(1, _LEAST_KEYS // keys)
            for _ in range(times):
                touches = clock.touches(fleet.devices, keys)
                flusher = our_flusher(pool, touches)
                started = time.perf_counter()
                await flusher.flush()
                seconds += time.perf_counter() - started
                if flusher.counts.written != keys:
                    raise BenchmarkFailedError(
                        f"{flusher.counts.written:,} of {keys:,} were written"
                    )
                if random.random() < 0.2 or keys == ROWS:
                    sample = touches[:: max(1, keys // 10_000)]
                    await check(fleet.dsn, sample)
            del touches, flusher
            gc.unfreeze()
            return seconds / (times * keys) * _MICRO

        await measure(100_000)
        measured = await alternate(
            _ROUNDS, {f"{keys:,}": partial(measure, keys) for keys in _SIZES}, advance
        )
    least = f"{_SIZES[0]:,}"
    for keys in _SIZES[1:]:
        report.compare(
            *("scale", f"cost of a row, {keys:,} keys / {least}"),
            *(Measured(name, measured[name], "us") for name in (f"{keys:,}", least)),
            goal=1.5,
            better="lower",
        )
    report.series("scale", "keys", _SIZES)
    for number in range(_ROUNDS):
        report.series(
            "scale", f"round {number + 1}", [values[number] for values in measured.values()]
        )
