"""Presence in random histories: no false offline, none missed, and events that agree with it.

More of them: `PRESENCE_HISTORIES=200 pytest --timeout 0 tests/api/test_presence_model.py`; from
another first one with PRESENCE_SEED. A history that fails prints how to run it again.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import asyncpg
import pytest

from api.app.presence import _watch
from api.config import DatabaseSettings
from api.postgres.database import open_database
from api.presence.statements import SILENCE
from tests.support.presence_history import VIRTUAL_TIME, History
from tests.support.presence_process import Unreliable

HISTORIES = int(os.environ.get("PRESENCE_HISTORIES", "2"))
SEED = int(os.environ.get("PRESENCE_SEED", "1"))
STEPS = 60


@pytest.fixture
async def history(dsn, db) -> AsyncIterator[Callable[[int], History]]:
    """Make histories in a database with a virtual clock, by their seeds."""
    await db.execute(VIRTUAL_TIME)
    name = urlsplit(dsn).path.lstrip("/")
    await db.execute(f"ALTER DATABASE {name} SET search_path = shifted, pg_catalog, public")
    first, second = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        yield lambda seed: History(seed, database, first, second)
    await first.close()
    await second.close()


async def test_presence_equals_the_model_in_any_history(history):
    """Two processes that crash at any statement, outages, clocks that jump, late commits."""
    for seed in range(SEED, SEED + HISTORIES):
        try:
            await history(seed).run(STEPS)
        except AssertionError as error:
            raise AssertionError(f"PRESENCE_SEED={seed} PRESENCE_HISTORIES=1") from error


async def test_an_outage_before_a_touch_does_not_delay_the_next_offline(history):
    """The touch is pending when its row is read: the row alone would be due an hour later."""
    one = history(1)
    await one.begin(1)
    await one.live(3)
    await one.outage(3600)
    await one.pend()
    await one.live(30)  # in which the row by itself is due
    await one.flush()
    await one.live(60)
    assert one.offline == 1
    await one.end()


async def test_a_clock_that_is_set_back_delays_no_offline(history):
    """It looked like an outage of an hour, which is still to come now: timers are set again."""
    one = history(1)
    await one.begin(1)
    await one.live(3)
    await one.outage(3600)
    await one.live(3)
    await one.set_back(3600)
    await one.live(40)
    assert one.offline == 1
    await one.end()


async def test_a_device_that_is_seen_after_its_row_was_read_is_not_offline(history, monkeypatch):
    """The statement that would store that reads the row again."""
    one = history(1)
    await one.begin(1)
    fetch, touches = Unreliable.fetch, []

    async def touch_first(database, statement, *arguments, **options):
        if statement == SILENCE:
            touches.append(await one.pend())
            await one.flush()
        return await fetch(database, statement, *arguments, **options)

    monkeypatch.setattr(Unreliable, "fetch", touch_first)
    await one.live(40)
    assert touches
    await one.end()
    assert one.offline == 0


async def test_no_device_is_watched_before_events_are_followed(history):
    """Else a device that comes online after all were read, and before, would never be watched."""
    one = history(1)
    await one.begin(1)
    (process, _) = one._processes
    process.clock.set(one._now, asked_at=0)
    watching = asyncio.create_task(_watch(process.watcher, process.feed))
    for _ in range(10):
        await asyncio.sleep(0)
    assert process.database.asked == 0
    await process.feed.run_once()
    async with asyncio.timeout(30):
        while not process.watcher.timers:
            await asyncio.sleep(0.01)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
