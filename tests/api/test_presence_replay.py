"""An hour of real reports: the gaps in them are exactly the offline events, to the second."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from itertools import pairwise
from urllib.parse import urlsplit

import asyncpg
import pytest

from api.config import DatabaseSettings, TrackerSettings
from api.postgres.database import open_database
from api.targets import DEVICES, targets
from benchmarks.demo.sample_fleet import read_fleet
from tests.support.presence_history import LOG, VIRTUAL_TIME
from tests.support.presence_model import DEFAULT_S
from tests.support.presence_process import Process
from tracker import Tracker

ROUND_EVERY_S = 3
"""The service watches twice a second; this is enough for the gaps in the file."""
FLUSH_EVERY_S = 6
REGISTER = """
INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at)
VALUES ($1, 'Aircraft', 'aircraft', 'android', to_timestamp($2))
"""


@pytest.fixture
async def virtual(dsn, db) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with a virtual clock."""
    await db.execute(VIRTUAL_TIME)
    name = urlsplit(dsn).path.lstrip("/")
    await db.execute(f"ALTER DATABASE {name} SET search_path = shifted, pg_catalog, public")
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


def expected(seconds: list[int], end: int) -> list[tuple[str, int]]:
    """Return the events of a device that is seen in these seconds, from the file alone.

    A return has the latest second that is in the flush which writes it.
    """
    events = [("device.registered", seconds[0])]
    for seen, again in pairwise([*seconds, None]):
        if (again or end) - seen > DEFAULT_S:
            events.append(("device.offline", seen + DEFAULT_S))
            if again is not None:
                flushed = -(-again // FLUSH_EVERY_S) * FLUSH_EVERY_S
                events.append(("device.online", max(one for one in seconds if one <= flushed)))
    return events


def arrivals() -> dict[int, set[str]]:
    """Return which aircraft of the sample fleet report in each second."""
    arriving: dict[int, set[str]] = defaultdict(set)
    for report in read_fleet()[1]:
        arriving[report["timestamp"] // 1000].add(report["device_id"])
    return arriving


async def replay(
    dsn: str, virtual: asyncpg.Connection, arriving: dict[int, set[str]], end: int
) -> None:
    """Replay reports in virtual time, with a real buffer, flushes and a process that watches."""
    start = now = min(arriving)
    options = {"dsn": dsn, "flush_interval_s": 86_400, "clock": lambda: now}
    tracker = Tracker(targets(TrackerSettings()), **options)

    async def let_arrive(process: Process, new: set[str], known: set[str]) -> None:
        if new or now % ROUND_EVERY_S == 0:
            await virtual.execute("UPDATE shifted.clock SET at = to_timestamp($1)", now)
        for device_id in new:
            await virtual.execute(REGISTER, device_id, now)
            process.watcher.look_at_soon(device_id)
        for device_id in known:
            tracker.touch(DEVICES, device_id)

    async with (
        open_database(dsn, DatabaseSettings(), connections=1) as database,
        tracker.running(),
    ):
        process = Process(database, lambda: tracker.pending(DEVICES), lambda: now - start)
        met: set[str] = set()
        for now in range(start, end + 1):
            here = arriving.get(now, set())
            await let_arrive(process, here - met, here & met)
            met |= here
            if now % FLUSH_EVERY_S == 0:
                await tracker.flush()
                await process.feed.run_once()
            if now % ROUND_EVERY_S == 0:
                process.clock.set(now, asked_at=now - start)
                await process.watcher.run_once()
        await process.feed.run_once()


async def test_the_gaps_of_the_sample_fleet_are_its_offline_events(dsn, virtual):
    """Of each aircraft; what is expected is computed from the file."""
    arriving = arrivals()
    seen: dict[str, list[int]] = defaultdict(list)
    for second in sorted(arriving):
        for device_id in arriving[second]:
            seen[device_id].append(second)
    end = max(arriving) + 2 * DEFAULT_S
    await replay(dsn, virtual, arriving, end)

    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for _, device_id, _, kind, at in await virtual.fetch(LOG):
        found[device_id].append((kind, at))
    assert found == {device_id: expected(seconds, end) for device_id, seconds in seen.items()}
    kinds = Counter(kind for events in found.values() for kind, _ in events)
    assert kinds["device.registered"] == len(seen)
    assert kinds["device.offline"] - kinds["device.online"] == len(seen)  # in the end all are
    assert kinds["device.online"] > 0
