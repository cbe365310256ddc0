"""Runs each contender in a process of its own, and puts load on it, for all suites."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
import psutil

from benchmarks.harness.load import Load, Request, bottleneck, load
from benchmarks.harness.metrics import Metrics, scrape
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.service import running_service
from benchmarks.harness.testbed import Fleet, Testbed, connected, updates_seen

LOGS: Final = Path(".activity/benchmarks")
CONNECTIONS: Final = 32
SECONDS: Final = 1.0
_WRITTEN_WITHIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A running service.

    Args:
        name: see `contenders.py` beside this file.
        url: its address.
        fleet: its database.
        pid: the id of its process.
    """

    name: str
    url: str
    fleet: Fleet
    pid: int

    def heartbeats(self) -> list[Request]:
        """Return a heartbeat of each device, in random order."""
        requests = [
            Request(
                "POST",
                f"/api/v1/devices/{device}/heartbeat",
                {"X-API-Key": self.fleet.key_of(number)},
            )
            for number, device in enumerate(self.fleet.devices)
        ]
        random.shuffle(requests)
        return requests

    def resident_bytes(self) -> int:
        """Return the resident memory of the process, in bytes."""
        size: int = psutil.Process(self.pid).memory_info().rss
        return size

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used, in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    async def metrics(self) -> Metrics:
        """Scrape its metrics."""
        async with aiohttp.ClientSession() as session:
            return await scrape(session, self.url)


@asynccontextmanager
async def contender(name: str, fleet: Fleet, **settings: str) -> AsyncIterator[Contender]:
    """Run a contender while the block runs.

    Args:
        name: see `contenders.py` beside this file.
        fleet: its database.
        settings: environment variables for it.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    LOGS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="journal-", dir=LOGS) as journals:
        environment = {
            "ACTIVITY__DATABASE__URL": fleet.dsn,
            "ACTIVITY__SERVER__PORT": str(port),
            "ACTIVITY__JOURNAL__DIR": journals,
            "ACTIVITY__AUTH__KNOWN_FILE": f"{journals}/known",
            "ACTIVITY__LOG__LEVEL": "error",
            **settings,
        }
        url = f"http://127.0.0.1:{port}"
        command = ("-m", "benchmarks.harness.contenders", name)
        log_file = LOGS / f"{name}.log"
        async with running_service(url, environment, log_file, command=command) as process:
            yield Contender(name, url, fleet, process.pid)


@asynccontextmanager
async def contenders(
    testbed: Testbed, names: Sequence[str], devices: int, **settings: str
) -> AsyncIterator[dict[str, Contender]]:
    """Run several contenders, each on a copy of one database."""
    async with AsyncExitStack() as stack:
        original = await stack.enter_async_context(testbed.fleet(devices, count_statements=True))
        running = {}
        for name in names:
            fleet = await stack.enter_async_context(testbed.copy(original))
            running[name] = await stack.enter_async_context(contender(name, fleet, **settings))
        yield running


async def send_heartbeats(
    one: Contender,
    requests: Sequence[Request],
    *,
    report: Report,
    seconds: float = SECONDS,
    first: int = 0,
) -> Load:
    """Send heartbeats to a contender for some seconds, as fast as it responds.

    Raises:
        BenchmarkFailedError: a heartbeat failed.
    """
    seen = await load(one.url, requests, connections=CONNECTIONS, seconds=seconds, first=first)
    return check_load(one, seen, report)


def check_load(one: Contender, seen: Load, report: Report) -> Load:
    """Return the result of a load if nothing failed.

    Raises:
        BenchmarkFailedError: a request failed, or none was sent.
    """
    if seen.errors or not seen.requests:
        raise BenchmarkFailedError(f"{one.name}: {seen.errors} of {seen.requests} requests failed")
    report.note(bottleneck(seen))
    return seen


def rates(name: str, loads: Sequence[Load]) -> Measured:
    """Return the requests per second of each round."""
    return Measured(name, [one.requests_per_s for one in loads], "/s")


def p99s(name: str, loads: Sequence[Load]) -> Measured:
    """Return the 99th percentile of the latencies of each round, in milliseconds."""
    return Measured(name, [one.p99_ms for one in loads], "ms")


async def wait_until_written(one: Contender, sent: int) -> None:
    """Wait until the backlog of a contender is written, so that it does not slow the next one."""
    if one.name not in ("awaited", "spawned"):
        return
    async with asyncio.timeout(_WRITTEN_WITHIN_S):
        while await updates_seen(one.fleet.dsn) < 2 * sent:  # one for the device, one for the key
            await asyncio.sleep(0.1)


async def check_all_seen(one: Contender) -> None:
    """Check that every device and every API key has a time, after all were sent.

    Raises:
        BenchmarkFailedError: some have none.
    """
    deadline = asyncio.get_running_loop().time() + _WRITTEN_WITHIN_S
    async with connected(one.fleet.dsn) as connection:
        while True:
            unseen = await connection.fetchval(
                "SELECT (SELECT count(*) FROM devices WHERE last_seen_at IS NULL) "
                "+ (SELECT count(*) FROM api_keys WHERE last_used_at IS NULL)"
            )
            if not unseen:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise BenchmarkFailedError(f"{one.name}: {unseen} were touched and have no time")
            await asyncio.sleep(0.2)
