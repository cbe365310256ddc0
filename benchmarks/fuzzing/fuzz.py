"""Fuzzing: sends valid, invalid and malformed requests to the real service.

Each round sends requests from the OpenAPI document, and mutates those that were accepted. The seed
repeats a round. At the end the counters must balance.
"""

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.markup import escape

from api.targets import names
from benchmarks.fuzzing.contract import Found, Sent, explore
from benchmarks.fuzzing.mutation import attack, broken
from benchmarks.harness.metrics import scrape
from benchmarks.harness.service import running_service
from benchmarks.harness.testbed import Testbed

LOG: Final = Path(".activity/benchmarks/fuzz.log")
"""The log file of the service."""
EXAMPLES: Final = 200
"""The maximum number of random requests for each operation in a round."""
_BROKEN_FROM_EACH: Final = 15
_AT_ONCE: Final = 1000
"""The number of mutated requests between two lines of progress."""
_SETTLED_WITHIN_S: Final = 60
_DEVICES: Final = 50


@asynccontextmanager
async def target(testbed: Testbed, workers: int = 1) -> AsyncIterator[tuple[str, str]]:
    """Run the service on a database of its own while the block runs; yield its URL and a key."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    LOG.parent.mkdir(parents=True, exist_ok=True)
    async with testbed.fleet(_DEVICES) as fleet:
        with TemporaryDirectory(prefix="activity-") as folder:
            settings = {
                "ACTIVITY__DATABASE__URL": fleet.dsn,
                "ACTIVITY__SERVER__PORT": str(port),
                "ACTIVITY__SERVER__WORKERS": str(workers),
                "ACTIVITY__SERVER__RUN_DIR": f"{folder}/run",
            }
            async with running_service(url, settings, LOG):
                yield url, fleet.keys[0]


async def fuzz(
    testbed: Testbed,
    console: Console,
    *,
    requests: int,
    seed: int,
    examples: int = EXAMPLES,
    workers: int = 1,
) -> int:
    """Fuzz the service.

    Args:
        testbed: where its database is created.
        console: where progress and the summary are printed.
        requests: the minimum number of requests.
        seed: the seed of the first round; each next round has the next seed.
        examples: the maximum number of random requests for each operation in a round.
        workers: how many the service has.

    Returns:
        0 if nothing failed, the service is ready and its counters balance; else 1.

    Raises:
        ServiceFailedError: the service did not come up.
    """
    started, found = time.monotonic(), Found()
    async with target(testbed, workers) as (url, key):
        for number in itertools.count(seed):
            console.print(f"seed {number}: sending requests from the document")
            explored, accepted = await asyncio.to_thread(
                explore, url, key, seed=number, examples=examples
            )
            found.add(explored)
            found.add(
                await _break(url, accepted, number, requests - found.statuses.total(), console)
            )
            if found.statuses.total() >= requests:
                break
        for problem in await settled(url):
            found.failures[problem] = f"the service's log is {LOG}"
    _show(found, time.monotonic() - started, console)
    return 1 if found.failures else 0


async def _break(url: str, accepted: list[Sent], seed: int, most: int, console: Console) -> Found:
    documented = await documented_statuses(url)
    rng, found = Random(seed), Found()
    left = itertools.islice(
        (broken(good, rng) for good in accepted for _ in range(_BROKEN_FROM_EACH)), max(most, 0)
    )
    while some := list(itertools.islice(left, _AT_ONCE)):
        found.add(await attack(url, some, documented))
        if found.statuses.total() % (10 * _AT_ONCE) == 0:
            console.print(f"seed {seed}: {found.statuses.total():,} malformed requests")
    return found


async def documented_statuses(url: str) -> dict[str, set[int]]:
    """Return the documented statuses of each operation."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/api/openapi.json") as response,
    ):
        document: dict[str, Any] = await response.json()
    return {
        f"{method.upper()} {path}": set(map(int, operation["responses"]))
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


async def settled(url: str) -> list[str]:
    """Wait until all touches are written, and return the checks that fail then."""
    problems = ["the service does not respond"]
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    async with aiohttp.ClientSession() as session:
        while problems and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            try:
                problems = await _problems(session, url)
            except (aiohttp.ClientError, TimeoutError) as error:
                problems = [f"the service does not respond: {error}"]
    return problems


async def _problems(session: aiohttp.ClientSession, url: str) -> list[str]:
    metrics = await scrape(session, url)
    problems = []
    for name in names():
        if balance := metrics.balance(name):
            problems.append(f"the counters of {name} are {balance:+.0f} out of balance")
        if pending := metrics.total("activity_buffer_keys", target=name):
            problems.append(f"{pending:.0f} touches of {name} were not written")
    async with session.get(f"{url}/api/health/ready") as response:
        if response.status != 200:
            problems.append(f"the service is not ready: {await response.text()}")
    return problems


def _show(found: Found, seconds: float, console: Console) -> None:
    total = found.statuses.total()
    console.print(f"{total:,} requests in {seconds:.0f} s, by status:")
    for status, count in sorted(found.statuses.items()):
        console.print(f"  {status or 'no response'}  {count:>9,}")
    for what, how in found.failures.items():
        console.print(f"[red]failed:[/red] {escape(what)}\n{escape(how)}", soft_wrap=True)
    if not found.failures:
        console.print("nothing failed; the service is ready and its counters balance")
