"""Runs the service in a process of its own for the page's tests, and fills its tables."""

import asyncio
import random
import string
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from api.access.keys import hash_key
from api.config import PREFIX
from benchmarks.harness.metrics import scrape
from benchmarks.harness.service import running_service
from tests.support.presence import LISTENED, PATIENCE_S
from tests.support.raw_client import free_port

IDLE_AFTER_S, OFFLINE_AFTER_S = 200, 2000
"""The service's thresholds; not the defaults, so that a page with its own thresholds fails."""
IDLE_S, OFFLINE_S = 300.0, 3000.0
"""Ages that are well beyond each threshold."""
HOSTILE_NAMES = {
    "<img src=x onerror=alert(1)>": 0,
    "\u202egnihton ekil": IDLE_S,
    "W" * 50: OFFLINE_S,
    "{{7*7}}${7*7}</script>": None,
    "\u200b\u2066\u200b": None,
    "\u2800\u3164": None,
    "Z" + "\u0351\u0352\u0353\u0354" * 12: 0,
    "\u0645\u0631\u0643\u0628\u0629 \u0667": 0,
}
"""Names that try to inject markup, reverse text, be invisible or be too wide, with ages."""


class Host:
    """A service that can be stopped and started again on its port.

    Args:
        dsn: its database.
        db: a connection to it.
        folder: where its log and its journal go.
    """

    def __init__(self, dsn: str, db: asyncpg.Connection, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.db = db
        self._folder = folder
        self._settings = {
            f"{PREFIX}DATABASE__URL": dsn,
            f"{PREFIX}SERVER__PORT": self.url.rpartition(":")[2],
            f"{PREFIX}JOURNAL__DIR": str(folder / "journal"),
            f"{PREFIX}AUTH__KNOWN_FILE": str(folder / "known"),
            f"{PREFIX}PRESENCE__IDLE_AFTER_S": str(IDLE_AFTER_S),
            f"{PREFIX}PRESENCE__OFFLINE_AFTER_S": str(OFFLINE_AFTER_S),
        }
        self._running = AsyncExitStack()

    async def start(self) -> None:
        await self._running.enter_async_context(
            running_service(self.url, self._settings, self._folder / "service.log")
        )

    async def stop(self) -> None:
        await self._running.aclose()

    async def streams(self) -> float:
        """Return how many live streams are open."""
        async with aiohttp.ClientSession() as session:
            return (await scrape(session, self.url)).total("live_streams")

    async def make_key(self, group_id: str | None = None) -> str:
        """Create an API key without the service's generator: the browser's driver may log it."""
        key = "ak_" + "".join(random.choices(string.ascii_letters, k=43))
        await self.db.execute(
            "INSERT INTO api_keys (key_hash, prefix, name, group_id) VALUES ($1, $2, 'page', $3)",
            *(hash_key(key), key[:10], group_id),
        )
        return key

    async def revoke(self, key: str) -> None:
        await self.db.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE key_hash = $1", hash_key(key)
        )

    async def add(self, group_id: str, ages_s: Mapping[str, float | None]) -> dict[str, str]:
        """Create devices by name with the age of their last activity; return their ids by name.

        Those that are offline are stored as such, so that no test waits until it is found.
        """
        ids = {name: str(uuid.uuid4()) for name in ages_s}
        await self.db.executemany(
            "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
            "VALUES ($1, $2, $3, 'android', now() - make_interval(secs => $4))",
            [(ids[name], name, group_id, age) for name, age in ages_s.items()],
        )
        await self.db.execute(
            "UPDATE devices SET is_online = false, "
            "presence_since = last_seen_at + make_interval(secs => $2) "
            "WHERE group_id = $1 AND last_seen_at <= now() - make_interval(secs => $2)",
            *(group_id, OFFLINE_AFTER_S),
        )
        return ids

    async def until_events(self, group_id: str, count: int) -> None:
        """Wait until so many events of a group are in the log."""
        stored = "SELECT count(*) FROM device_events WHERE group_id = $1"
        async with asyncio.timeout(PATIENCE_S):
            while await self.db.fetchval(stored, group_id) < count:
                await asyncio.sleep(0.05)

    async def move(self, device_id: str, *places: tuple[float, float]) -> None:
        """Store a device's positions, one second apart; the last one is captured now."""
        now = int(time.time())
        await self.db.executemany(
            "INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy) "
            "VALUES ($1, to_timestamp($2::float8), $3, $4, 12)",
            [(device_id, now - len(places) + i, *place) for i, place in enumerate(places, 1)],
        )

    async def post(self, key: str, path: str, **body: Any) -> None:
        headers = {"X-API-Key": key}
        async with (
            aiohttp.ClientSession(self.url, headers=headers) as session,
            session.post(path, json=body or None) as response,
        ):
            assert response.ok, await response.text()

    async def heartbeat(self, key: str, device_id: str) -> None:
        await self.post(key, f"/api/v1/devices/{device_id}/heartbeat")


@asynccontextmanager
async def hosting(dsn: str, folder: Path) -> AsyncIterator[Host]:
    """Run the service while the block runs."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(LISTENED)
    host = Host(dsn, connection, folder)
    try:
        await host.start()
        yield host
    finally:
        await host.stop()
        await connection.close()
