"""Running benchmarks: a server for them, a progress bar, the table, results.json and the plots."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from api.postgres.embedded import embedded_server
from benchmarks.harness.plots import plot
from benchmarks.harness.report import (
    BenchmarkFailedError,
    Report,
    markdown,
    read_results,
    show,
    write_results,
)
from benchmarks.harness.testbed import Testbed
from benchmarks.suites.flood import flood
from benchmarks.suites.flush import flush
from benchmarks.suites.http import http
from benchmarks.suites.ingest import ingest
from benchmarks.suites.live import live
from benchmarks.suites.peers import peers
from benchmarks.suites.scale import scale
from benchmarks.suites.scrape import scraping
from benchmarks.suites.touch import touch

FOLDER: Final = Path(".activity/benchmarks")

Benchmark = Callable[[Testbed, Report, Callable[[], None]], Awaitable[None]]


async def _touch(_arena: Testbed, report: Report, advance: Callable[[], None]) -> None:
    await touch(report, advance)


BENCHMARKS: Final[Mapping[str, tuple[Benchmark, int]]] = {
    "touch": (_touch, 41),
    "flush": (flush, 32),
    "http": (http, 102),
    "ingest": (ingest, 84),
    "flood": (flood, 21),
    "live": (live, 48),
    "scale": (scale, 20),
    "scrape": (scraping, 3),
    "peers": (peers, 20),
}
"""Each by its name, with the number of steps that its progress bar has."""


def run(names: Sequence[str], *, dsn: str, compare: Path | None, console: Console) -> int:
    """Run benchmarks, one after the other.

    Args:
        names: which, of `BENCHMARKS`.
        dsn: a server on which databases may be made; empty for an embedded one.
        compare: an earlier results.json to print this run against.
        console: where to.

    Returns:
        0 if all ran to their end, whether goals were met or not; else 1.

    Raises:
        BenchmarkFailedError: there is nothing to compare with.
        EmbeddedServerError: the embedded server did not start.
    """
    earlier = None if compare is None else read_results(compare)
    if dsn:
        report, failed = _run(names, Testbed(dsn), console)
    else:
        with embedded_server(FOLDER / "postgres") as own:
            report, failed = _run(names, Testbed(own), console)
    show(report.results, console, earlier)
    write_results(report.results, FOLDER / "results.json")
    (FOLDER / "results.md").write_text(markdown(report.results), encoding="utf-8")
    drawn = plot(report.results, FOLDER)
    console.print(
        f"\nwritten: {FOLDER / 'results.json'}, results.md and {len(drawn)} plots beside it"
    )
    for problem in failed:
        console.print(f"[red]failed:[/red] {problem}")
    return 1 if failed else 0


def _run(names: Sequence[str], testbed: Testbed, console: Console) -> tuple[Report, list[str]]:
    report, failed = Report(), []
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for name in names:
            benchmark, steps = BENCHMARKS[name]
            bar = progress.add_task(name, total=steps)

            def advance(bar: object = bar) -> None:
                progress.advance(bar)  # type: ignore[arg-type]

            try:
                uvloop.run(_awaited(benchmark(testbed, report, advance)))
            except BenchmarkFailedError as error:
                failed.append(f"{name}: {error}")
            progress.update(bar, completed=steps)
            progress.stop_task(bar)
    return report, failed


async def _awaited(work: Awaitable[None]) -> None:
    await work
