"""Trackers of applications that are made more than once: runs, registries and log lines."""

import asyncio
import logging
import subprocess
import sys
from dataclasses import replace

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from tests.support.sample_table import AT, THINGS, seen, when
from tracker import Tracker, TrackerCollector, activity_middleware, exporting_metrics
from tracker.instrumentation import Log

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


async def test_a_tracker_runs_again_after_it_was_stopped(dsn, things, tmp_path):
    """A module-level tracker in an application factory: each test of the application starts it."""
    tracker = Tracker([THINGS], dsn=dsn, journal_dir=tmp_path)
    for second in (AT, AT + 1, AT + 2):
        async with tracker.running():
            tracker.touch("things", 1, second)
            assert tracker.pending("things").get(1) == second
            await tracker.flush()
            assert tracker.flushers["things"].counts.written == 1
            tracker.touch("things", 2, second)
        assert await seen(things) == {1: when(second), 2: when(second)}
        tracker.touch("things", 3)  # between two runs: counted as dropped
        assert tracker.buffers["things"].dropped["shutdown"] == 1


def test_a_tracker_runs_again_on_another_event_loop(dsn):
    """As test frameworks make one for each test."""
    tracker = Tracker([THINGS], dsn=NOWHERE, shutdown_deadline_s=0.01)

    async def run() -> None:
        async with tracker.running():
            tracker.touch("things", 1)

    for _ in range(3):
        asyncio.run(run())
        assert tracker.buffers["things"].dropped["shutdown"] == 1


async def test_a_tracker_does_not_run_twice_at_the_same_time():
    """Two runs would write one buffer. After a start that failed it may be tried again."""
    tracker = Tracker([THINGS], dsn=NOWHERE, shutdown_deadline_s=0.01)
    async with tracker.running():
        with pytest.raises(RuntimeError, match="running already"):
            async with tracker.running():
                pass
    async with tracker.running():
        pass


async def test_an_application_factory_serves_one_test_after_the_other(aiohttp_client, dsn, things):
    """With one tracker for all applications that it makes."""
    tracker = Tracker([THINGS], dsn=dsn)

    async def hello(_request: web.Request) -> web.Response:
        return web.Response()

    def create_app() -> web.Application:
        app = web.Application(
            middlewares=[activity_middleware(tracker, lambda _: [("things", "5")])]
        )
        app.cleanup_ctx.append(tracker.lifespan)
        app.router.add_get("/", hello)
        return app

    for _ in range(2):
        client = await aiohttp_client(create_app())
        await client.get("/")
        await client.close()
        assert (await seen(things)).keys() == {5}
        await things.execute("UPDATE things SET seen_at = NULL")


def test_trackers_share_a_registry_at_the_same_time_and_one_after_the_other():
    """Each name has one TYPE line, and labels tell targets of one name apart."""
    registry = CollectorRegistry(auto_describe=True)
    first, second = (Tracker([THINGS], dsn=NOWHERE) for _ in range(2))
    other = Tracker([replace(THINGS, name="others")], dsn=NOWHERE)
    for _ in range(2):
        with (
            exporting_metrics(first, registry),
            exporting_metrics(second, registry),
            exporting_metrics(other, registry),
        ):
            second.touch("things", 1)
            text = generate_latest(registry).decode()
        assert text.count("# TYPE activity_touches_total ") == 1
        assert 'activity_touches_total{target="things"} 0.0' in text
        touches = second.buffers["things"].touches
        assert f'activity_touches_total{{target="things-2"}} {touches}.0' in text
        assert 'activity_touches_total{target="others"} 0.0' in text
        assert generate_latest(registry) == b""


def test_a_collector_of_several_trackers_is_registered_once():
    """The other way: one collector for all of an application's trackers."""
    registry = CollectorRegistry()
    trackers = [Tracker([replace(THINGS, name=name)], dsn=NOWHERE) for name in ("a", "b")]
    registry.register(TrackerCollector(*trackers))
    text = generate_latest(registry).decode()
    assert text.count("# TYPE activity_buffer_keys ") == 1
    assert 'activity_buffer_keys{target="a"}' in text
    assert 'activity_buffer_keys{target="b"}' in text


def test_a_block_that_cannot_register_leaves_nothing_behind():
    """The application has registered a collector of its own for the same names."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(TrackerCollector(Tracker([THINGS], dsn=NOWHERE)))
    tracker = Tracker([THINGS], dsn=NOWHERE)
    for _ in range(2):
        with pytest.raises(ValueError, match="Duplicated"), exporting_metrics(tracker, registry):
            pass


LOGGING = """
import logging, sys
{configure}
from tracker.instrumentation import Log

log = Log("tracker.some.module")
log.error("flush.failed", target="things", error="it is away")
try:
    raise RuntimeError("a bug")
except RuntimeError:
    log.exception("flush.crashed")
"""


@pytest.mark.parametrize(
    ("configure", "stdout", "stderr"),
    [
        (
            'logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")',
            [],
            [
                "ERROR tracker.some.module: flush.failed target='things' error='it is away'",
                "ERROR tracker.some.module: flush.crashed",
                "RuntimeError: a bug",
            ],
        ),
        ("", [], ["flush.failed target='things' error='it is away'", "RuntimeError: a bug"]),
        (
            (
                "import structlog\n"
                "structlog.configure(processors=[structlog.processors.dict_tracebacks, "
                "structlog.processors.JSONRenderer()])"
            ),
            [
                '{"target": "things", "error": "it is away", "event": "flush.failed"}',
                "RuntimeError",
            ],
            [],
        ),
    ],
    ids=["basicConfig", "nothing", "structlog"],
)
def test_log_lines_go_where_the_application_puts_its_own(configure, stdout, stderr):
    """To `logging` and its handlers, unless the application has configured structlog."""
    done = subprocess.run(
        [sys.executable, "-c", LOGGING.format(configure=configure)],
        capture_output=True,
        text=True,
        check=True,
    )
    for output, expected in ((done.stdout, stdout), (done.stderr, stderr)):
        assert bool(output) == bool(expected)
        for part in expected:
            assert part in output


def test_a_handler_of_logging_that_fails_raises_nothing(monkeypatch):
    """As with structlog: the caller still has to clean up."""
    monkeypatch.setattr("structlog.is_configured", lambda: False)

    class Broken(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise BrokenPipeError

    handler = Broken()
    logging.getLogger("tracker.broken").addHandler(handler)
    Log("tracker.broken").error("flush.failed")
