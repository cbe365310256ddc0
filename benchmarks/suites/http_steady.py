"""Measures heartbeats at a steady rate: memory growth, and UPDATE statements per heartbeat."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.harness.contender import (
    CONNECTIONS,
    Contender,
    check_all_seen,
    check_load,
    contenders,
    wait_until_written,
)
from benchmarks.harness.load import Load, Request, paced
from benchmarks.harness.report import Measured, Report
from benchmarks.harness.testbed import Testbed, updates_seen

ROUNDS: Final = 5
STEPS: Final = 2 + ROUNDS
_DEVICES: Final = 10_000
_STEADY_S: Final = 30
_STEADY_RATE: Final = _DEVICES / 2
_WARM_UP_S: Final = 5.0
_SAMPLE_EVERY_S: Final = 0.5
_SPAWNED_S: Final = 2.0
_MEBIBYTE: Final = 1 << 20


async def steady(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Measure memory over half a minute, and statements, of 10,000 devices that post every 2 s."""
    async with contenders(testbed, ("ours", "spawned"), _DEVICES) as running:
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
        await check_all_seen(ours)
        each_of_spawned: list[float] = []
        sent = updates = 0
        for _ in range(ROUNDS):
            seen = await _paced(spawned, beats, _SPAWNED_S, report)
            sent += seen.requests
            await wait_until_written(spawned, sent)
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
        connections=CONNECTIONS,
        seconds=seconds,
        rate_per_s=_STEADY_RATE,
    )
    return check_load(one, seen, report)


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
