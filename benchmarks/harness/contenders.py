"""The contenders of the benchmarks: the same application with different ways to track.

`python -m benchmarks.harness.contenders NAME` serves one of them, with the service's own settings
from the environment. All have the same routes, the same authentication and the same Postgres.

- bare: an application of aiohttp with nothing but the route of heartbeats, which answers 204.
- none: nothing is tracked; the difference to it is the cost of tracking.
- ours: as shipped.
- unjournaled: as ours, but without a journal: pending touches are only in memory.
- awaited: each request waits for an UPDATE of the device and one of the API key.
- spawned: a background task runs the same two UPDATEs; the design that this project replaces.
- throttled: as spawned, but at most once in 60 s for each device and each API key.
- no-database: as ours, but uploads are validated and not stored.
- insert: as ours, but each upload is an INSERT of its own, in the fastest form for a single row.
- any other name: as none.

SIGUSR1 makes `ours` flush as many keys as the table has devices, at the pace of its flush loop,
repeatedly for `STORM_S` seconds. Suites use it to measure requests during a large flush.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg
import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from api.access.authentication import active_keys
from api.app import TRACKER, create_app
from api.config import Settings
from api.fleet.locations import Report
from api.handlers.locations import Uploads
from api.http.application import layer_of
from api.load_settings import load_settings
from api.postgres.database import Database, open_database
from api.serving import freeze_garbage_collector, open_listeners
from api.targets import DEVICES, TRACKED
from tracker import StoreError, Tracker
from tracker.postgres import Pool, open_pool

STORM_S: Final = 4.0
SPREAD_S: Final = 2.5
"""The service's default duration of a flush: half of the flush interval."""
_CONNECTIONS: Final = 10
_THROTTLE_S: Final = 60.0
_SLICE: Final = 250
_UPDATES: Final = {
    each.name: f"UPDATE {each.table} SET {each.column} = date_trunc('second', now()) "
    f"WHERE {each.key_column} = $1"
    for each in TRACKED
}
_INSERT: Final = """
INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy, altitude, bearing,
                       speed, provider, battery_level, network_type)
VALUES ($1, timestamptz 'epoch' + $2::bigint * interval '1 millisecond', $3, $4, $5, $6, $7, $8, $9,
        $10, $11)
ON CONFLICT (device_id, captured_at) DO NOTHING
"""


async def _update(pool: Pool, active: Sequence[tuple[str, object]]) -> None:
    async with pool.acquire() as connection:
        for target, key in active:
            await connection.execute(_UPDATES[target], key)


def awaited(pool: Pool) -> Middleware:
    """Update before the response is sent."""

    @web.middleware
    async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        await _update(pool, list(active_keys(request)))
        return response

    return track


def _background(
    pool: Pool, due: Callable[[list[tuple[str, object]]], list[tuple[str, object]]]
) -> Middleware:
    """Update in a background task, after the response."""
    tasks: set[asyncio.Task[None]] = set()

    @web.middleware
    async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if active := due(list(active_keys(request))):
            task = asyncio.create_task(_update(pool, active))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return response

    return track


def spawned(pool: Pool) -> Middleware:
    """Update in a background task."""
    return _background(pool, lambda active: active)


def throttled(pool: Pool) -> Middleware:
    """Update in a background task, unless the last update is less than a minute old."""
    last: dict[tuple[str, object], float] = {}

    def due(active: list[tuple[str, object]]) -> list[tuple[str, object]]:
        now = time.monotonic()
        chosen = [one for one in active if now - last.get(one, float("-inf")) >= _THROTTLE_S]
        last.update(dict.fromkeys(chosen, now))
        return chosen

    return _background(pool, due)


class Nowhere:
    """Accepts uploads and stores nothing."""

    async def store(self, device_id: str, reports: Sequence[Report], *, size_bytes: int) -> int:
        """Store nothing, and report no duplicates."""
        del device_id, reports, size_bytes
        return 0


class InsertPerRequest:
    """Stores each upload with a statement of its own.

    Args:
        database: where uploads are stored.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, device_id: str, reports: Sequence[Report], *, size_bytes: int) -> int:
        """Insert the one report of an upload."""
        del size_bytes
        (one,) = reports
        await self._database.fetch(
            _INSERT,
            *(device_id, one.timestamp, one.latitude, one.longitude, one.accuracy, one.altitude),
            *(one.bearing, one.speed, one.provider, one.battery_level, one.network_type),
        )
        return 0


_TRACKED: Final = ("ours", "unjournaled", "no-database", "insert")
_TRACKING: Final = {"awaited": awaited, "spawned": spawned, "throttled": throttled}


@asynccontextmanager
async def contender(name: str, settings: Settings) -> AsyncIterator[web.Application]:
    """Build the application of a contender."""
    dsn = settings.database.url
    uploads: Uploads | None = None
    async with (
        open_pool(dsn, connections=_CONNECTIONS, statement_cache_size=100) as pool,
        open_database(dsn, settings.database, connections=settings.database.pool_size) as database,
    ):
        if name == "no-database":
            uploads = Nowhere()
        elif name == "insert":
            uploads = InsertPerRequest(database)
        app = await create_app(settings, dsn, uploads=uploads)
        if name in _TRACKING:
            app.layers.insert(1, layer_of(_TRACKING[name](pool)))
        elif name == "ours":
            keys = [row[0] for row in await pool.fetch("SELECT device_id::text FROM devices")]
            _storm_on_signal(app[TRACKER], keys)
        yield app


def _storm_on_signal(tracker: Tracker, keys: list[str]) -> None:
    storms = []

    async def storm() -> None:
        touch, flush = tracker.buffers[DEVICES].touch, tracker.flushers[DEVICES].flush
        ends = time.monotonic() + STORM_S
        while time.monotonic() < ends:
            for start in range(0, len(keys), _SLICE):  # in small steps, as requests do
                for key in keys[start : start + _SLICE]:
                    touch(key)
                await asyncio.sleep(0)
            with suppress(StoreError):
                await flush(within_s=SPREAD_S)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: storms.append(loop.create_task(storm())))


async def _no_content(_request: web.Request) -> web.Response:
    return web.Response(status=204)


async def _ready(_request: web.Request) -> web.Response:
    return web.Response()


@asynccontextmanager
async def _bare(port: int) -> AsyncIterator[None]:
    """Serve what aiohttp does for a heartbeat without any of our code."""
    app = web.Application()
    app.router.add_post("/api/v1/devices/{device_id}/heartbeat", _no_content)
    app.router.add_get("/api/health/ready", _ready)  # for the harness
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    freeze_garbage_collector()
    try:
        yield
    finally:
        await runner.cleanup()


async def serve(name: str) -> None:
    """Serve a contender until SIGTERM.

    Args:
        name: the contender's name.
    """
    settings = load_settings()
    tracked = settings.tracker.model_copy(update={"enabled": name in _TRACKED})
    journal = settings.journal.model_copy(update={"enabled": name != "unjournaled"})
    settings = settings.model_copy(update={"tracker": tracked, "journal": journal})
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    if name == "bare":
        async with _bare(settings.server.port):
            await stopping.wait()
        return
    async with contender(name, settings) as application:
        freeze_garbage_collector()
        async with open_listeners(application, settings.server):
            await stopping.wait()


if __name__ == "__main__":
    with suppress(asyncpg.InterfaceError):  # a backlog that is cancelled at the end
        uvloop.run(serve(sys.argv[1]))
    os._exit(0)
