"""Faults of the service's own process and its host."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Final

from benchmarks.faults.environment import Environment
from benchmarks.faults.fault import SOON_S, fault
from benchmarks.harness.skewed import AHEAD, BACK

_STALL_S: Final = 3.0
_SLOWLY_S: Final = 0.05
_HOUR_S: Final = 3600.0
_CLOCK_TOLERANCE_S: Final = 60.0


@fault()
async def clock_ahead(environment: Environment) -> AsyncIterator[None]:
    """The clock of the service's host is an hour ahead."""
    environment.service.signal(AHEAD)
    try:
        yield
        await _check_clock(environment, _HOUR_S)
    finally:
        environment.service.signal(BACK)
        # Pending touches are stored with the database server's time of the flush: never in the
        # future, but later than the requests.
        environment.load.heard_at.update(dict.fromkeys(environment.fleet.devices, float("inf")))


@fault()
async def clock_back(environment: Environment) -> AsyncIterator[None]:
    """The clock of the service's host is an hour back."""
    # Heartbeats acknowledged meanwhile are an hour older by the service's clock, so the table
    # does not change.
    environment.load.trusting = False
    environment.service.signal(BACK)
    try:
        yield
        await _check_clock(environment, -_HOUR_S)
    finally:
        environment.service.signal(AHEAD)
        async with environment.session.get("/api/health/live"):  # a response by the right clock
            environment.load.trusting = True


async def _check_clock(environment: Environment, off_by_s: float) -> None:
    """Check that the fault has happened at all: the service knows that its clock is wrong."""
    metrics = await environment.metrics()
    found_s = metrics.total("database_clock_offset_seconds")
    if abs(found_s - off_by_s) > _CLOCK_TOLERANCE_S:
        environment.problems.append(f"the clock was off by {found_s:.0f} s, not {off_by_s:.0f} s")


@fault(requests_suffer=True)
async def event_loop_blocked(environment: Environment) -> AsyncIterator[None]:
    """The service's processes are stopped for three seconds (SIGSTOP)."""
    environment.service.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(_STALL_S)
    finally:
        environment.service.signal(signal.SIGCONT)
    yield


@fault(requests_suffer=True)
async def sigterm(environment: Environment) -> AsyncIterator[None]:
    """The service receives SIGTERM under load, and is started again."""
    await _end(environment, signal.SIGTERM)
    environment.problems += await environment.unwritten(environment.load.owed())
    yield
    await _start(environment)


@fault(requests_suffer=True)
async def sigterm_twice(environment: Environment) -> AsyncIterator[None]:
    """The service receives SIGTERM twice under load, and is started again."""
    environment.proxy.delay_s = _SLOWLY_S  # so that it still runs at the second signal
    await _end(environment, signal.SIGTERM, signal.SIGTERM)
    environment.proxy.delay_s = 0.0
    environment.problems += await environment.unwritten(environment.load.owed())
    yield
    await _start(environment)


@fault(requests_suffer=True)
async def sigterm_without_database(environment: Environment) -> AsyncIterator[None]:
    """The server is stopped, then the service receives SIGTERM; both are started again."""
    await asyncio.to_thread(environment.server.stop)
    try:
        yield
        await _end(environment, signal.SIGTERM)
    finally:
        await asyncio.to_thread(environment.server.start)
    await _start(environment)


async def _start(environment: Environment) -> None:
    """Start the service, and fill its cache of devices, which saves later lookups."""
    await environment.service.start()
    for device in set(environment.fleet.devices) - environment.load.silent:
        await environment.load.heartbeat(device)


async def _end(environment: Environment, *signals: signal.Signals) -> None:
    process = environment.service.process
    for number in signals:
        process.send_signal(number)
        await asyncio.sleep(0.1)
    async with asyncio.timeout(SOON_S):
        code = await process.wait()
    if code:
        environment.problems.append(f"the service ended with {code}")
    await environment.service.stop()
