"""Measures a scrape while many keys are pending: its duration, and the stall of the event loop.

The application runs in this process, where its event loop can be measured; another process scrapes
it. Before that it serves requests of every kind, so that it has as many time series as a busy
service.
"""

import asyncio
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
from aiohttp import web

from api.app import LISTENER, TRACKER, create_app
from api.config import Settings
from api.serving import open_listeners
from api.targets import DEVICES
from benchmarks.harness.metrics import parse_metrics
from benchmarks.harness.report import BenchmarkFailedError, Report
from benchmarks.harness.stall import Stall, longest_stall
from benchmarks.harness.testbed import Testbed

FEW: Final = 1000
MANY: Final = 1_000_000
_ROUNDS: Final = 5
STEPS: Final = 3
_SCRAPES: Final = 10
_SLICE: Final = 1000
_LEAST_SAMPLES: Final = 500
_HOUR_S: Final = 3600.0
_METHODS: Final = ("GET", "POST", "DELETE", "PUT")
_PATHS: Final = (
    "/api/health",
    "/api/health/ready",
    "/api/openapi.json",
    "/api/v1/devices",
    "/api/v1/devices?group_id=fleet",
    "/api/v1/devices/register",
    f"/api/v1/devices/{uuid.UUID(int=0)}",
    f"/api/v1/devices/{uuid.UUID(int=0)}/heartbeat",
    "/api/v1/locations",
    "/api/v1/locations/batch",
    "/nowhere",
)
_SCRAPER: Final = """
import http.client, sys, time
host, port, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = http.client.HTTPConnection(host, port)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    started = time.perf_counter()
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    text = response.read()
    print((time.perf_counter() - started) * 1e3)
    assert response.status == 200
    time.sleep(0.02)
"""


@dataclass(frozen=True, slots=True)
class _Scraped:
    """Durations of scrapes in milliseconds, and the longest stall of the loop in each round."""

    times_ms: Sequence[float]
    stalls: Sequence[Stall]


async def scraping(
    testbed: Testbed, report: Report, advance: Callable[[], None], *, many: int = MANY
) -> None:
    """Run the benchmark.

    Args:
        testbed: where a database is created.
        report: receives the findings.
        advance: called after each step.
        many: the number of pending keys at the end.

    Raises:
        BenchmarkFailedError: a scrape does not show what is pending.
    """
    async with testbed.fleet(1) as fleet, _served(fleet.dsn, many) as (app, url):
        await _make_series(url, fleet.keys[0])
        advance()
        await _fill(app, FEW)
        few = await _scraped(url, FEW)
        advance()
        await _fill(app, many)
        scraped = await _scraped(url, many)
        buffer = app[TRACKER].buffers[DEVICES]
        buffer.drain()
        buffer.settle({})  # these keys have no rows, so they must not be flushed
        advance()
    report.state("scrape", f"time of one, {FEW:,} keys", few.times_ms, "ms")
    report.state("scrape", f"time of one, {many:,} keys", scraped.times_ms, "ms", goal=50)
    report.state(
        *("scrape", "longest stall of the event loop meanwhile"),
        *([stall.wall_ms for stall in scraped.stalls], "ms"),
        goal=5,
    )
    report.state(
        "scrape", "CPU time of that stall", [stall.cpu_ms for stall in scraped.stalls], "ms"
    )


@asynccontextmanager
async def _served(dsn: str, keys: int) -> AsyncIterator[tuple[web.Application, str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="activity-scrape-") as folder:
        settings = Settings(
            server={"port": port, "metrics_max_age_s": 0},
            journal={"dir": folder},
            tracker={
                "flush_interval_s": _HOUR_S,
                "capacity_keys": 2 * keys,
                "high_water_keys": 2 * keys,
            },
        )
        app = await create_app(settings, dsn)
        async with open_listeners(app, settings.server):
            yield app, f"http://{app[LISTENER].host}:{app[LISTENER].port}"


async def _make_series(url: str, key: str) -> None:
    """Send requests of every kind, with an API key and without."""
    async with aiohttp.ClientSession(url) as session:
        for headers in ({"X-API-Key": key}, {}):
            for method in _METHODS:
                for path in _PATHS:
                    async with session.request(method, path, headers=headers) as response:
                        await response.read()


async def _fill(app: web.Application, keys: int) -> None:
    """Make a number of keys pending, in steps, so that the journal can allocate segments."""
    buffer = app[TRACKER].buffers[DEVICES]
    while len(buffer) < keys:
        for _ in range(min(_SLICE, keys - len(buffer))):
            buffer.touch(str(uuid.uuid4()))
        await asyncio.sleep(0)


async def _scraped(url: str, keys: int) -> _Scraped:
    host, _, port = url.removeprefix("http://").partition(":")
    command = [sys.executable, "-c", _SCRAPER, host, port, str(_SCRAPES)]
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        samples = parse_metrics(await response.text())
    if samples.total("activity_buffer_keys", target=DEVICES) != keys:
        raise BenchmarkFailedError(f"a scrape shows other than {keys:,} pending keys")
    if len(samples.samples) < _LEAST_SAMPLES:
        raise BenchmarkFailedError(
            f"{len(samples.samples)} samples are not those of a busy service"
        )
    times_ms, stalls = [], []
    for _ in range(_ROUNDS):
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        await process.stdout.readline()  # its start, which uses a whole core, is over
        async with longest_stall() as stall:
            printed, _ = await process.communicate(b"go\n")
        if process.returncode:
            raise BenchmarkFailedError("the scraper failed")
        times_ms += [float(line) for line in printed.split()]
        stalls.append(stall)
    return _Scraped(times_ms, stalls)
