"""Measures requests of gateways: thousands of touches, or of reports of many devices, in each."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from api.app import REQUESTS, create_app
from api.config import Settings
from api.serving import freeze_garbage_collector, open_listeners
from benchmarks.harness.contender import Contender, check_load, contenders
from benchmarks.harness.load import Load, Request, load
from benchmarks.harness.pairs import alternate
from benchmarks.harness.report import BenchmarkFailedError, Report
from benchmarks.harness.stall import longest_stall
from benchmarks.harness.testbed import Fleet, Testbed, connected

_DEVICES: Final = 10_000
_REPORTS: Final = 5000
_CONNECTIONS: Final = 4
_ROUNDS: Final = 5
_SECONDS: Final = 1.0
_STALL_S: Final = 3.0
_KINDS: Final = ("touches", "touches with a time", "reports")
STEPS: Final = _ROUNDS * len(_KINDS) + len(_KINDS)


def _touches(fleet: Fleet, **more: int) -> list[Request]:
    """Return a request for each of a few API keys, with a touch of each device."""
    body = msgspec.json.encode(
        {"touches": [{"device_id": device, **more} for device in fleet.devices]}
    )
    return _requests("/api/v1/touches", fleet, body)


def _reports(fleet: Fleet) -> list[Request]:
    """Return a request for each of a few API keys, with reports whose times differ in each."""
    report = (
        b'{"device_id":"%s","timestamp":1%%N%%000,"latitude":48.85,"longitude":2.35,'
        b'"accuracy":12.5}'
    )
    reports = [report % device.encode() for device in fleet.devices[:_REPORTS]]
    body = b'{"locations":[' + b",".join(reports) + b"]}"
    return _requests("/api/v1/locations/bulk", fleet, body)


def _requests(path: str, fleet: Fleet, body: bytes) -> list[Request]:
    headers = {"Content-Type": "application/json"}
    keys = fleet.keys[:_CONNECTIONS]
    return [Request("POST", path, {**headers, "X-API-Key": key}, body) for key in keys]


def _of_kind(kind: str, fleet: Fleet) -> list[Request]:
    if kind == "reports":
        return _reports(fleet)
    return _touches(fleet) if kind == "touches" else _touches(fleet, at=1_700_000_000_123)


async def gateways(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run the benchmark.

    Args:
        testbed: where databases are created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a request failed, or its touches or reports were not taken.
    """
    async with contenders(testbed, ("ours",), _DEVICES) as running:
        await _rates(running["ours"], report, advance)
    async with testbed.fleet(_DEVICES) as fleet:
        await _stalls(fleet, report, advance)


async def _rates(one: Contender, report: Report, advance: Callable[[], None]) -> None:
    """Measure touches for each second of the service's CPU time, and reports that are stored."""
    requests = {kind: _of_kind(kind, one.fleet) for kind in _KINDS}
    next_numbers = dict.fromkeys(_KINDS, 0)
    per_cpu_s: dict[str, list[float]] = {kind: [] for kind in _KINDS}

    async def measure(kind: str) -> Load:
        before = one.cpu_s()
        seen = await _load(one.url, requests[kind], first=next_numbers[kind])
        check_load(one, seen, report)
        next_numbers[kind] = seen.next_number
        size = _REPORTS if kind == "reports" else _DEVICES
        per_cpu_s[kind].append(size * seen.requests / (one.cpu_s() - before))
        return seen

    for kind in _KINDS:
        await measure(kind)
        per_cpu_s[kind].clear()
    loads = await alternate(_ROUNDS, {kind: partial(measure, kind) for kind in _KINDS}, advance)
    for kind, goal in (("touches", 500_000), ("touches with a time", None)):
        report.state(
            *("gateways", f"{kind}, for a second of CPU time", per_cpu_s[kind], "/s"),
            goal=goal,
            better="higher",
        )
    stored = [_REPORTS * seen.requests / seen.seconds for seen in loads["reports"]]
    report.state("gateways", "reports stored", stored, "reports/s", goal=60_000, better="higher")
    report.state("gateways", "reports, for a second of CPU time", per_cpu_s["reports"], "/s")
    async with connected(one.fleet.dsn) as connection:
        rows = await connection.fetchval("SELECT count(*) FROM locations")
    if rows < _REPORTS * next_numbers["reports"] - _REPORTS * _CONNECTIONS * 2 * _ROUNDS:
        raise BenchmarkFailedError(f"{rows} rows after {next_numbers['reports']} requests")


async def _load(
    url: str, requests: Sequence[Request], *, first: int = 0, seconds: float = _SECONDS
) -> Load:
    return await load(
        url, requests, connections=_CONNECTIONS, seconds=seconds, first=first, own=True
    )


async def _stalls(fleet: Fleet, report: Report, advance: Callable[[], None]) -> None:
    """Measure the longest stall of the event loop, in a service that runs in this process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory(prefix="journal-") as journals:
        settings = Settings.model_validate(
            {
                "database": {"url": fleet.dsn},
                "server": {"port": port},
                "journal": {"dir": journals},
                "log": {"level": "error"},
            }
        )
        app = await create_app(settings, fleet.dsn)
        freeze_garbage_collector()  # as the service does
        async with open_listeners(app, settings.server):
            for kind in _KINDS:
                url, requests = f"http://127.0.0.1:{port}", _of_kind(kind, fleet)
                sending = asyncio.create_task(_load(url, requests, seconds=_STALL_S))
                while not app[REQUESTS].metrics.in_flight:  # the generator is started from here
                    await asyncio.sleep(0.01)
                async with longest_stall() as stall:
                    await asyncio.sleep(_STALL_S / 2)
                seen = await sending
                advance()
                if seen.errors or not seen.requests:
                    raise BenchmarkFailedError(f"{seen.errors} of {seen.requests} {kind} failed")
                what = f"CPU time of the longest stall of the event loop, {kind}"
                report.state("gateways", what, [stall.cpu_ms], "ms", goal=5)
