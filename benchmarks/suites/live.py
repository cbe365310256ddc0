"""Measures what fifty live streams of a group cost its heartbeats.

The same process is put under load with and without them, in turn. This process reads them
and discards the data, since real pages run on other machines.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, cast

from yarl import URL

from benchmarks.harness.contender import Contender, contenders, send_heartbeats
from benchmarks.harness.load import Load
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.testbed import Testbed
from benchmarks.suites.http import DEVICES

_STREAMS: Final = 50
_PROCESSES: Final = 3
_ROUNDS: Final = 5
_SECONDS: Final = 2.0
"""Longer than in other suites, because streams have their cost once a second."""
STEPS: Final = _PROCESSES * _ROUNDS * 2
_READY_WITHIN_S: Final = 30
_MEBIBYTE: Final = 1 << 20


class _Page(asyncio.Protocol):
    """A subscriber that discards its events; it only detects the end of the first snapshot."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.received_bytes = 0
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if not self.ready.is_set():
            self._tail = self._tail[-20:] + data
            if b"event: ready\n" in self._tail:
                self._tail = b""
                self.ready.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def _pages(one: Contender, count: int) -> AsyncIterator[list[_Page]]:
    """Open a number of streams of the fleet while the block runs, and wait until all are closed."""
    url = URL(one.url)
    address = (url.host or "", url.port or 0)
    head = (
        "GET /api/v1/live?group_id=fleet HTTP/1.1\r\n"
        f"Host: {url.authority}\r\nX-API-Key: {one.fleet.keys[0]}\r\n\r\n"
    )
    async with AsyncExitStack() as stack:
        pages = []
        for _ in range(count):
            transport, page = await asyncio.get_running_loop().create_connection(_Page, *address)
            stack.callback(page.close)
            transport.write(head.encode())
            pages.append(page)
        async with asyncio.timeout(_READY_WITHIN_S):
            await asyncio.gather(*(page.ready.wait() for page in pages))
        yield pages
        if (await one.metrics()).total("live_streams") != count:
            raise BenchmarkFailedError("a live stream ended early")
    async with asyncio.timeout(_READY_WITHIN_S):
        while (await one.metrics()).total("live_streams"):
            await asyncio.sleep(0.1)


async def live(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a request failed, or a stream ended.
    """
    loads: dict[int, list[Load]] = {0: [], _STREAMS: []}
    cost_us: dict[int, list[float]] = {0: [], _STREAMS: []}
    sent_mb_per_s: list[float] = []
    for _ in range(_PROCESSES):
        async with contenders(testbed, ("ours",), DEVICES) as running:
            one = running["ours"]
            requests = one.heartbeats()

            async def measure(count: int, *, one: Contender = one) -> Load:
                async with _pages(one, count) as pages:
                    before, cpu_s = sum(page.received_bytes for page in pages), one.cpu_s()
                    seen = await send_heartbeats(one, requests, report=report, seconds=_SECONDS)  # noqa: B023
                    received = sum(page.received_bytes for page in pages) - before
                    cost_us[count].append((one.cpu_s() - cpu_s) / seen.requests * 1e6)
                if count:
                    sent_mb_per_s.append(received / _MEBIBYTE / _SECONDS)
                return seen

            named = {str(count): partial(measure, count) for count in loads}
            for warm_up in named.values():
                await warm_up()
            for costs in cost_us.values():
                costs.pop()
            for name, seen in (await alternate(_ROUNDS, named, advance)).items():
                loads[int(name)] += seen
    without, watched = loads.values()
    report.compare(
        *("live", f"heartbeats/s, {_STREAMS} live streams / none"),
        Measured("watched", [seen.requests_per_s for seen in watched], "/s"),
        Measured("not watched", [seen.requests_per_s for seen in without], "/s"),
        goal=0.95,
    )
    report.compare(  # less affected by other load on the machine
        *("live", f"CPU of the service for a heartbeat, {_STREAMS} live streams / none"),
        Measured("watched", cost_us[_STREAMS], "us"),
        Measured("not watched", cost_us[0], "us"),
        goal=1 / 0.95,
        better="lower",
    )
    report.compare(
        *("live", f"p99, {_STREAMS} live streams / none"),
        Measured("watched", [seen.p99_ms for seen in watched], "ms"),
        Measured("not watched", [seen.p99_ms for seen in without], "ms"),
        better="lower",
    )
    report.state("live", "sent to live streams", sent_mb_per_s, "MB/s")
