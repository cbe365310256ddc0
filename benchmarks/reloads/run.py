"""Runs the service with workers, reloads it and kills workers under load, and shows the outcome."""

import random
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console

from benchmarks.harness.service import running_service
from benchmarks.harness.testbed import Fleet, Testbed
from benchmarks.harness.workers import Kill, RunningWorkers
from benchmarks.reloads.checks import lost, settled, unexplained, went_back
from benchmarks.reloads.heartbeats import Outcomes, heartbeats

LOG: Final = Path(".activity/benchmarks/reloads.log")
"""The log file of the service."""
KEPT: Final = 64
FRESH: Final = 8
_PAUSES: Final = 0.1
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is done.

    Attributes:
        requests: the minimum number of requests during the reloads.
        reloads: how often all workers are replaced, spread over those requests.
        kills: how many workers are killed afterwards.
        workers: how many there are.
    """

    requests: int = 1_000_000
    reloads: int = 20
    kills: int = 20
    workers: int = 2


async def run_reloads(testbed: Testbed, console: Console, amount: Amount) -> int:
    """Reload and kill under load.

    Args:
        testbed: where the database is created.
        console: where progress and figures are printed.
        amount: how much is done.

    Returns:
        0 if no request failed but those that a killed worker was answering, nothing that was
        acknowledged is lost, the counters balance, and none went back; else 1.

    Raises:
        ServiceFailedError: the service did not come up, or a reload failed.
    """
    async with (
        testbed.fleet(KEPT + FRESH) as fleet,
        _service(fleet, amount.workers) as service,
    ):
        problems = await _reload(service, fleet, console, amount)
        problems += await _kill(service, fleet, console, amount)
    for problem in problems[:_SHOWN]:
        console.print(f"[red]failed:[/red] {problem}", soft_wrap=True)
    if len(problems) > _SHOWN:
        console.print(f"[red]failed:[/red] ... and {len(problems) - _SHOWN} more; see {LOG}")
    if not problems:
        console.print("nothing is lost; the counters balance, and none went back")
    return 1 if problems else 0


@asynccontextmanager
async def _service(fleet: Fleet, workers: int) -> AsyncIterator[RunningWorkers]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="activity-") as folder:
        environment = {
            "ACTIVITY__DATABASE__URL": fleet.dsn,
            "ACTIVITY__SERVER__PORT": str(port),
            "ACTIVITY__SERVER__WORKERS": str(workers),
            "ACTIVITY__SERVER__RUN_DIR": f"{folder}/run",
            "ACTIVITY__JOURNAL__DIR": f"{folder}/journal",
            "ACTIVITY__AUTH__KNOWN_FILE": f"{folder}/known",
        }
        async with running_service(url, environment, LOG) as process:
            yield RunningWorkers(url, process.pid, environment)


async def _reload(
    service: RunningWorkers, fleet: Fleet, console: Console, amount: Amount
) -> list[str]:
    problems: list[str] = []
    before, started, times = await service.metrics(), time.monotonic(), []
    async with heartbeats(
        service.url, fleet.keys[0], fleet.devices, kept=KEPT, pauses=_PAUSES
    ) as seen:
        for number in range(amount.reloads):
            await seen.reach(amount.requests * number // amount.reloads)
            began = time.monotonic()
            await service.reload()
            times.append(time.monotonic() - began)
            now = await service.metrics()
            problems += went_back(before, now)
            before = now
            console.print(f"reload {number + 1} of {amount.reloads}: {_summary(seen)}")
        await seen.reach(amount.requests)
    metrics = await settled(service)
    problems += unexplained(seen.failures, ())
    problems += await lost(metrics, fleet.dsn, seen.acknowledged)
    counted = metrics.total("activity_touches_total", target="devices")
    if counted != seen.answered.total() and not seen.failures:
        problems.append(f"{seen.answered.total()} heartbeats are counted as {counted:.0f} touches")
    _show("reloads", seen, time.monotonic() - started, console)
    if times:
        console.print(f"  a reload took {statistics.median(times):.1f} s, {max(times):.1f} at most")
    return problems


async def _kill(
    service: RunningWorkers, fleet: Fleet, console: Console, amount: Amount
) -> list[str]:
    started = time.monotonic()
    async with heartbeats(
        service.url, fleet.keys[0], fleet.devices, kept=KEPT, pauses=_PAUSES
    ) as seen:

        def advance(done: int) -> None:
            console.print(f"kill {done} of {amount.kills}: {_summary(seen)}")

        kills, problems = await kill_workers(service, amount.kills, amount.workers, advance)
    problems += unexplained(seen.failures, kills)
    problems += await lost(await settled(service), fleet.dsn, seen.acknowledged)
    _show("kills", seen, time.monotonic() - started, console)
    return problems


async def kill_workers(
    service: RunningWorkers,
    kills: int,
    workers: int,
    advance: Callable[[int], None] = lambda _done: None,
) -> tuple[list[Kill], list[str]]:
    """Kill workers at random, each as soon as all serve; all serve afterwards.

    Args:
        service: has the workers.
        kills: how many to kill.
        workers: how many workers there should be.
        advance: called with the number of kills after each.

    Returns:
        The kills, and counters that went back, as text.
    """
    done, problems = [], []
    before = await service.metrics()
    for number in range(kills):
        await service.ready(workers)
        done.append(await service.kill(random.choice(service.pids())))
        now = await service.metrics()
        problems += went_back(before, now)
        before = now
        advance(number + 1)
    await service.ready(workers)
    return done, problems


def _summary(seen: Outcomes) -> str:
    return f"{seen.answered.total():,} requests answered, {len(seen.failures)} failed"


def _show(what: str, seen: Outcomes, seconds: float, console: Console) -> None:
    kept, fresh = seen.answered[True], seen.answered[False]
    console.print(
        f"{what}: {_summary(seen)} in {seconds:.0f} s, {kept:,} on {KEPT} connections and "
        f"{fresh:,} on new ones; the slowest took {seen.slowest_s * 1000:.0f} ms"
    )
    for how, count in Counter(one.what for one in seen.failures).most_common():
        console.print(f"  {how}  {count:>6,}")
