"""Of several workers one polls for changes of API keys and devices, and the others ask it."""

import asyncio
import tempfile
from contextlib import asynccontextmanager

from api.access.device_feed import DeviceFeed
from api.access.directory import DeviceDirectory
from api.access.lookup import CachedLookup
from api.access.revocations import Revocations
from api.background import background
from api.config import AuthSettings, DatabaseSettings
from api.live.tracker_stats import TrackerStats
from api.postgres.clock import DatabaseClock
from api.postgres.database import open_database
from api.siblings import Alone
from api.workers.answers import SiblingAnswers
from api.workers.channel import Channel, no_answer
from api.workers.run_dir import serve_channels
from api.workers.siblings import WorkerSiblings
from tracker import StoreUnavailable

POLL_S = 0.05
DEVICE = """
INSERT INTO devices (device_id, display_name, group_id, platform)
VALUES (gen_random_uuid(), 'Phone', 'family', 'android') RETURNING device_id::text
"""
CHANGE = "UPDATE key_revision SET revision = revision + 1"


class Unreachable:
    """A database that is not there."""

    async def fetch(self, *_arguments, **_options):
        raise StoreUnavailable("no server listens")


class Counting:
    """A database that counts what is asked."""

    def __init__(self, database):
        self.asked = 0
        self._database = database

    async def fetch(self, *arguments, **options):
        self.asked += 1
        return await self._database.fetch(*arguments, **options)


async def none(_keys):
    return {}


def polling(database, clock, siblings):
    """Return a poll, and the cache that it invalidates."""
    keys = CachedLookup("keys", none, AuthSettings())
    return Revocations(database, keys, clock, siblings, every_s=POLL_S), keys


def feed_of(database, siblings):
    """Return what reads devices, and the directory that it keeps current."""
    directory = DeviceDirectory(10)
    feed = DeviceFeed(
        *(database, directory, siblings), every_s=POLL_S, stale_limit_s=60, restore=no_file
    )
    return feed, directory


async def no_file():
    return None


@asynccontextmanager
async def two_workers(database):
    """The second worker has the first one as its sibling."""
    revocations, _ = polling(database, DatabaseClock(), Alone())
    feed, _ = feed_of(database, Alone())
    siblings = WorkerSiblings(Channel(no_answer))
    siblings.worker = 2
    stats = TrackerStats(None, {})
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/1.sock"
        polls = {
            "revision": lambda: revocations.polled_here,
            "device_revision": lambda: feed.polled_here,
        }
        answers = SiblingAnswers(stats, polls)
        server = await serve_channels(path, lambda: Channel(answers))
        await siblings.update({path: 1}, {})
        async with background(revocations.poll(), "first"), background(feed.run(), "devices"):
            yield siblings
        await siblings.update({}, {})
        siblings.close()
        server.close()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_worker_gets_changed_keys_from_the_one_that_polls(dsn, db):
    """And of the database's time. It polls itself as soon as no sibling responds."""
    async with (
        open_database(dsn, DatabaseSettings(), connections=1) as database,
        two_workers(database) as siblings,
    ):
        await until_first_poll(siblings)
        clock = DatabaseClock()
        second, keys = polling(Unreachable(), clock, siblings)
        async with background(second.poll(), "second"):
            await until(lambda: keys.generation == 1)
            await db.execute(CHANGE)
            await until(lambda: keys.generation == 2)
            assert second.error is None
            now = await db.fetchval("SELECT extract(epoch FROM now())::float8")
            assert abs(clock.now() - now) < 30
            await siblings.update({}, {})  # the first worker is gone
            await until(lambda: second.error is not None)


async def test_a_worker_reads_changed_devices_when_the_one_that_polls_has_found_some(dsn, db):
    """And not before, however often that has polled. Without a response it polls itself."""
    async with (
        open_database(dsn, DatabaseSettings(), connections=1) as database,
        two_workers(database) as siblings,
    ):
        counting = Counting(database)
        feed, directory = feed_of(counting, siblings)
        async with background(feed.run(), "second"):
            async with asyncio.timeout(30):
                while True:  # until nothing is asked while the first one polls ten times
                    asked, current_at = counting.asked, feed.current_at
                    await until(lambda: feed.current_at > current_at + 10 * POLL_S)  # noqa: B023
                    if counting.asked == asked:
                        break
            device_id = await db.fetchval(DEVICE)
            await until(lambda: directory.group_of(device_id) == "family")
            assert counting.asked > asked
            asked = counting.asked
            await siblings.update({}, {})  # the first worker is gone
            await until(lambda: counting.asked > asked + 5)


async def until_first_poll(siblings):
    async with asyncio.timeout(30):
        while await siblings.revision() is None:
            await asyncio.sleep(0.01)


async def test_an_old_poll_is_not_used(dsn):
    """Otherwise a worker would not notice that the one that polls for it has no database."""
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        revocations, _ = polling(database, DatabaseClock(), Alone())
        async with background(revocations.poll(), "first"):
            await until(lambda: revocations.polled_here is not None)
        await until(lambda: revocations.polled_here is None)


async def test_the_first_worker_queries_no_sibling(dsn):
    """Two that ask each other would never poll."""
    async with (
        open_database(dsn, DatabaseSettings(), connections=1) as database,
        two_workers(database) as siblings,
    ):
        await until_first_poll(siblings)
        siblings.worker = 1
        assert await siblings.revision() is None
        assert await siblings.device_revision() is None
