"""Measures how long an event takes from its commit to a subscriber, by stream and by webhook.

Devices that are offline are touched, 1,000 a second, as a flush does it. This process reads the
stream and receives the webhook of a service in a process of its own.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp import web

from api.background import background
from api.config import DatabaseSettings
from api.postgres.database import open_database
from api.webhooks.registry import NewWebhook, create_webhook
from benchmarks.harness.contender import Contender, contender
from benchmarks.harness.report import BenchmarkFailedError, Report
from benchmarks.harness.testbed import Testbed, connected

_PER_S: Final = 1000
_SECONDS: Final = 10
_DEVICES: Final = 3 * _PER_S * _SECONDS
"""A webhook gets one event for a group of which more than half changes."""
STEPS: Final = 1
_BATCHES_PER_S: Final = 5
_READY_WITHIN_S: Final = 30
_RECEIVED_WITHIN_S: Final = 30
_PERCENTILE: Final = 0.99
ALLOW_ALL: Final = {
    "ACTIVITY__WEBHOOKS__ALLOW_HTTP": "true",
    "ACTIVITY__WEBHOOKS__ALLOW_PRIVATE": "true",
}
"""Settings of the service that let it send to a receiver on this machine."""
_LET_ALL_BE_OFFLINE: Final = """
UPDATE devices SET is_online = false, last_seen_at = now() - interval '2 h',
                   presence_since = now() - interval '1 h'
"""
TOUCH: Final = """
UPDATE devices SET last_seen_at = date_trunc('second', now())
WHERE device_id = ANY($1::text[]::uuid[])
"""


class _Subscriber:
    """Notes when it receives each device's first event."""

    def __init__(self) -> None:
        self.received: dict[str, float] = {}

    def receive(self, event: dict[str, str]) -> None:
        self.received.setdefault(event["device_id"], time.perf_counter())

    def receive_all(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            self.receive(event)


async def _read_stream(one: Contender, subscriber: _Subscriber, ready: asyncio.Event) -> None:
    headers = {"X-API-Key": one.fleet.keys[0]}
    unlimited = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=unlimited) as session,
        session.get(f"{one.url}/api/v1/events/stream", headers=headers) as response,
    ):
        response.raise_for_status()
        ready.set()
        async for line in response.content:
            if line.startswith(b"data: "):
                subscriber.receive(json.loads(line[6:]))


@asynccontextmanager
async def receiving(handle: Callable[[list[dict[str, Any]]], None]) -> AsyncIterator[str]:
    """Receive a webhook while the block runs, at the URL that it gives.

    Args:
        handle: called with the events of each request.
    """

    async def receive(request: web.Request) -> web.Response:
        handle((await request.json())["events"])
        return web.Response(status=204)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def events(testbed: Testbed, report: Report, advance: Callable[[], None]) -> None:
    """Run this part.

    Args:
        testbed: where the database is created.
        report: receives the findings.
        advance: called after each step.

    Raises:
        BenchmarkFailedError: a subscriber has missed an event.
    """
    stream, webhook = _Subscriber(), _Subscriber()
    async with (
        testbed.fleet(_DEVICES) as fleet,
        connected(fleet.dsn) as db,
        receiving(webhook.receive_all) as url,
    ):
        await db.execute(_LET_ALL_BE_OFFLINE)
        await db.execute("TRUNCATE event_outbox")
        await db.execute("VACUUM (FREEZE, ANALYZE) devices")
        async with open_database(fleet.dsn, DatabaseSettings(), connections=1) as database:
            await create_webhook(database, NewWebhook(url, None, ["device.online"]))
        async with contender("ours", fleet, **ALLOW_ALL) as one:
            ready = asyncio.Event()
            async with background(_read_stream(one, stream, ready), "stream"):
                async with asyncio.timeout(_READY_WITHIN_S):
                    await ready.wait()
                await _warm_up(one)
                touched = fleet.devices[: _PER_S * _SECONDS]
                committed = await _touch_all(db, touched)
                await _wait_for_all(committed, stream, webhook)
    for name, subscriber in (("stream", stream), ("webhook", webhook)):
        delays = sorted(subscriber.received[each] - at for each, at in committed.items())
        p99s = [
            _p99(
                [subscriber.received[each] - committed[each] for each in touched[at : at + _PER_S]]
            )
            for at in range(0, len(touched), _PER_S)
        ]
        what = f"event to subscriber by {name}, {_PER_S:,} transitions a second"
        report.state("presence", f"{what}, p99 of each second", p99s, "s", goal=2)
        report.state("presence", f"{what}, p50", [delays[len(delays) // 2]], "s")
    advance()


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * _PERCENTILE)]


async def _warm_up(one: Contender) -> None:
    """Wait until the service follows the log of events, so that nothing is before its start."""
    async with asyncio.timeout(_READY_WITHIN_S):
        while "events_position" not in {name for name, _ in (await one.metrics()).samples}:
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)


async def _touch_all(db: object, devices: list[str]) -> dict[str, float]:
    """Touch all devices at their rate; return when the touch of each was committed."""
    committed: dict[str, float] = {}
    each = _PER_S // _BATCHES_PER_S
    began = time.perf_counter()
    for number, at in enumerate(range(0, len(devices), each)):
        await asyncio.sleep(max(0.0, began + number / _BATCHES_PER_S - time.perf_counter()))
        batch = devices[at : at + each]
        await db.execute(TOUCH, batch)  # type: ignore[attr-defined]
        committed |= dict.fromkeys(batch, time.perf_counter())
    return committed


async def _wait_for_all(committed: dict[str, float], *subscribers: _Subscriber) -> None:
    """Wait until each subscriber has received an event of each device.

    Raises:
        BenchmarkFailedError: it has not within half a minute.
    """
    deadline = time.perf_counter() + _RECEIVED_WITHIN_S
    for subscriber in subscribers:
        while missing := committed.keys() - subscriber.received.keys():
            if time.perf_counter() > deadline:
                raise BenchmarkFailedError(f"{len(missing):,} events did not arrive")
            await asyncio.sleep(0.1)
