"""Measures what a request costs, as CPU time of the service's process divided by its requests.

Rates stand beside it. On cores that are shared they vary by a third; CPU time varies less.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks.harness.contender import (
    CONNECTIONS,
    SECONDS,
    Contender,
    check_load,
    contenders,
    rates,
    send_heartbeats,
)
from benchmarks.harness.load import Load, Request, load
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed
from benchmarks.suites.ingest import uploads

ROUNDS: Final = 5
PROCESSES: Final = 3
"""Two processes of one program differ by up to a tenth for their whole life (memory layout)."""
_DEVICES: Final = 1000
_MANY_DEVICES: Final = 200_000
_UPLOAD_CONNECTIONS: Final = 64
_HEARTBEATS: Final = ("bare", "none", "ours", "unjournaled")
_UPLOADS: Final = ("no-database", "ours")
STEPS: Final = ROUNDS * (PROCESSES * (len(_HEARTBEATS) + len(_UPLOADS)) + 2)


@dataclass(frozen=True, slots=True)
class _Cost:
    """One run: the load, and the CPU time of the service for one request, in microseconds."""

    load: Load
    cpu_us: float


async def cost(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a request failed, or known devices were looked up.
    """
    await _heartbeats(testbed, report, advance)
    await _uploads(testbed, report, advance)
    await _many_devices(testbed, report, advance)


async def _costs(one: Contender, run: Callable[[], Awaitable[Load]]) -> _Cost:
    before = one.cpu_s()
    seen = await run()
    return _Cost(seen, (one.cpu_s() - before) / seen.requests * 1e6)


async def _alternated(
    measure: Mapping[str, Callable[[], Awaitable[_Cost]]], advance: Callable[[], None]
) -> dict[str, list[_Cost]]:
    for warm_up in measure.values():
        await warm_up()
    return await alternate(ROUNDS, measure, advance)


async def _heartbeats(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Compare with a bare application, with tracking off, and without a journal."""
    seen: dict[str, list[_Cost]] = {name: [] for name in _HEARTBEATS}
    for _ in range(PROCESSES):
        async with contenders(testbed, _HEARTBEATS, _DEVICES) as running:
            measure = {
                name: partial(
                    _costs, one, partial(send_heartbeats, one, one.heartbeats(), report=report)
                )
                for name, one in running.items()
            }
            for name, costs in (await _alternated(measure, advance)).items():
                seen[name] += costs
    what, ours = "CPU of a heartbeat,", seen["ours"]
    for against, pair, goal in (
        ("ours / a bare application", {"ours": ours, "bare": seen["bare"]}, 1.25),
        ("ours / none", {"ours": ours, "none": seen["none"]}, 1.04),
        ("with the journal / without", {"with": ours, "without": seen["unjournaled"]}, 1.02),
    ):
        _compare(report, f"{what} {against}", pair, goal)
    rate = {name: rates(name, [one.load for one in costs]) for name, costs in seen.items()}
    report.compare("http", "heartbeats/s, ours / a bare application", rate["ours"], rate["bare"])
    report.compare("http", "heartbeats/s, ours / none", rate["ours"], rate["none"], goal=0.97)
    report.compare(
        *("http", "heartbeats/s, with the journal / without", rate["ours"], rate["unjournaled"]),
        goal=0.98,
    )
    p99s = {name: [one.load.p99_ms for one in costs] for name, costs in seen.items()}
    report.compare(
        *("http", "p99, ours / none"),
        Measured("ours", p99s["ours"], "ms"),
        Measured("none", p99s["none"], "ms"),
        better="lower",
    )
    none = [one.load for one in seen["none"]]
    report.series("throughput", "none", [one.requests_per_s for one in none])
    report.series("latency", "none p50", [one.p50_ms for one in none])
    report.series("latency", "none p99", [one.p99_ms for one in none])


async def _uploads(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Compare an upload with one that the same handler does not store."""
    seen: dict[str, list[_Cost]] = {name: [] for name in _UPLOADS}
    for _ in range(PROCESSES):
        async with contenders(testbed, _UPLOADS, _DEVICES) as running:
            measure = {
                name: partial(_costs, one, _sender(one, uploads(one), report, _UPLOAD_CONNECTIONS))
                for name, one in running.items()
            }
            for name, costs in (await _alternated(measure, advance)).items():
                seen[name] += costs
    pair = {"ours": seen["ours"], "not stored": seen["no-database"]}
    _compare(report, "CPU of an upload, ours / not stored", pair, goal=1.2)


async def _many_devices(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Compare heartbeats of many devices with those of few, to the same process."""
    async with contenders(testbed, ("ours",), _MANY_DEVICES) as running:
        one = running["ours"]
        many = one.heartbeats()
        measure = {
            name: partial(_costs, one, _sender(one, requests, report))
            for name, requests in (("1,000", many[:_DEVICES]), ("200,000", many))
        }
        before = await one.metrics()
        seen = await _alternated(measure, advance)
        after = await one.metrics()
    looked_up = after.total("auth_cache_misses_total", cache="devices") - before.total(
        "auth_cache_misses_total", cache="devices"
    )
    if looked_up:
        raise BenchmarkFailedError(f"{looked_up:,.0f} known devices were looked up")
    costs = {name: seen[name] for name in ("200,000", "1,000")}
    _compare(report, "CPU of a heartbeat, 200,000 devices in turn / 1,000", costs, goal=1.1)


def _sender(
    one: Contender, requests: Sequence[Request], report: Report, connections: int = CONNECTIONS
) -> Callable[[], Awaitable[Load]]:
    """Return a function that sends requests for some time, each run from where the last ended."""
    first = 0

    async def send() -> Load:
        nonlocal first
        seen = await load(one.url, requests, connections=connections, seconds=SECONDS, first=first)
        first = seen.next_number
        return check_load(one, seen, report)

    return send


def _compare(report: Report, what: str, costs: Mapping[str, Sequence[_Cost]], goal: float) -> None:
    """Report the ratio of two contenders' costs: of the first to the second."""
    ours, theirs = (
        Measured(name, [one.cpu_us for one in seen], "us") for name, seen in costs.items()
    )
    report.compare("http", what, ours, theirs, goal=goal, better="lower")
