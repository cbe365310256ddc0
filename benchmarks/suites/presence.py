"""Measures what presence costs heartbeats and flushes, and how soon its events are known.

The last part lets a large group vanish and return.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from benchmarks.harness.contender import Contender, contender, send_heartbeats
from benchmarks.harness.cpu import cpu_s
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import Measured, Report
from benchmarks.harness.testbed import Testbed
from benchmarks.suites import presence_events, presence_flood, presence_flush, presence_watch

_PROCESSES: Final = 2
"""Two processes of one program differ by up to a tenth for their whole life (memory layout)."""
_ROUNDS: Final = 5
_DEVICES: Final = 1000
STEPS: Final = 2 * _PROCESSES * _ROUNDS + sum(
    part.STEPS for part in (presence_flush, presence_watch, presence_events, presence_flood)
)


async def presence(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a request failed, or an event is missing.
    """
    await _heartbeats(testbed, report, advance)
    await presence_flush.flush(testbed, report, advance)
    await presence_watch.watch(testbed, report, advance)
    await presence_events.events(testbed, report, advance)
    await presence_flood.vanishing(testbed, report, advance)


async def _heartbeats(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Compare the CPU time of heartbeats with presence on and off."""
    costs: dict[str, list[float]] = {"on": [], "off": []}
    for _ in range(_PROCESSES):
        async with AsyncExitStack() as stack:
            original = await stack.enter_async_context(testbed.fleet(_DEVICES))
            measure = {}
            for name, enabled in (("on", "true"), ("off", "false")):
                fleet = await stack.enter_async_context(testbed.copy(original))
                one = await stack.enter_async_context(
                    contender("ours", fleet, ACTIVITY__PRESENCE__ENABLED=enabled)
                )
                measure[name] = partial(_cost_us, one, report)
            for warm_up in measure.values():
                await warm_up()
            for name, seen in (await alternate(_ROUNDS, measure, advance)).items():
                costs[name] += seen
    report.compare(
        *("presence", "CPU of a heartbeat, on / off"),
        *(Measured(name, costs[name], "us") for name in ("on", "off")),
        goal=1.02,
        better="lower",
    )


async def _cost_us(one: Contender, report: Report) -> float:
    """Return the CPU time of the service for a heartbeat, in microseconds."""
    before = cpu_s(one.pid)
    seen = await send_heartbeats(one, one.heartbeats(), report=report)
    return (cpu_s(one.pid) - before) / seen.requests * 1e6
