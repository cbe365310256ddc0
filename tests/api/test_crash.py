"""The service is killed with -9 under load, again and again: no touch that it answered is lost."""

import asyncio
import os
import random
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
import asyncpg
import pytest

from api.access.keys import create_key
from api.config import DatabaseSettings
from api.postgres.database import open_database
from benchmarks.harness.metrics import parse_metrics
from benchmarks.harness.service import running_service
from tests.support.command_line import free_port
from tests.support.sample_table import locking

ROUNDS = 12
DEVICES = 50
"""In each round others, so that no later touch hides one that was lost."""
CLIENTS = 12
SKEW_S = 0.05
"""The service goes by the database's clock, which may be milliseconds behind that of this test."""


@dataclass
class Claims:
    """What the table must say in the end: for each key the earliest and the latest second."""

    least: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    answered: int = 0

    def sent(self, key: str) -> None:
        """A touch may be of any time from now on, whether it is answered or not."""
        self.most[key] = 1 << 40

    def ended(self, key: str) -> None:
        self.most[key] = int(time.time())

    def acknowledged(self, key: str, since: float) -> None:
        self.answered += 1
        self.least[key] = max(self.least.get(key, 0), int(since - SKEW_S))


async def beat(url: str, key: str, devices: list[str], claims: Claims) -> None:
    """Send heartbeats one after the other until the service is gone."""
    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session:
        while True:
            device_id = random.choice(devices)
            since = time.time()
            for one in (device_id, key):
                claims.sent(one)
            try:
                path = f"{url}/api/v1/devices/{device_id}/heartbeat"
                async with session.post(path) as response:
                    assert response.status == 204
            except (aiohttp.ClientError, ConnectionError):
                return
            else:
                for one in (device_id, key):
                    claims.acknowledged(one, since)
            finally:
                for one in (device_id, key):
                    claims.ended(one)


async def killed_while_starting(environment: dict[str, str]) -> None:
    """Kill a successor while it starts: before, while or after it takes over what is there."""
    successor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api", "serve"),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
    )
    ended = asyncio.create_task(successor.wait())
    await asyncio.wait({ended}, timeout=random.uniform(0.3, 1.5))
    successor.kill()
    assert await ended == -signal.SIGKILL


async def at_rest(url: str) -> None:
    """Wait until nothing is pending."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/metrics") as response:
                metrics = parse_metrics(await response.text())
            if not metrics.total("activity_buffer_keys"):
                break
            await asyncio.sleep(0.05)
    for target in ("devices", "api_keys"):
        assert metrics.balance(target) == 0
        assert metrics.total("activity_touches_dropped_total", target=target) == 0
        assert metrics.total("activity_journal_degraded", target=target) == 0


@pytest.mark.timeout(400)
async def test_no_touch_that_was_answered_is_lost_to_kill_9(dsn, db, tmp_path):
    """Twelve times, at random moments, every other time with the tables locked against writes."""
    settings = DatabaseSettings()
    async with open_database(dsn, settings, connections=1) as database:
        keys = [await create_key(database, f"round {n}", None) for n in range(ROUNDS)]
    rows = await db.fetch(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), 'a phone', 'g1', 'android' FROM generate_series(1, $1) "
        "RETURNING device_id::text",
        ROUNDS * DEVICES,
    )
    devices = [row[0] for row in rows]
    ids = dict(zip(keys, await key_ids(db), strict=True))
    claims = Claims()
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "ACTIVITY__SERVER__PORT": url.rpartition(":")[2],
        "ACTIVITY__DATABASE__URL": dsn,
        "ACTIVITY__TRACKER__FLUSH_INTERVAL_S": "0.2",
        "ACTIVITY__TRACKER__BACKOFF_INITIAL_S": "0.1",
        "ACTIVITY__TRACKER__BACKOFF_MAX_S": "0.2",
        "ACTIVITY__JOURNAL__DIR": str(tmp_path / "journal"),
    }
    for number in range(ROUNDS):
        async with AsyncExitStack() as stack:
            log_file = tmp_path / f"{number}.log"
            process = await stack.enter_async_context(running_service(url, environment, log_file))
            if number % 2:
                lock = "LOCK TABLE devices, api_keys IN EXCLUSIVE MODE"
                await stack.enter_async_context(locking(dsn, lock))
            some = devices[number * DEVICES : (number + 1) * DEVICES]
            clients = [
                asyncio.create_task(beat(url, keys[number], some, claims)) for _ in range(CLIENTS)
            ]
            await asyncio.wait(clients, timeout=random.uniform(0.05, 0.8))
            process.kill()
            await process.wait()
            await asyncio.gather(*clients)
        if number % 3 == 0:
            await killed_while_starting(environment)
    async with running_service(url, environment, tmp_path / "last.log"):
        await at_rest(url)
    assert claims.answered > ROUNDS * CLIENTS
    stored = {row[0]: row[1] for row in await db.fetch(SEEN)}
    for key, least in claims.least.items():
        seen = stored[str(ids.get(key, key))]
        assert seen is not None
        assert least <= seen <= claims.most[key]
    assert list((tmp_path / "journal").iterdir()) == []


SEEN = """
SELECT device_id::text, extract(epoch FROM last_seen_at)::bigint FROM devices
UNION ALL SELECT id::text, extract(epoch FROM last_used_at)::bigint FROM api_keys
"""


async def key_ids(db: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await db.fetch("SELECT id FROM api_keys ORDER BY id")]
