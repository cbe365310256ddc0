"""A run of suites: rows as they are known, results that survive an interrupt, and no noise."""

import asyncio
import io
import os
import signal

import pytest
import structlog
from rich.console import Console

from benchmarks.harness.progress import Progress
from benchmarks.harness.report import BenchmarkFailedError, Report, read_results
from benchmarks.harness.testbed import Testbed
from benchmarks.suites import touch
from benchmarks.suites.run import run


async def first(_testbed, report, advance):
    """A suite that measures one thing."""
    advance()
    report.state("first", "weight", [3.0], "g", goal=4)


async def interrupted(_testbed, report, _advance):
    """A suite during which the user presses Ctrl-C."""
    report.state("interrupted", "height", [5.0], "m")
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)


async def wrong(_testbed, _report, _advance):
    """A suite that finds that its table is wrong."""
    raise BenchmarkFailedError("3 rows are missing")


async def broken(_testbed, report, _advance):
    """A suite that fails with an unexpected error."""
    report.state("broken", "depth", [7.0], "m")
    raise OSError("no space left on device")


async def noisy(_testbed, _report, _advance):
    """A suite during which the code under test logs a warning and a debug message."""
    for _ in range(2):
        structlog.get_logger().warning("flush.failed", target="devices")
    structlog.get_logger().debug("flush.done")


SUITES = {one.__name__: (one, 1) for one in (first, interrupted, wrong, broken, noisy)}


@pytest.fixture
def ran(tmp_path):
    """Return a function that runs suites and returns the exit code and what was printed."""

    def start(*names: str) -> tuple[int, str]:
        output = io.StringIO()
        console = Console(file=output, width=200)
        code = run(
            names,
            dsn="postgresql://unused",
            compare=None,
            console=console,
            folder=tmp_path,
            suites=SUITES,
        )
        return code, output.getvalue()

    return start


def test_a_row_is_printed_when_it_is_known(ran):
    """Between the lines that say when its suite began and ended, each with the elapsed time."""
    code, output = ran("first")
    assert code == 0
    assert [line.split("  ")[-1] for line in output.splitlines()[:3]] == [
        "first: begins",
        "first: weight: 3 g, goal <= 4: met",
        "first: done in 0:00",
    ]
    assert output.splitlines()[0].startswith("  0:00")


@pytest.fixture
def sigint_raises():
    """Ctrl-C raises KeyboardInterrupt, as where the tests themselves run in the foreground."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_writes_what_it_has_measured(ran, tmp_path, sigint_raises):
    """Ctrl-C ends the run with 130; results.json, results.md and the table hold earlier rows."""
    code, output = ran("first", "interrupted", "first")
    assert code == 130
    written = [one.what for one in read_results(tmp_path / "results.json").findings]
    assert written == ["weight", "height"]
    assert "| interrupted | height | 5 m |" in (tmp_path / "results.md").read_text()
    assert "interrupted: the results are those measured until then" in output


def test_a_run_that_breaks_writes_what_it_has_measured(ran, tmp_path):
    """Also when an error ends it that is not about results."""
    with pytest.raises(OSError, match="no space"):
        ran("first", "broken")
    written = [one.what for one in read_results(tmp_path / "results.json").findings]
    assert written == ["weight", "depth"]


def test_a_suite_with_wrong_results_does_not_keep_the_next_from_running(ran):
    """The run fails in the end and says which suite was wrong."""
    code, output = ran("wrong", "first")
    assert code == 1
    assert "failed: wrong: 3 rows are missing" in output
    assert "first: weight" in output


def test_warnings_of_the_code_under_test_become_a_note(ran, tmp_path, capfd):
    """They are counted in the results instead of being printed between the rows."""
    code, _ = ran("noisy")
    assert code == 0
    notes = read_results(tmp_path / "results.json").notes
    assert notes == ["noisy logged flush.failed (2 times)"]
    assert "flush.failed" not in capfd.readouterr().out


async def test_the_touch_suite_logs_nothing(server_dsn, monkeypatch):
    """The tracker that it measures is running."""
    monkeypatch.setattr(touch, "MANY", 1000)
    monkeypatch.setattr(touch, "_TOUCHES", 1000)
    monkeypatch.setattr(touch, "_KEYS", (1000,))
    report, steps = Report(), []
    with structlog.testing.capture_logs() as entries:
        await touch.touch(Testbed(server_dsn), report, lambda: steps.append(1))
    assert [one["event"] for one in entries if one["log_level"] not in ("debug", "info")] == []
    assert len(report.results.findings) == 5


def test_progress_is_logged_at_most_every_ten_seconds():
    """A line at most every ten seconds, and none for the last step, whose part ends at once."""
    output, now = io.StringIO(), [0.0]
    progress = Progress(Console(file=output, width=200), clock=lambda: now[0])
    with progress.part("long", 4) as advance:
        for at in (5.0, 65.0, 70.0, 80.0):
            now[0] = at
            advance()
    assert output.getvalue().splitlines() == [
        "  0:00  long: begins",
        "  1:05  long: step 2 of 4",
        "  1:20  long: done in 1:20",
    ]
    assert progress.took_s == {"long": 80.0}
