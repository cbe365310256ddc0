"""The devices of the fleet are counted by one process for all, at a bounded cost."""

import asyncio

import pytest

from api.config import DatabaseSettings
from api.fleet.presence import PRESENCES, PresenceRule
from api.postgres.database import open_database
from api.presence.counts import DeviceCounts
from tests.support.presence import LISTENED, PATIENCE_S
from tests.support.service import running
from tests.support.status_client import shown, watching

FLEET = """
INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at)
SELECT gen_random_uuid(), 'Phone', 'g' || n % 3, 'android',
       CASE WHEN n > 4 THEN date_trunc('second', now())
            - make_interval(secs => CASE WHEN n > 9 THEN 5 ELSE 300 END) END
FROM generate_series(1, 25) AS n;
UPDATE devices SET is_online = false, presence_since = now()
WHERE device_id IN (SELECT device_id FROM devices
                    WHERE last_seen_at > now() - interval '1 min' LIMIT 7);
INSERT INTO devices (device_id, display_name, group_id, platform, is_active)
VALUES (gen_random_uuid(), 'gone', 'g', 'android', false)
"""
"""4 never seen, 5 idle, 7 offline, 9 online, and one that was deactivated."""
COUNTED = {"online": 9, "idle": 5, "offline": 7, "never": 4}


@pytest.fixture
async def processes(dsn, db):
    """Two processes that count the same fleet."""
    await db.execute(FLEET)
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        yield DeviceCounts(database, PresenceRule()), DeviceCounts(database, PresenceRule())


async def test_a_count_that_is_not_due_is_shared(processes, db):
    """A second process shows the numbers of the first, and counts only when that is due."""
    first, second = processes
    await first.refresh()
    assert first.counts == COUNTED
    await db.execute("UPDATE devices SET is_active = false WHERE last_seen_at IS NULL")
    await second.refresh()
    assert second.counts == COUNTED
    rest = "SELECT extract(epoch FROM due_at - counted_at) FROM device_counts"
    assert 15 <= await db.fetchval(rest) <= 300
    await db.execute("UPDATE device_counts SET due_at = now()")
    await second.refresh()
    assert second.counts == {**COUNTED, "never": 0}


async def test_a_count_delays_no_other_process(processes, db):
    """While one process counts, the others read the numbers before."""
    first, second = processes
    await first.refresh()
    await db.execute("UPDATE device_counts SET due_at = now(); DELETE FROM devices")
    async with db.transaction():
        await db.execute("SELECT FROM device_counts FOR UPDATE")
        async with asyncio.timeout(PATIENCE_S):
            await second.refresh()
    assert second.counts == COUNTED


async def test_old_numbers_are_not_shown(processes, db):
    """As after the database was restored, or while counts fail; a due time far ahead is wrong."""
    first, _ = processes
    await first.refresh()
    await db.execute("UPDATE device_counts SET counted_at = now() - interval '11 min'")
    await first.refresh()
    assert first.counts == {}
    await db.execute("UPDATE device_counts SET due_at = now() + interval '1 day'")
    await first.refresh()
    assert first.counts == COUNTED


async def test_metrics_and_status_show_the_fleet_and_the_time_without_a_listener(dsn, db):
    """Of the last 24 hours; the gap may have been found by another process."""
    await db.execute(FLEET + ";" + LISTENED)
    await db.execute(
        "INSERT INTO listening_gaps VALUES"
        " ('-infinity', now() - interval '3 days'),"
        " (now() - interval '25 h', now() - interval '23 h'),"
        " (now() - interval '2 h', now() - interval '90 min')"
    )
    async with running(dsn) as service:
        async with asyncio.timeout(PATIENCE_S):
            while not (await service.metrics()).total("activity_devices"):
                await asyncio.sleep(0.02)
        metrics = await service.metrics()
        assert {
            one: metrics.total("activity_devices", presence=one) for one in PRESENCES
        } == COUNTED
        assert metrics.total("presence_recent_gap_seconds") == pytest.approx(5400, abs=60)
        async with watching(service.client.make_url("")) as sample_again:
            state = await sample_again()
    assert state.figures.fleet.devices == COUNTED
    lines = " ".join(shown(state).split())
    assert "9 online, 5 idle, 7 offline, 4 never; no process listened for 1 h" in lines
