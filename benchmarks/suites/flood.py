"""Measures a flood of wrong API keys: latency of valid clients, memory and database load.

Valid clients send heartbeats at a steady rate, in turns: without a flood, with a flood of different
keys in the right format, and with a flood of keys in a wrong format. The flood sends each request
as soon as it has the response before. The CPU time of its generator affects the figures, too.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.harness.contender import Contender, check_load, contender
from benchmarks.harness.load import Load, Request, load, paced
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed, connected

_DEVICES: Final = 1000
_RATE_PER_S: Final = 1000
_CONNECTIONS: Final = 32
_FLOOD_CONNECTIONS: Final = 256
_SECONDS: Final = 2.0
_BEGUN_S: Final = 0.5
_ROUNDS: Final = 5
_WRONG: Final = {"unique": f"ak_{'A' * 34}%N%", "malformed": "%N%"}
"""%N% is replaced by a number of nine digits, different in each request."""
STEPS: Final = _ROUNDS * (1 + len(_WRONG))
_MEBIBYTE: Final = 1 << 20


async def flood(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a valid client was denied, or a wrong key was not.
    """
    async with testbed.fleet(_DEVICES) as fleet, contender("ours", fleet) as one:
        beats = one.heartbeats()
        next_number = 0
        refused: dict[str, list[float]] = {name: [] for name in _WRONG}
        commits: dict[str, list[float]] = {name: [] for name in ("quiet", *_WRONG)}

        async def quiet() -> Load:
            return check_load(one, await _send_paced(one, beats, commits["quiet"]), report)

        async def beside(name: str) -> Load:
            nonlocal next_number
            wrong = Request(beats[0].method, beats[0].path, {"X-API-Key": _WRONG[name]})
            flooding = asyncio.create_task(
                load(
                    one.url,
                    [wrong],
                    connections=_FLOOD_CONNECTIONS,
                    seconds=_SECONDS + 2 * _BEGUN_S,
                    first=next_number,
                )
            )
            await asyncio.sleep(_BEGUN_S)
            seen = check_load(one, await _send_paced(one, beats, commits[name]), report)
            flooded = await flooding
            if flooded.errors < flooded.requests:
                raise BenchmarkFailedError(f"{name}: a wrong key was accepted")
            next_number = flooded.next_number
            refused[name].append(flooded.requests_per_s)
            return seen

        measure = {"quiet": quiet} | {name: partial(beside, name) for name in _WRONG}
        for warm_up in measure.values():
            await warm_up()
        before = one.resident_bytes()
        loads = await alternate(_ROUNDS, measure, advance)
        grown = (one.resident_bytes() - before) / _MEBIBYTE
    without = [seen.p99_ms for seen in loads["quiet"]]
    for name in _WRONG:
        report.compare(
            *("flood", f"p99 of valid clients, flood of {name} keys / none"),
            Measured(name, [seen.p99_ms for seen in loads[name]], "ms"),
            Measured("none", without, "ms"),
            goal=1.5,
            better="lower",
        )
        report.state("flood", f"401 responses/s, {name} keys", refused[name], "/s")
    for name, rates in commits.items():
        report.state("flood", f"transactions/s of the database, {name}", rates, "/s")
    report.state("flood", "memory growth", [grown], "MB", goal=5)


async def _send_paced(one: Contender, beats: list[Request], commits: list[float]) -> Load:
    """Send heartbeats at the rate, and record the database's transactions per second."""
    before, started = await _commits(one), time.monotonic()
    seen = await paced(
        one.url, beats, connections=_CONNECTIONS, seconds=_SECONDS, rate_per_s=_RATE_PER_S
    )
    commits.append((await _commits(one) - before) / (time.monotonic() - started))
    return seen


async def _commits(one: Contender) -> int:
    async with connected(one.fleet.dsn) as connection:
        count: int = await connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        return count
