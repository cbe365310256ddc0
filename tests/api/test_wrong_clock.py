"""A host whose clock is wrong, beside a database whose clock is right."""

import time
from functools import partial

import pytest
from structlog.testing import capture_logs

from api.postgres.clock import DatabaseClock
from tests.support.service import running
from tests.support.stores import Clock


@pytest.fixture(params=[-1200.0, 1200.0], ids=["behind", "ahead"])
def offset_s(request, monkeypatch) -> float:
    """How far the host's clock is ahead."""
    wall = time.time
    clock = partial(DatabaseClock, wall=lambda: wall() + request.param)
    monkeypatch.setattr("api.app.application.DatabaseClock", clock)
    return request.param


async def test_touches_go_by_the_databases_clock(dsn, db, offset_s):
    """A device that has just sent a heartbeat is seen now, in the listing and in the table."""
    async with running(dsn) as service:
        device_id = await service.register()
        await db.execute("UPDATE devices SET last_seen_at = now() - interval '1 h'")
        await service.clock_is_known()
        before = await db.fetchval("SELECT floor(extract(epoch FROM now()))::int")
        assert (await service.heartbeat(device_id)).status == 204
        assert len(await service.listing("family&seen_within=1m")) == 1
        assert await service.listing("family&silent_for=15m") == []
        await service.tracker.flush()
        seen, now = await db.fetchrow(
            "SELECT extract(epoch FROM last_seen_at)::int, extract(epoch FROM now())::int "
            "FROM devices"
        )
        assert before <= seen <= now
        metrics = await service.metrics()
        assert metrics.total("database_clock_offset_seconds") == pytest.approx(offset_s, abs=30)


async def test_an_offset_above_a_minute_is_logged_and_a_smaller_one_is_not():
    """Once in a while, however often the database is asked."""
    ours = Clock(1000.0)
    for ahead_s, logged in ((59.0, []), (61.0, [61]), (-300.0, [-300])):
        clock = DatabaseClock(ours, lambda ahead_s=ahead_s: 5000.0 + ahead_s)
        with capture_logs() as logs:
            for _ in range(100):
                clock.set(5000.0, asked_at=ours.now)
        assert [line["ahead_s"] for line in logs if line["event"] == "clock.offset"] == logged


def test_before_the_database_was_asked_the_hosts_clock_serves():
    """And after that it does not matter any more, even if it jumps."""
    ours, wall = Clock(1000.0), Clock(2000.0)
    clock = DatabaseClock(ours, wall)
    assert (clock.now_or_host(), clock.offset_s()) == (2000.0, 0.0)
    clock.set(9000.0, asked_at=1000.0)
    wall.now, ours.now = 0.0, 1001.0
    assert (clock.now_or_host(), clock.offset_s()) == (9001.0, -9001.0)


def test_the_clock_of_a_host_that_agrees_is_used():
    """What the database says is late by up to as long as the query took, and jumps with each."""
    ours, wall = Clock(1000.0), Clock(5001.0)
    clock = DatabaseClock(ours, wall)
    clock.set(5000.0, asked_at=1000.0)
    assert clock.now_or_host() == 5001.0
    clock.set(5000.0, asked_at=990.0)  # a slow query: 5000 to 5010
    assert clock.now_or_host() == 5001.0
    wall.now = 5030.0
    assert clock.now_or_host() == 5010.0


def test_a_key_expires_by_the_database_and_before_that_by_the_host():
    """A process that starts in an outage does not accept an expired key."""
    ours, wall = Clock(1000.0), Clock(5000.0)
    clock = DatabaseClock(ours, wall)
    assert (clock.has_passed(4999.0), clock.has_passed(5001.0)) == (True, False)
    clock.set(4000.0, asked_at=1000.0)
    assert (clock.has_passed(3999.0), clock.has_passed(4001.0)) == (True, False)
    assert not clock.has_passed(float("inf"))
