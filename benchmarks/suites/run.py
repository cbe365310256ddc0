"""Runs suites: starts a server, prints rows as they are measured, writes results and plots."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from structlog.testing import capture_logs

from api.postgres.embedded import embedded_server
from benchmarks.harness.progress import Progress, elapsed
from benchmarks.harness.report import (
    BenchmarkFailedError,
    Report,
    markdown,
    read_results,
    row,
    show,
    write_results,
)
from benchmarks.harness.testbed import Testbed
from benchmarks.suites import (
    flood,
    flush,
    gateways,
    http,
    http_cost,
    ingest,
    live,
    peers,
    presence,
    scale,
    scrape,
    slow,
    touch,
    workers,
)

FOLDER: Final = Path(".activity/benchmarks")

Suite = Callable[[Testbed, Report, Callable[[], None]], Awaitable[None]]

BENCHMARKS: Final[Mapping[str, tuple[Suite, int]]] = {
    "touch": (touch.touch, touch.STEPS),
    "flush": (flush.flush, flush.STEPS),
    "http": (http.http, http.STEPS),
    "ingest": (ingest.ingest, ingest.STEPS),
    "gateways": (gateways.gateways, gateways.STEPS),
    "flood": (flood.flood, flood.STEPS),
    "live": (live.live, live.STEPS),
    "scale": (scale.scale, scale.STEPS),
    "scrape": (scrape.scraping, scrape.STEPS),
    "slow": (slow.slow, slow.STEPS),
    "workers": (workers.workers, workers.STEPS),
    "peers": (peers.peers, peers.STEPS),
}
"""Each suite by its name, with the number of steps that its progress has."""
PARTS: Final[Mapping[str, tuple[Suite, int]]] = {
    "cost": (http_cost.cost, http_cost.STEPS),
    "presence": (presence.presence, presence.STEPS),
}
"""Suites that `all` leaves out: `cost` is the first part of `http`; with `presence`, it would take
longer than ten minutes."""


def run(
    names: Sequence[str],
    *,
    dsn: str,
    compare: Path | None,
    console: Console,
    folder: Path = FOLDER,
    suites: Mapping[str, tuple[Suite, int]] = {**BENCHMARKS, **PARTS},
) -> int:
    """Run suites, one after the other.

    Each row is printed as soon as it is measured. An interrupted run writes its results so far.

    Args:
        names: the names of the suites to run.
        dsn: a server on which databases may be created; empty for an embedded one.
        compare: an earlier results.json to print this run against.
        console: where to print.
        folder: where results and plots are written, and the embedded server keeps its data.
        suites: all suites by name.

    Returns:
        0 if all suites ended, whether goals were met or not; 1 if the results of one are wrong;
        130 if the run was interrupted.

    Raises:
        BenchmarkFailedError: the earlier results cannot be read.
        EmbeddedServerError: the embedded server did not start.
    """
    earlier = None if compare is None else read_results(compare)
    progress = Progress(console)
    report = Report(lambda finding: progress.say(row(finding)))
    failed: list[str] = []
    code = 0
    try:
        with nullcontext(dsn) if dsn else embedded_server(folder / "postgres") as server:
            for name in names:
                try:
                    _run_suite(name, suites[name], Testbed(server), report, progress)
                except BenchmarkFailedError as error:
                    failed.append(f"{name}: {error}")
                    code = 1
    except KeyboardInterrupt:
        failed.append("interrupted: the results are those measured until then")
        code = 130
    finally:
        write_results(report.results, folder / "results.json")
        (folder / "results.md").write_text(markdown(report.results), encoding="utf-8")
    show(report.results, console, earlier)
    from benchmarks.harness.plots import plot  # noqa: PLC0415 - Matplotlib takes a second

    plots = plot(report.results, folder)
    times = ", ".join(f"{name} {elapsed(spent)}" for name, spent in progress.took_s.items())
    console.print(f"\ntime spent: {times or 'no suite ended'}", highlight=False, soft_wrap=True)
    console.print(
        f"written: {folder / 'results.json'}, results.md and {len(plots)} plots beside it"
    )
    for problem in failed:
        console.print(f"failed: {problem}", style="red", markup=False)
    return code


def _run_suite(
    name: str, suite: tuple[Suite, int], testbed: Testbed, report: Report, progress: Progress
) -> None:
    """Run one suite; log events of the code under test become notes of the report."""
    work, steps = suite
    with capture_logs() as entries:
        try:
            with progress.part(name, steps) as advance:
                uvloop.run(_awaited(work(testbed, report, advance)))
        finally:
            logged = Counter(
                str(entry["event"])
                for entry in entries
                if entry["log_level"] not in ("debug", "info")
            )
            for event, times in logged.items():
                report.note(f"{name} logged {event} ({times} times)")


async def _awaited(work: Awaitable[None]) -> None:
    await work
