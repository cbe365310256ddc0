"""Measures heartbeats while 100,000 keys are flushed: the cost of a large flush for requests."""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

import psutil

from benchmarks.harness.contender import contenders, p99s, rates, send_heartbeats
from benchmarks.harness.contenders import SPREAD_S, STORM_S
from benchmarks.harness.flushing import Clock, our_flusher
from benchmarks.harness.load import Load
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Report
from benchmarks.harness.testbed import Testbed
from tracker.postgres import open_pool

ROUNDS: Final = 5
STEPS: Final = 3 * ROUNDS
_DEVICES: Final = 10_000
_MANY_DEVICES: Final = 100_000
_STORM_LOAD_S: Final = 2.0
_BEGUN_S: Final = 0.2


async def while_flushing(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Measure requests while 100,000 keys are flushed, at the service's own rate.

    The third contender tracks nothing, while another process writes the same rows at the same rate:
    it shows the cost of the database's own work.
    """
    never = {"ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "3600"}
    clock = Clock()
    async with contenders(testbed, ("none", "ours", "beside"), _MANY_DEVICES, **never) as running:
        few = {name: one.heartbeats()[:_DEVICES] for name, one in running.items()}
        beside = running["beside"].fleet
        written = 0.0

        async def none() -> Load:
            return await send_heartbeats(running["none"], few["none"], report=report)

        async def ours() -> Load:
            nonlocal written
            one = running["ours"]
            psutil.Process(one.pid).send_signal(signal.SIGUSR1)
            await asyncio.sleep(_BEGUN_S)
            seen = await send_heartbeats(one, few["ours"], report=report, seconds=_STORM_LOAD_S)
            metrics = await one.metrics()
            now = metrics.total("activity_flush_keys_total", target="devices", outcome="written")
            if now - written < _MANY_DEVICES / 2:  # the flush continues after the load
                raise BenchmarkFailedError(f"only {now - written:,.0f} keys were being flushed")
            written = now
            await asyncio.sleep(STORM_S - _STORM_LOAD_S)  # until the last flush is over
            return seen

        async def written_beside() -> Load:
            async with open_pool(beside.dsn, connections=1) as pool:
                flusher = our_flusher(pool, clock.touches(beside.devices, _MANY_DEVICES))
                flushing = asyncio.create_task(flusher.flush(within_s=SPREAD_S))
                await asyncio.sleep(_BEGUN_S)
                one = running["beside"]
                seen = await send_heartbeats(
                    one, few["beside"], report=report, seconds=_STORM_LOAD_S
                )
                await flushing
                return seen

        measure = {"none": none, "ours": ours, "beside": written_beside}
        for warm_up in measure.values():
            await warm_up()
        loads = await alternate(ROUNDS, measure, advance)
    slow = {name: p99s(name, seen) for name, seen in loads.items()}
    rate = {name: rates(name, seen) for name, seen in loads.items()}
    what = "while 100,000 keys are flushed, ours /"
    report.compare(
        *("http", f"p99 {what} none", slow["ours"], slow["none"]), goal=1.15, better="lower"
    )
    report.compare(
        *("http", f"p99 {what} none, rows written by another process"),
        *(slow["ours"], slow["beside"]),
        better="lower",
    )
    report.compare("http", f"heartbeats/s {what} none", rate["ours"], rate["none"])
    report.compare(
        *("http", f"heartbeats/s {what} none, rows written by another process"),
        *(rate["ours"], rate["beside"]),
    )
