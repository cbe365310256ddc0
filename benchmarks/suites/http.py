"""Heartbeats: what tracking costs the requests, against nothing and against what one would pick.

Every contender is a service process of its own on a database of its own, with the same fleet. All
are up at the same time, and one after the other is put under load.
"""

import asyncio
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
import psutil

from benchmarks.harness.contenders import SPREAD_S, STORM_S
from benchmarks.harness.load import Load, Request, bottleneck, load, paced
from benchmarks.harness.metrics import Metrics, scrape
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Measured, Report
from benchmarks.harness.service import running_service
from benchmarks.harness.testbed import Fleet, Testbed, connected, updates_seen
from benchmarks.suites.flush import Clock, our_flusher
from tracker.postgres import open_pool

LOGS: Final = Path(".activity/benchmarks")
DEVICES: Final = 10_000
_MANY_DEVICES: Final = 100_000
_CONNECTIONS: Final = 32
_FEW_ROUNDS: Final = 5
_PROCESSES: Final = 3
_SECONDS: Final = 1.0
_LONGER_S: Final = 2.0
"""For what builds up a backlog, which takes a while to show."""
_STORM_LOAD_S: Final = 2.0
_BEGUN_S: Final = 0.2
_STEADY_S: Final = 30
_STEADY_RATE: Final = DEVICES / 2
_WARM_UP_S: Final = 5.0
_SAMPLE_EVERY_S: Final = 0.5
_SPAWNED_S: Final = 2.0
_SETTLED_WITHIN_S: Final = 120.0
_MEBIBYTE: Final = 1 << 20
STEPS: Final = _FEW_ROUNDS * (3 * _PROCESSES + 4 + 3 + 1) + 2


@dataclass(frozen=True, slots=True)
class Contender:
    """A running service.

    Args:
        name: see `contenders.py`.
        url: where it answers.
        fleet: its database.
        pid: its process.
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
        """Return how much memory the process has."""
        size: int = psutil.Process(self.pid).memory_info().rss
        return size

    async def metrics(self) -> Metrics:
        """Scrape it."""
        async with aiohttp.ClientSession() as session:
            return await scrape(session, self.url)


@asynccontextmanager
async def contender(name: str, fleet: Fleet, **settings: str) -> AsyncIterator[Contender]:
    """Run a contender while the block runs.

    Args:
        name: see `contenders.py`.
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
    """Run several, each on a copy of one database."""
    async with AsyncExitStack() as stack:
        original = await stack.enter_async_context(testbed.fleet(devices, count_statements=True))
        running = {}
        for name in names:
            fleet = await stack.enter_async_context(testbed.copy(original))
            running[name] = await stack.enter_async_context(contender(name, fleet, **settings))
        yield running


async def beaten(
    one: Contender,
    requests: Sequence[Request],
    *,
    report: Report,
    seconds: float = _SECONDS,
    first: int = 0,
) -> Load:
    """Put a contender under some seconds of heartbeats.

    Raises:
        BenchmarkFailedError: a heartbeat failed.
    """
    seen = await load(one.url, requests, connections=_CONNECTIONS, seconds=seconds, first=first)
    return checked(one, seen, report)


def checked(one: Contender, seen: Load, report: Report) -> Load:
    """Return what a load saw, if nothing failed.

    Raises:
        BenchmarkFailedError: something did.
    """
    if seen.errors or not seen.requests:
        raise BenchmarkFailedError(f"{one.name}: {seen.errors} of {seen.requests} answers failed")
    report.note(bottleneck(seen))
    return seen


async def http(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are made.
        report: where findings go.
        advance: called as it gets on.

    Raises:
        BenchmarkFailedError: a request failed, or a table does not hold what the load implies.
    """
    await _cost(testbed, report, advance)
    await _throughput(testbed, report, advance)
    await _while_flushing(testbed, report, advance)
    await _steady(testbed, report, advance)


async def _cost(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Measure ours against none and against ours without a journal, several processes of each.

    Two processes that run the same code differ by up to ten per cent as long as they live, by where
    their memory happens to lie; one of each would measure that.
    """
    loads: dict[str, list[Load]] = {"none": [], "ours": [], "unjournaled": []}
    for _ in range(_PROCESSES):
        async with contenders(testbed, tuple(loads), DEVICES) as running:
            measure = {
                name: partial(beaten, one, one.heartbeats(), report=report)
                for name, one in running.items()
            }
            for warm_up in measure.values():
                await warm_up()
            for name, seen in (await alternate(_FEW_ROUNDS, measure, advance)).items():
                loads[name] += seen
    none, ours, unjournaled = loads.values()
    report.compare(
        "http", "heartbeats/s, ours / none", _rates("ours", ours), _rates("none", none), goal=0.97
    )
    report.compare(
        *("http", "p99, ours / none", _p99("ours", ours), _p99("none", none)), better="lower"
    )
    report.compare(
        *("http", "heartbeats/s, with the journal / without", _rates("with", ours)),
        _rates("without", unjournaled),
        goal=0.98,
    )
    report.series("throughput", "none", [one.requests_per_s for one in none])
    report.series("latency", "none p50", [one.p50_ms for one in none])
    report.series("latency", "none p99", [one.p99_ms for one in none])


async def _throughput(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    names = ("ours", "awaited", "spawned", "throttled")
    async with contenders(testbed, names, DEVICES) as running:
        requests = {name: one.heartbeats() for name, one in running.items()}
        sent, first = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        lasted: dict[str, list[float]] = {name: [] for name in names}

        async def measure(name: str) -> Load:
            started = time.monotonic()
            one = running[name]
            seen = await beaten(
                one, requests[name], report=report, seconds=_LONGER_S, first=first[name]
            )
            first[name] = seen.next_number
            sent[name] += seen.requests
            await _settle(one, sent[name])
            lasted[name].append(seen.requests / (time.monotonic() - started))
            return seen

        for name in names:  # caches are filled, and connections open
            await measure(name)
        others = await alternate(
            _FEW_ROUNDS,
            {name: partial(measure, name) for name in names},
            advance,
        )
        for name in ("ours", "awaited", "spawned"):
            await _check_all_seen(running[name])
    rate = {name: _rates(name, loads) for name, loads in others.items()}
    slow = {name: _p99(name, loads) for name, loads in others.items()}
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
    for name, loads in others.items():
        report.series("throughput", name, [one.requests_per_s for one in loads])
        report.series("latency", f"{name} p50", [one.p50_ms for one in loads])
        report.series("latency", f"{name} p99", [one.p99_ms for one in loads])


def _rates(name: str, loads: Sequence[Load]) -> Measured:
    return Measured(name, [one.requests_per_s for one in loads], "/s")


def _p99(name: str, loads: Sequence[Load]) -> Measured:
    return Measured(name, [one.p99_ms for one in loads], "ms")


async def _settle(one: Contender, sent: int) -> None:
    """Wait until a backlog is written, so that no contender is loaded with another's."""
    if one.name not in ("awaited", "spawned"):
        return
    async with asyncio.timeout(_SETTLED_WITHIN_S):
        while await updates_seen(one.fleet.dsn) < 2 * sent:  # one for the device, one for the key
            await asyncio.sleep(0.1)


async def _check_all_seen(one: Contender) -> None:
    """See that every device and every key has a time, now that all were sent.

    Raises:
        BenchmarkFailedError: some have none.
    """
    deadline = asyncio.get_running_loop().time() + _SETTLED_WITHIN_S
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


async def _while_flushing(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Measure requests while 100,000 keys are flushed, at the pace that the service flushes at.

    The third contender tracks nothing, while another process writes the same rows at the same pace:
    what the database's work takes from the machine, whoever asks for it.
    """
    never = {"ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "3600"}
    clock = Clock()
    async with contenders(testbed, ("none", "ours", "beside"), _MANY_DEVICES, **never) as running:
        few = {name: one.heartbeats()[:DEVICES] for name, one in running.items()}
        beside = running["beside"].fleet
        written = 0.0

        async def none() -> Load:
            return await beaten(running["none"], few["none"], report=report)

        async def ours() -> Load:
            nonlocal written
            one = running["ours"]
            psutil.Process(one.pid).send_signal(signal.SIGUSR1)
            await asyncio.sleep(_BEGUN_S)
            seen = await beaten(one, few["ours"], report=report, seconds=_STORM_LOAD_S)
            metrics = await one.metrics()
            now = metrics.total("activity_flush_keys_total", target="devices", outcome="written")
            if now - written < _MANY_DEVICES / 2:  # the flush goes on when the load has ended
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
                seen = await beaten(one, few["beside"], report=report, seconds=_STORM_LOAD_S)
                await flushing
                return seen

        measure = {"none": none, "ours": ours, "beside": written_beside}
        for warm_up in measure.values():
            await warm_up()
        loads = await alternate(_FEW_ROUNDS, measure, advance)
    slow = {name: _p99(name, seen) for name, seen in loads.items()}
    rate = {name: _rates(name, seen) for name, seen in loads.items()}
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


async def _steady(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """10,000 devices that each post every 2 s: memory over a minute, and statements."""
    async with contenders(testbed, ("ours", "spawned"), DEVICES) as running:
        ours, spawned = running["ours"], running["spawned"]
        beats = ours.heartbeats()
        await _paced(ours, beats, _WARM_UP_S, report)
        advance()
        before = await updates_seen(ours.fleet.dsn)
        watching = asyncio.create_task(_memory(ours))
        seen = await _paced(ours, beats, _STEADY_S, report)
        watching.cancel()
        samples = await watching
        advance()
        each_of_ours = (await updates_seen(ours.fleet.dsn) - before) / seen.requests
        await _check_all_seen(ours)
        each_of_spawned: list[float] = []
        sent = updates = 0
        for _ in range(_FEW_ROUNDS):
            seen = await _paced(spawned, beats, _SPAWNED_S, report)
            sent += seen.requests
            await _settle(spawned, sent)
            updates, until_now = await updates_seen(spawned.fleet.dsn), updates
            each_of_spawned.append((updates - until_now) / seen.requests)
            advance()
    growth = (_late(samples) - _early(samples)) / _MEBIBYTE
    report.state("http", f"memory growth in {_STEADY_S} s", [growth], "MB", goal=5)
    report.compare(
        *("http", "UPDATEs per heartbeat, spawned / ours"),
        Measured("spawned", each_of_spawned, ""),
        Measured("ours", [each_of_ours] * len(each_of_spawned), ""),
        goal=1000,
    )
    report.series("memory", "ours", [size / _MEBIBYTE for size in samples])


async def _paced(
    one: Contender, requests: Sequence[Request], seconds: float, report: Report
) -> Load:
    seen = await paced(
        one.url,
        requests,
        connections=_CONNECTIONS,
        seconds=seconds,
        rate_per_s=_STEADY_RATE,
    )
    return checked(one, seen, report)


async def _memory(one: Contender) -> list[float]:
    """Sample a process's memory until cancelled."""
    samples: list[float] = []
    try:
        while True:
            samples.append(float(one.resident_bytes()))
            await asyncio.sleep(_SAMPLE_EVERY_S)
    except asyncio.CancelledError:
        return samples


def _early(samples: Sequence[float]) -> float:
    return max(samples[: len(samples) // 6])


def _late(samples: Sequence[float]) -> float:
    return max(samples[-len(samples) // 6 :])
