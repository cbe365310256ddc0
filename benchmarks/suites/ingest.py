"""Measures uploads: batch commits, compared with an INSERT for each and with no database."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import aiohttp

from benchmarks.harness.contender import Contender, check_load, contenders
from benchmarks.harness.load import Load, Request, load
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed, connected

_DEVICES: Final = 1000
_SECONDS: Final = 1.0
_ROUNDS: Final = 7
_IDLE_ROUNDS: Final = 15
_IDLE_UPLOADS: Final = 100
_NAMES: Final = ("no-database", "ours", "insert")
STEPS: Final = 2 * len(_NAMES) * _ROUNDS + 2 * _IDLE_ROUNDS
_HEADERS: Final = {"Content-Type": "application/json"}
_BODY: Final = (
    b'{"device_id":"%s","timestamp":1%%N%%%s,"latitude":48.85,"longitude":2.35,"accuracy":12.5,'
    b'"provider":"gps"}'
)
"""%N% is replaced by nine digits, different in each upload, so that each makes a row."""


def uploads(one: Contender) -> list[Request]:
    """Return an upload of each device."""
    return [
        Request(
            "POST",
            "/api/v1/locations",
            {**_HEADERS, "X-API-Key": one.fleet.key_of(number)},
            _BODY % (device.encode(), b"000"),
        )
        for number, device in enumerate(one.fleet.devices)
    ]


async def stored(one: Contender) -> int:
    """Return how many reports are in the table."""
    async with connected(one.fleet.dsn) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM locations")
        return count


async def ingest(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: an upload failed, or an acknowledged one is not in the table.
    """
    async with contenders(testbed, _NAMES, _DEVICES) as running:
        for connections in (64, 256):
            await _busy(running, connections, report, advance)
        await _idle(running, report, advance)
        for one in running.values():
            await _forget(one)


async def _busy(
    running: dict[str, Contender], connections: int, report: Report, advance: Callable[[], None]
) -> None:
    requests = {name: uploads(one) for name, one in running.items()}
    first = dict.fromkeys(running, 0)

    async def measure(name: str) -> Load:
        one = running[name]
        await _forget(one)
        seen = await load(
            one.url,
            requests[name],
            connections=connections,
            seconds=_SECONDS,
            first=first[name],
        )
        first[name] = seen.next_number
        check_load(one, seen, report)
        if name != "no-database" and not (
            seen.requests <= await stored(one) <= seen.requests + connections
        ):
            raise BenchmarkFailedError(f"{name}: {seen.requests} uploads, {await stored(one)} rows")
        return seen

    for name in running:
        await measure(name)
    loads = await alternate(_ROUNDS, {name: partial(measure, name) for name in running}, advance)
    rate = {
        name: Measured(name, [one.requests_per_s for one in seen], "/s")
        for name, seen in loads.items()
    }
    slow = {
        name: Measured(name, [one.p99_ms for one in seen], "ms") for name, seen in loads.items()
    }
    at = f"{connections} connections"
    report.compare(
        *("ingest", f"uploads/s, ours / no database, {at}", rate["ours"], rate["no-database"]),
        goal=0.85,
    )
    report.compare(
        *("ingest", f"uploads/s, ours / INSERT each, {at}", rate["ours"], rate["insert"]),
        goal=2.3,
    )
    report.compare(
        *("ingest", f"p99, ours / INSERT each, {at}", slow["ours"], slow["insert"]),
        goal=1.0,
        better="lower",
    )
    for name, seen in loads.items():
        report.series("ingest", f"{name}, {connections}", [one.requests_per_s for one in seen])


async def _idle(running: dict[str, Contender], report: Report, advance: Callable[[], None]) -> None:
    """Measure one client that waits for each response before it sends the next upload."""
    number = 0

    async def measure(name: str) -> float:
        nonlocal number
        one = running[name]
        headers = {**_HEADERS, "X-API-Key": one.fleet.key_of(0)}
        async with aiohttp.ClientSession(one.url, headers=headers) as session:
            latencies = []
            for _ in range(_IDLE_UPLOADS):
                number += 1
                body = _BODY % (one.fleet.devices[0].encode(), b"000")
                body = body.replace(b"%N%", b"%09d" % number)
                started = time.perf_counter()
                async with session.post("/api/v1/locations", data=body) as response:
                    await response.read()
                latencies.append(time.perf_counter() - started)
                if response.status != 200:
                    raise BenchmarkFailedError(
                        f"{name}: an upload had the response {response.status}"
                    )
            return sorted(latencies)[len(latencies) // 2] * 1000

    measured = await alternate(
        _IDLE_ROUNDS, {name: partial(measure, name) for name in ("ours", "insert")}, advance
    )
    report.compare(
        *("ingest", "median latency of one client, ours / INSERT each"),
        *(Measured(name, measured[name], "ms") for name in ("ours", "insert")),
        goal=1.1,
        better="lower",
    )


async def _forget(one: Contender) -> None:
    """Empty the table, so that no contender inserts into a larger index than another."""
    async with connected(one.fleet.dsn) as connection:
        await connection.execute("TRUNCATE locations")
