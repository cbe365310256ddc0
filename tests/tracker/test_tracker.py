"""The library as others use it: its surface, its options, its life."""

import asyncio
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from build import ProjectBuilder
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from structlog.testing import capture_logs

import tracker as library
from benchmarks.harness.metrics import parse_metrics
from tests.support.sample_table import AT, THINGS, locking, seen, when
from tracker import (
    ConfigurationError,
    FlushError,
    Target,
    Tracker,
    TrackerCollector,
)


def test_touches_without_a_running_tracker_are_logged_once():
    """Who forgets the lifespan would wonder for long; the touches are kept until it comes."""
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


def test_the_old_name_of_rejected_rows_still_works_with_a_warning():
    """`RowRefused` is the same class for one more release; the warning names the new one."""
    with pytest.warns(DeprecationWarning, match="RowRefused is now called RowRejected"):
        from tracker import RowRefused  # noqa: PLC0415 - the import is what warns
    assert RowRefused is library.RowRejected


@pytest.mark.parametrize(
    ("old", "new"),
    [("backoff_first_s", "backoff_initial_s"), ("backoff_most_s", "backoff_max_s")],
)
def test_old_names_of_backoff_arguments_still_work_with_a_warning(old, new):
    """The value takes effect; the warning names the new argument."""
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}") as caught:
        tracker = Tracker([THINGS], dsn="postgresql://x", **{old: 7.5})
    assert getattr(tracker._options, new) == 7.5
    assert caught[0].filename == __file__


def test_a_name_that_never_was_is_no_attribute():
    """A misspelled import fails as in every module."""
    with pytest.raises(AttributeError, match="'tracker' has no attribute 'RowIgnored'"):
        _ = library.RowIgnored


def test_the_public_surface_is_what_it_is():
    """A name that comes or goes is a decision, not an accident."""
    assert sorted(library.__all__) == [
        "ConfigurationError",
        "FlushError",
        "Key",
        "KeyType",
        "MIN_JOURNAL_BYTES",
        "RowRejected",
        "StoreContended",
        "StoreError",
        "StoreMisconfigured",
        "StoreTimeout",
        "StoreUnavailable",
        "Target",
        "Tracker",
        "TrackerCollector",
        "TrackerError",
        "View",
        "activity_middleware",
        "exporting_metrics",
        "keep_touching",
        "no_touches",
        "touch_prepared",
        "touch_request",
    ]
    assert all(hasattr(library, name) for name in library.__all__)


def test_aiohttp_is_imported_only_for_the_middleware():
    """A worker or a command that serves no requests starts without it."""
    code = (
        "import sys, tracker; before = 'aiohttp' in sys.modules; "
        "tracker.activity_middleware; print(before, 'aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


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


@pytest.mark.parametrize("dsn", ["", "garbage", "host=db dbname=x", None])
def test_a_dsn_that_is_none_is_refused(dsn):
    """At once, not by the first flush."""
    with pytest.raises(ConfigurationError, match="dsn"):
        Tracker([THINGS], dsn=dsn)


async def test_shutdown_keeps_its_deadline_with_no_server():
    """With the server away, the end comes at the deadline and the loss is counted."""
    tracker = Tracker([THINGS], dsn="postgresql://postgres@127.0.0.1:1/x", shutdown_deadline_s=0.1)
    async with tracker.running():
        tracker.touch("things", 1)
    assert tracker.buffers["things"].dropped["shutdown"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_type": "float"}, "key_type 'float' is none of"),
        ({"table": "a.b.c"}, "no \\[schema.\\]table"),
        ({"table": ""}, "no identifier"),
        ({"column": "x" * 64}, "no identifier"),
        ({"key_column": "a\0"}, "no identifier"),
        ({"table": 'devices"; DROP TABLE x; --'}, "no identifier"),
        ({"table": "devices; DROP TABLE x; --"}, "no identifier"),
        ({"table": 'app".devices'}, "no identifier"),
        ({"table": "app."}, "no identifier"),
        ({"table": ".devices"}, "no identifier"),
        ({"table": "a\nb"}, "no identifier"),
        ({"table": "a\u202eb"}, "no identifier"),
        ({"table": "a\ud800"}, "no identifier"),
        ({"table": "\u00e4" * 32}, "no identifier"),
        ({"table": "x" * 1_000_000}, "no identifier"),
        ({"column": 'seen_at = now(), "x"'}, "no identifier"),
        ({"key_column": "id' OR 'a' = 'a"}, "no identifier"),
        ({"key_column": "\\"}, "no identifier"),
        ({"resolution_s": 0}, "resolution_s"),
        ({"capacity_keys": 0}, "capacity_keys"),
        ({"high_water_keys": 2_000_000}, "high_water_keys"),
        ({"name": ""}, "name"),
    ],
)
def test_a_target_that_cannot_work_is_refused_at_once(change, message):
    """What is wrong is said when the target is made, not at its first flush."""
    good = {
        "name": "things",
        "table": "things",
        "key_column": "id",
        "column": "seen_at",
        "key_type": "bigint",
    }
    with pytest.raises(ConfigurationError, match=message):
        Target(**{**good, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a dsn or a pool"),
        ({"dsn": "postgresql://x", "flush_interval_s": 0}, "flush_interval_s"),
        ({"dsn": "postgresql://x", "flush_interval_s": float("nan")}, "flush_interval_s"),
        ({"dsn": "postgresql://x", "statement_timeout_s": float("inf")}, "statement_timeout_s"),
        ({"dsn": "postgresql://x", "chunk_keys": 0}, "chunk_keys"),
        ({"dsn": "postgresql://x", "chunk_keys": 1.5}, "chunk_keys"),
        ({"dsn": "postgresql://x", "flush_interval_s": "5"}, "flush_interval_s"),
        ({"dsn": "postgresql://x", "lock_timeout_s": 5.0}, "lock_timeout_s"),
        ({"dsn": "postgresql://x", "backoff_initial_s": 31.0}, "backoff_initial_s"),
        ({"dsn": "postgresql://x", "targets": THINGS}, "a list of targets"),
        ({"dsn": "postgresql://x", "targets": []}, "needs targets"),
        ({"dsn": "postgresql://x", "targets": [THINGS, THINGS]}, "name of its own"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options, message):
    """NaN, infinity, zero and contradictions are told apart from settings."""
    with pytest.raises(ConfigurationError, match=message):
        Tracker(**{"targets": [THINGS], **options})


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


def test_the_wheel_ships_the_library_alone_and_typed(tmp_path):
    """pip install brings every module of tracker and its types, and nothing of the service."""
    checkout = Path(library.__file__).parent.parent
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, source)
    for package in ("tracker", "api", "benchmarks"):
        shutil.copytree(checkout / package, source / package)
    wheel = ProjectBuilder(source).build("wheel", tmp_path)
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(source)) for path in source.glob("tracker/**/*.py")}
    assert shipped == {*modules, "tracker/py.typed"}


def test_the_library_needs_four_packages():
    """An application that imports tracker gets few dependencies."""
    needed = [line for line in requires("activity-tracker") or [] if "extra ==" not in line]
    assert sorted(line.split(">=")[0] for line in needed) == [
        "aiohttp",
        "asyncpg",
        "prometheus-client",
        "structlog",
    ]
