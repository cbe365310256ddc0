"""The library as applications use it: its public names, its options, its start and stop."""

import asyncio

import asyncpg
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from structlog.testing import capture_logs

from benchmarks.harness.metrics import parse_metrics
from tests.support.sample_table import AT, THINGS, locking, seen, when
from tracker import (
    FlushError,
    Target,
    Tracker,
    TrackerCollector,
)


def test_touches_without_a_running_tracker_are_logged_once():
    """Without `lifespan` nothing is written; the touches are kept until it runs."""
    tracker = Tracker([THINGS], dsn="postgresql://never.asked/for")
    with capture_logs() as logs:
        for key in (1, 2):
            tracker.touch("things", key)
    assert logs == [
        {
            "event": "tracker.not_running",
            "hint": "app.cleanup_ctx.append(tracker.lifespan)",
            "log_level": "error",
        }
    ]
    assert len(tracker.buffers["things"]) == 2


async def test_a_running_tracker_logs_nothing(dsn, db, things):
    """On a table that is as it should be, neither at the first touch nor at the flush."""
    await db.execute("ALTER TABLE things SET (fillfactor = 50)")
    with capture_logs() as logs:
        async with Tracker([THINGS], dsn=dsn).running() as tracker:
            tracker.touch("things", 1)
    assert logs == []


async def test_several_targets_in_one_tracker(dsn, db):
    """Tables with keys of different types are kept up to date side by side."""
    await db.execute(
        "CREATE TABLE users (id integer PRIMARY KEY, active_at timestamptz);"
        "CREATE TABLE sessions (token text PRIMARY KEY, used_at timestamptz);"
        "INSERT INTO users VALUES (1), (2); INSERT INTO sessions VALUES ('a'), ('b')"
    )
    targets = [
        Target(
            name="users", table="users", key_column="id", column="active_at", key_type="integer"
        ),
        Target(
            name="sessions",
            table="public.sessions",
            key_column="token",
            column="used_at",
            key_type="text",
            resolution_s=60,
        ),
    ]
    tracker = Tracker(targets, dsn=dsn)
    tracker.touch("users", "1", at=AT)  # before the start: kept
    async with tracker.running():
        tracker.touch("sessions", "b", at=AT)
        await tracker.flush()
        assert await db.fetchval("SELECT active_at FROM users WHERE id = 1") == when(AT)
        used_at = await db.fetchval("SELECT used_at FROM sessions WHERE token = 'b'")
        assert used_at == when(AT - AT % 60)


async def test_a_tracker_borrows_from_a_pool_it_is_given_and_leaves_it_open(dsn, things):
    """An application's own pool serves, and is still the application's afterwards."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        tracker = Tracker([THINGS], pool=pool)
        async with tracker.running():
            for turn in range(10):  # past the point at which Postgres may switch to generic plans
                tracker.touch("things", 1, at=AT + turn)
                await tracker.flush()
            assert tracker.connections.open == 0  # none of its own
        assert await pool.fetchval("SELECT 1") == 1
    assert await seen(things) == {1: when(AT + 9)}


async def test_leaving_the_block_writes_what_is_pending(dsn, things):
    """An ordinary shutdown loses nothing."""
    tracker = Tracker([THINGS], dsn=dsn)
    async with tracker.running():
        tracker.touch("things", 3, at=AT)
    assert await seen(things) == {3: when(AT)}


async def test_shutdown_by_an_exception_writes_what_is_pending(dsn, things):
    """Neither does one by an error."""
    tracker = Tracker([THINGS], dsn=dsn)
    with pytest.raises(ZeroDivisionError):
        async with tracker.running():
            tracker.touch("things", 3, at=AT)
            raise ZeroDivisionError
    assert await seen(things) == {3: when(AT)}


async def test_shutdown_by_cancellation_writes_what_is_pending(dsn, things):
    """Nor one by cancellation, even when it comes again while the last flush is under way."""
    tracker = Tracker([THINGS], dsn=dsn)
    started = asyncio.Event()

    async def serve() -> None:
        async with tracker.running():
            tracker.touch("things", 3, at=AT)
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await started.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert await seen(things) == {3: when(AT)}


async def test_flush_says_what_could_not_be_written(dsn, things):
    """flush() raises when something is left, names it, and loses nothing."""
    tracker = Tracker([THINGS], dsn=dsn, lock_timeout_s=0.05)
    async with tracker.running():
        tracker.touch("things", 1, at=AT)
        async with locking(dsn, "SELECT FROM things WHERE id = 1 FOR UPDATE"):
            with pytest.raises(FlushError, match="things: the rows of 1 keys are locked"):
                await tracker.flush()
        async with locking(dsn, "LOCK TABLE things"):
            with pytest.raises(FlushError, match=r"things: .*lock timeout"):
                await tracker.flush()
        await tracker.flush()
    assert await seen(things) == {1: when(AT)}


async def test_flush_before_the_start_is_an_error():
    """A flush that could not do anything does not pretend to."""
    with pytest.raises(RuntimeError, match="not running"):
        await Tracker([THINGS], dsn="postgresql://nowhere").flush()


async def test_shutdown_keeps_its_deadline_with_no_server():
    """With the server away, the end comes at the deadline and the loss is counted."""
    tracker = Tracker([THINGS], dsn="postgresql://postgres@127.0.0.1:1/x", shutdown_deadline_s=0.1)
    async with tracker.running():
        tracker.touch("things", 1)
    assert tracker.buffers["things"].dropped["shutdown"] == 1


async def test_metrics_of_a_tracker(dsn, things):
    """Every promised metric is there, and the books balance."""
    tracker = Tracker([THINGS], dsn=dsn)
    registry = CollectorRegistry()
    registry.register(TrackerCollector(tracker))
    async with tracker.running():
        for key in (1, 1, 1, 2, 99):
            tracker.touch("things", key)
        tracker.touch("things", "no key")
        await tracker.flush()
        metrics = parse_metrics(generate_latest(registry).decode())

    def total(name: str, **labels: str) -> float:
        return metrics.total(name, target="things", **labels)

    assert total("activity_touches_total") == 6
    assert total("activity_touches_coalesced_total") == 2
    assert total("activity_touches_dropped_total", reason="invalid") == 1
    assert total("activity_buffer_keys") == 0
    assert total("activity_buffer_capacity_keys") == 1_000_000
    assert total("activity_lag_seconds") == 0
    assert total("activity_flushes_total", outcome="success") == 1
    assert total("activity_flush_keys_total", outcome="written") == 2
    assert total("activity_flush_keys_total", outcome="missing") == 1
    assert total("activity_flush_duration_seconds_count") == 1
    assert total("activity_flush_chunk_rows_bucket", le="10.0") == 1
    assert total("activity_flush_chunk_rows_sum") == 3
    assert total("activity_flush_consecutive_failures") == 0
    assert total("activity_last_flush_success_timestamp_seconds") > AT
    assert metrics.balance("things") == 0


async def test_it_runs_with_an_application(aiohttp_client, dsn, things):
    """The tracker starts and stops with an aiohttp application."""
    tracker = Tracker([THINGS], dsn=dsn)
    app = web.Application()
    app.cleanup_ctx.append(tracker.lifespan)
    await aiohttp_client(app)
    tracker.touch("things", 5, at=AT)
    await app.shutdown()
    await app.cleanup()
    assert await seen(things) == {5: when(AT)}
