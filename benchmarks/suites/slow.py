"""Measures what an abusive API key costs the clients of other API keys.

One API key requests the largest listing in a loop, requests it without reading the responses, and
opens as many live streams as it may. Meanwhile another API key sends heartbeats and uploads at a
steady rate. Each attack is measured in turns with the same rate without an attack. The CPU time of
the generators affects the figures, too.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from statistics import median
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from benchmarks.harness.contender import Contender, check_load, contender
from benchmarks.harness.load import NUMBER, Load, Request, load, paced
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Fleet, Testbed, connected

_DEVICES: Final = 10_000
_RATE_PER_S: Final = 200
_CONNECTIONS: Final = 32
_SECONDS: Final = 3.0
_BEGUN_S: Final = 0.5
_ROUNDS: Final = 5
_LOOPS: Final = 16
_DEAF: Final = 80
_DEAF_BUFFER_BYTES: Final = 4096
_STREAMS: Final = 200
_ASK_EVERY_S: Final = 0.05
_MEBIBYTE: Final = 1 << 20
STEPS: Final = 2 * 2 * _ROUNDS + 2
_LISTING: Final = "/api/v1/devices?group_id=fleet&limit=10000"
_LONG_NAMES: Final = "UPDATE devices SET display_name = rpad('', 50, E'\\U0001F69A')"


async def slow(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a request of another API key failed.
    """
    async with testbed.fleet(_DEVICES) as fleet:
        async with connected(fleet.dsn) as connection:
            await connection.execute(_LONG_NAMES)
            await connection.execute("VACUUM (FREEZE, ANALYZE) devices")
        async with contender("ours", fleet) as one:
            await _loops(one, report, advance)
            await _deaf(one, report)
            advance()
            await _streams(one, report)
            advance()


def _others(fleet: Fleet) -> dict[str, list[Request]]:
    """Return heartbeats and uploads of an API key that is not the first."""
    devices, headers = fleet.devices[:1000], {"X-API-Key": fleet.keys[1]}
    upload = (
        b'{"device_id": "%b", "timestamp": 1%b000, "latitude": 48.5, "longitude": 2.5, '
        b'"accuracy": 10}'
    )
    as_json = {**headers, "Content-Type": "application/json"}
    return {
        "heartbeats": [
            Request("POST", f"/api/v1/devices/{device}/heartbeat", headers) for device in devices
        ],
        "uploads": [
            Request("POST", "/api/v1/locations", as_json, upload % (device.encode(), NUMBER))
            for device in devices
        ],
    }


async def _loops(one: Contender, report: Report, advance: Callable[[], None]) -> None:
    """Compare requests of one API key during loops of large listings by another, and alone."""
    listing = Request("GET", _LISTING, {"X-API-Key": one.fleet.keys[0]})
    next_number = 0
    listed: list[float] = []
    failed: list[float] = []

    async def sent(requests: list[Request]) -> Load:
        nonlocal next_number
        seen = await paced(
            one.url,
            requests,
            connections=_CONNECTIONS,
            seconds=_SECONDS,
            rate_per_s=_RATE_PER_S,
            first=next_number,
        )
        next_number = seen.next_number
        return seen

    async def alone(requests: list[Request]) -> Load:
        return check_load(one, await sent(requests), report)

    async def beside(requests: list[Request]) -> Load:
        attack = asyncio.create_task(
            load(one.url, [listing], connections=_LOOPS, seconds=_SECONDS + 2 * _BEGUN_S)
        )
        await asyncio.sleep(_BEGUN_S)
        seen = await sent(requests)
        failed.append(100 * seen.errors / (_SECONDS * _RATE_PER_S))
        listed.append((await attack).requests_per_s)
        return seen

    for kind, requests in _others(one.fleet).items():
        measure = {"alone": partial(alone, requests), "beside": partial(beside, requests)}
        for warm_up in measure.values():
            await warm_up()
        loads = await alternate(_ROUNDS, measure, advance)
        report.compare(
            *("slow", f"p99 of {kind}, beside {_LOOPS} loops of large listings / alone"),
            Measured("beside", [seen.p99_ms for seen in loads["beside"]], "ms"),
            Measured("alone", [seen.p99_ms for seen in loads["alone"]], "ms"),
            goal=2,
            better="lower",
        )
    report.state("slow", "failed requests beside the loops", failed, "%", goal=0)
    report.state("slow", "large listings/s of the loops", listed, "/s")


async def _deaf(one: Contender, report: Report) -> None:
    """Measure clients that request large listings and never read the response."""
    before = one.resident_bytes()
    most, asked_ms = before, []
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        for _ in range(_DEAF):
            await stack.enter_async_context(_asked_and_not_read(one))
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            started = time.monotonic()
            async with session.get(f"{one.url}/api/health") as response:
                await response.read()
            asked_ms.append(1000 * (time.monotonic() - started))
            most = max(most, one.resident_bytes())
            await asyncio.sleep(_ASK_EVERY_S)
    report.state(
        *("slow", f"memory growth, {_DEAF} clients that never read a large listing"),
        *([(most - before) / _MEBIBYTE], "MiB"),
        goal=64,
    )
    report.state("slow", "health beside them, slowest", [max(asked_ms)], "ms")
    report.state("slow", "health beside them, median", [median(asked_ms)], "ms")


@asynccontextmanager
async def _asked_and_not_read(one: Contender) -> AsyncIterator[None]:
    """Request a large listing, and read nothing while the block runs."""
    parts = urlsplit(one.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _DEAF_BUFFER_BYTES)
        client.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (parts.hostname, parts.port))
        key = one.fleet.keys[0]
        head = f"GET {_LISTING} HTTP/1.1\r\nHost: {parts.netloc}\r\nX-API-Key: {key}\r\n\r\n"
        await loop.sock_sendall(client, head.encode())
        yield


async def _streams(one: Contender, report: Report) -> None:
    """Open as many live streams as one API key may, then some of another."""
    got = dict.fromkeys(one.fleet.keys[:2], 0)
    connector = aiohttp.TCPConnector(limit=0)
    async with AsyncExitStack() as stack, aiohttp.ClientSession(connector=connector) as session:
        for key, wanted in zip(got, (_STREAMS, 20), strict=True):
            for _ in range(wanted):
                response = await stack.enter_async_context(
                    session.get(f"{one.url}/api/v1/live?group_id=fleet", headers={"X-API-Key": key})
                )
                got[key] += response.status == 200
    first, second = got.values()
    report.state("slow", "live streams that one API key gets", [first], "", goal=_STREAMS - 1)
    report.state(
        *("slow", "live streams of another API key beside them, of 20", [second], ""),
        goal=20,
        better="higher",
    )
    if not first:
        raise BenchmarkFailedError("no live stream was opened")
