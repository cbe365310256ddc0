"""Measures what tracking costs heartbeats, compared with no tracking and with other designs.

Every contender is a service process of its own on a database of its own, with the same fleet. All
run at the same time, and each in turn is put under load.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.harness.contender import (
    check_all_seen,
    contenders,
    p99s,
    rates,
    send_heartbeats,
    wait_until_written,
)
from benchmarks.harness.load import Load
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import Measured, Report
from benchmarks.harness.testbed import Testbed
from benchmarks.suites import http_cost, http_steady, http_while_flushing
from benchmarks.suites.http_cost import cost
from benchmarks.suites.http_steady import steady
from benchmarks.suites.http_while_flushing import while_flushing

DEVICES: Final = 10_000
ROUNDS: Final = 5
_LONGER_S: Final = 2.0
"""Duration for contenders with a backlog, which takes a while to build up."""
STEPS: Final = http_cost.STEPS + 4 * ROUNDS + http_while_flushing.STEPS + http_steady.STEPS


async def http(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a request failed, or a table does not hold what the load implies.
    """
    await cost(testbed, report, advance)
    await _throughput(testbed, report, advance)
    await while_flushing(testbed, report, advance)
    await steady(testbed, report, advance)


async def _throughput(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    names = ("ours", "awaited", "spawned", "throttled")
    async with contenders(testbed, names, DEVICES) as running:
        requests = {name: one.heartbeats() for name, one in running.items()}
        sent, first = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        lasted: dict[str, list[float]] = {name: [] for name in names}

        async def measure(name: str) -> Load:
            started = time.monotonic()
            one = running[name]
            seen = await send_heartbeats(
                one, requests[name], report=report, seconds=_LONGER_S, first=first[name]
            )
            first[name] = seen.next_number
            sent[name] += seen.requests
            await wait_until_written(one, sent[name])
            lasted[name].append(seen.requests / (time.monotonic() - started))
            return seen

        for name in names:  # caches are filled, and connections open
            await measure(name)
        designs = await alternate(
            ROUNDS,
            {name: partial(measure, name) for name in names},
            advance,
        )
        for name in ("ours", "awaited", "spawned"):
            await check_all_seen(running[name])
    rate = {name: rates(name, loads) for name, loads in designs.items()}
    slow = {name: p99s(name, loads) for name, loads in designs.items()}
    report.compare("http", "heartbeats/s, ours / spawned", rate["ours"], rate["spawned"], goal=3)
    rounds = len(rate["ours"].values)
    report.compare(
        *("http", "heartbeats/s until all is written, ours / spawned"),
        rate["ours"],
        Measured("spawned", lasted["spawned"][-rounds:], "/s"),
    )
    report.compare("http", "heartbeats/s, ours / awaited", rate["ours"], rate["awaited"])
    report.compare("http", "heartbeats/s, ours / throttled", rate["ours"], rate["throttled"])
    report.compare("http", "p99, spawned / ours", slow["spawned"], slow["ours"], goal=50)
    report.compare("http", "p99, awaited / ours", slow["awaited"], slow["ours"])
    for name, loads in designs.items():
        report.series("throughput", name, [one.requests_per_s for one in loads])
        report.series("latency", f"{name} p50", [one.p50_ms for one in loads])
        report.series("latency", f"{name} p99", [one.p99_ms for one in loads])
