"""Reports the findings of a run: as a table, as results.json, and beside an earlier run."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final, Literal

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.harness.pairs import LEAST_ROUNDS, Ratio, ratio

_THOUSAND: Final = 1000
_SIGNS: Final = {"higher": ">=", "lower": "<="}


class BenchmarkFailedError(Exception):
    """A benchmark's result is wrong, so its figures are invalid; the message says what is wrong."""


class Finding(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        benchmark: the name of the benchmark.
        what: what is compared, e.g. "heartbeats/s, ours / none".
        value: the median, or a single figure where there is nothing to compare with.
        low: the lowest of the rounds.
        high: the highest.
        rounds: the number of rounds.
        goal: the minimum or maximum that the value should have; None if there is no goal.
        better: whether a higher or a lower value is better.
        absolute: the two medians of the ratio, with units, as text.
        unit: the unit of the value; empty for a ratio.
    """

    benchmark: str
    what: str
    value: float
    low: float
    high: float
    rounds: int
    goal: float | None
    better: Literal["higher", "lower"]
    absolute: str = ""
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


class Results(msgspec.Struct):
    """A run, as stored in results.json.

    Attributes:
        at: when it began, in UTC.
        machine: facts about the machine it ran on.
        findings: the lines of the table.
        series: named lists of numbers, for the plots.
        notes: remarks about the run for the reader.
    """

    at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    machine: dict[str, str] = msgspec.field(default_factory=dict)
    findings: list[Finding] = msgspec.field(default_factory=list)
    series: dict[str, dict[str, list[float]]] = msgspec.field(default_factory=dict)
    notes: list[str] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one contender, shown beside a ratio.

    Args:
        name: the contender.
        values: one for each round.
        unit: the unit of the values.
    """

    name: str
    values: Sequence[float]
    unit: str

    def __str__(self) -> str:
        """Name, median and unit."""
        return f"{self.name} {figure(median(self.values))} {self.unit}"


class Report:
    """Collects the findings of a run.

    Args:
        on_finding: called with each finding when it is known.
    """

    def __init__(self, on_finding: Callable[[Finding], None] = lambda _: None) -> None:
        self.results = Results(machine=_machine())
        self._on_finding = on_finding

    def compare(
        self,
        benchmark: str,
        what: str,
        ours: Measured,
        theirs: Measured,
        *,
        goal: float | None = None,
        better: Literal["higher", "lower"] = "higher",
    ) -> Ratio:
        """Add the ratio of two contenders that were measured in alternation.

        Args:
            benchmark: the name of the benchmark.
            what: what is compared; the ratio is of `ours` to `theirs`.
            ours: one value a round.
            theirs: the same rounds.
            goal: the minimum or maximum that the median should have.
            better: whether a higher or a lower value is better.
        """
        found = ratio(ours.values, theirs.values)
        self._add(
            Finding(
                benchmark,
                what,
                found.median,
                found.low,
                found.high,
                len(ours.values),
                goal,
                better,
                absolute=f"{ours}; {theirs}",
            )
        )
        return found

    def state(
        self,
        benchmark: str,
        what: str,
        values: Sequence[float],
        unit: str,
        *,
        goal: float | None = None,
        better: Literal["higher", "lower"] = "lower",
    ) -> None:
        """Add a single figure, without a ratio."""
        spread = (median(values), min(values), max(values))
        self._add(Finding(benchmark, what, *spread, len(values), goal, better, unit=unit))

    def _add(self, finding: Finding) -> None:
        self.results.findings.append(finding)
        self._on_finding(finding)

    def series(self, plot: str, name: str, values: Sequence[float]) -> None:
        """Store numbers for a plot."""
        self.results.series.setdefault(plot, {})[name] = list(values)

    def note(self, text: str | None) -> None:
        """Add a remark for the reader, unless it is None or already there."""
        if text and text not in self.results.notes:
            self.results.notes.append(text)


def _machine() -> dict[str, str]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def figure(value: float) -> str:
    """Format a number with its significant digits."""
    if abs(value) >= _THOUSAND:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _cells(one: Finding) -> tuple[str, str, str]:
    """Return a finding's value, its spread and its goal as text."""
    spread = "" if one.rounds == 1 else f"{figure(one.low)} - {figure(one.high)}"
    goal = "" if one.goal is None else f"{_SIGNS[one.better]} {figure(one.goal)}"
    return f"{figure(one.value)} {one.unit}".strip(), spread, goal


def row(one: Finding) -> str:
    """Return a finding as one line of plain text."""
    value, spread, goal = _cells(one)
    met = {True: "met", False: "missed", None: ""}[one.met]
    return "".join(
        (
            f"{one.benchmark}: {one.what}: {value}",
            f" ({spread})" if spread else "",
            f", goal {goal}: {met}" if goal else "",
        )
    )


def show(results: Results, console: Console, earlier: Results | None = None) -> None:
    """Print the table of a run.

    Args:
        results: the run.
        console: where to print.
        earlier: a run to print beside it.
    """
    before = {(one.benchmark, one.what): one for one in earlier.findings} if earlier else {}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "what", "median", "low - high", "goal", ""):
        table.add_column(column, justify="left" if column in ("", "what") else "right")
    if earlier:
        table.add_column("before", justify="right")
    table.add_column("medians")
    for one in results.findings:
        value, spread, goal = _cells(one)
        met = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[one.met]
        few = "" if one.rounds >= LEAST_ROUNDS or one.rounds == 1 else f" ({one.rounds} rounds)"
        line = [
            one.benchmark,
            escape(one.what),
            value,
            spread and f"{spread}{few}",
            goal,
            met,
        ]
        if earlier:
            then = before.get((one.benchmark, one.what))
            line.append("new" if then is None else f"{figure(then.value)} {then.unit}".strip())
        table.add_row(*line, one.absolute)
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    console.print(f"\n{results.at:%Y-%m-%d %H:%M} UTC; {machine}", highlight=False)
    if earlier:
        console.print(f"before: {earlier.at:%Y-%m-%d %H:%M} UTC", highlight=False)
    console.print(table, highlight=False, soft_wrap=True)
    for note in results.notes:
        console.print(f"note: {note}", highlight=False)


def markdown(results: Results) -> str:
    """Return the table of a run in Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = [
        f"{results.at:%Y-%m-%d}; {machine}.",
        "",
        "| | what | median | low - high | goal | | medians |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results.findings:
        value, spread, goal = _cells(one)
        met = {True: "met", False: "**missed**", None: ""}[one.met]
        cells = (one.benchmark, one.what, value, spread, goal, met, one.absolute)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_results(file: Path) -> Results:
    """Read an earlier run.

    Raises:
        BenchmarkFailedError: there is none in that file.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Results)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchmarkFailedError(f"cannot read earlier results from {file}: {error}") from error


def write_results(results: Results, file: Path) -> None:
    """Write a run, for plots and for later comparisons."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
