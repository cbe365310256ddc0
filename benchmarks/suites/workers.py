"""Measures what workers cost and bring: CPU per request, rates, balance, scrapes and listings."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
import psutil

from benchmarks.harness.contender import LOGS, Contender, check_load
from benchmarks.harness.load import Load, load
from benchmarks.harness.metrics import Metrics
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import Measured, Report
from benchmarks.harness.service import running_service
from benchmarks.harness.testbed import Fleet, Testbed

_DEVICES: Final = 1000
_COUNTS: Final = (1, 2, 4)
_MOST: Final = 16
_ROUNDS: Final = 5
_SECONDS: Final = 1.0
_CONNECTIONS: Final = 64
_MANY_CONNECTIONS: Final = 256
_LISTED: Final = 200
STEPS: Final = _ROUNDS * (len(_COUNTS) + 2 * (len(_COUNTS) + 1))
_MICRO: Final = 1e6
_MILLI: Final = 1e3


@dataclass(frozen=True, slots=True)
class _Cost:
    """One round of load on a service.

    Args:
        load: what was sent.
        cpu_us: CPU time of all processes of the service for each request, in microseconds.
        imbalance: requests of the busiest worker over those of the idlest.
    """

    load: Load
    cpu_us: float
    imbalance: float


@asynccontextmanager
async def _service(fleet: Fleet, workers: int) -> AsyncIterator[Contender]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    LOGS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="activity-") as folder:
        environment = {
            "ACTIVITY__DATABASE__URL": fleet.dsn,
            "ACTIVITY__SERVER__PORT": str(port),
            "ACTIVITY__SERVER__WORKERS": str(workers),
            "ACTIVITY__SERVER__RUN_DIR": f"{folder}/run",
            "ACTIVITY__JOURNAL__DIR": f"{folder}/journal",
            "ACTIVITY__AUTH__KNOWN_FILE": f"{folder}/known",
            "ACTIVITY__LOG__LEVEL": "error",
        }
        url = f"http://127.0.0.1:{port}"
        log_file = Path(LOGS) / f"workers-{workers}.log"
        async with running_service(url, environment, log_file) as process:
            yield Contender(f"{workers}", url, fleet, process.pid)


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children, in seconds."""
    parent = psutil.Process(pid)
    times = [one.cpu_times() for one in (parent, *parent.children())]
    return sum(one.user + one.system for one in times)


def _imbalance(before: Metrics, after: Metrics, workers: int) -> float:
    name = "activity_worker_requests_total"
    served = [
        after.total(name, worker=str(n)) - before.total(name, worker=str(n))
        for n in range(1, workers + 1)
    ]
    return max(served) / max(1.0, min(served))


async def _measure(one: Contender, workers: int, connections: int, report: Report) -> _Cost:
    before, cpu_s = await one.metrics(), _cpu_s(one.pid)
    beats = one.heartbeats()
    seen = await load(one.url, beats, connections=connections, seconds=_SECONDS)
    cpu_s = _cpu_s(one.pid) - cpu_s
    check_load(one, seen, report)
    after = await one.metrics()
    imbalance = _imbalance(before, after, workers) if workers > 1 else 1.0
    return _Cost(seen, cpu_s / seen.requests * _MICRO, imbalance)


async def _time_ms(session: aiohttp.ClientSession, path: str) -> float:
    started = time.perf_counter()
    async with session.get(path) as response:
        response.raise_for_status()
        await response.read()
    return (time.perf_counter() - started) * _MILLI


async def workers(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a request failed.
    """
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(testbed.fleet(_DEVICES))
        services = {
            count: await stack.enter_async_context(_service(fleet, count)) for count in _COUNTS
        }
        measure = {
            str(count): partial(_measure, one, count, _CONNECTIONS, report)
            for count, one in services.items()
        }
        for warm_up in measure.values():
            await warm_up()
        costs = await alternate(_ROUNDS, measure, advance)
        for count in _COUNTS[1:]:
            report.compare(
                *("workers", f"CPU of a heartbeat, {count} workers / 1"),
                *(Measured(n, [one.cpu_us for one in costs[n]], "us") for n in (str(count), "1")),
                goal=1.05,
                better="lower",
            )
        report.compare(
            *("workers", "rate of heartbeats, 2 workers / 1"),
            *(Measured(n, [one.load.requests_per_s for one in costs[n]], "/s") for n in ("2", "1")),
        )
        for count in _COUNTS[1:]:
            many = [
                await _measure(services[count], count, _MANY_CONNECTIONS, report)
                for _ in range(_ROUNDS)
            ]
            report.state(
                *("workers", f"busiest worker / idlest, {count} workers, 256 connections"),
                [one.imbalance for one in many],
                "",
                goal=1.3,
            )
    async with testbed.fleet(_DEVICES) as fleet:
        for count in (*_COUNTS, _MOST):
            async with _service(fleet, count) as one:
                await _reads(one, count, report, advance)


async def _reads(one: Contender, workers: int, report: Report, advance: Callable[[], None]) -> None:
    """Time scrapes and listings of a service that is warm and has touches pending."""
    await load(one.url, one.heartbeats(), connections=_CONNECTIONS, seconds=_SECONDS)
    headers = {"X-API-Key": one.fleet.key_of(0)}
    async with aiohttp.ClientSession(one.url, headers=headers) as session:
        for name, path, goal in (
            ("scrape", "/metrics", 50.0 if workers == _MOST else None),
            ("listing", f"/api/v1/devices?group_id=fleet&limit={_LISTED}", None),
        ):
            await _time_ms(session, path)
            times = []
            for _ in range(_ROUNDS):
                times.append(await _time_ms(session, path))
                await asyncio.sleep(0)
                advance()
            report.state("workers", f"{name}, {workers} workers", times, "ms", goal=goal)
