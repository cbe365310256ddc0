"""Runs the fault matrix: every fault alone, then some in a row. Shows it as table and page."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from api.config import Settings
from benchmarks.faults import FAULTS
from benchmarks.faults.environment import running_environment
from benchmarks.faults.load import HEARTBEATS_PER_S, UPLOADS_PER_S
from benchmarks.faults.scenario import Outcome, recovery_limit_s, run_scenario
from benchmarks.harness.report import Report

_COLUMNS: Final = (
    *("heartbeats", "p99", "uploads stored", "503", "unanswered"),
    *("memory", "recovered", "verdict"),
)
_MB: Final = 1_000_000
_PAGE: Final = """\
# Faults

The service, as shipped, with {heartbeats} heartbeats and {uploads} uploads a second on it, during
faults in its environment. This page is written by a run:

```sh
{command}
```

{at:%Y-%m-%d}; {machine}. Each fault lasts {seconds:g} s, unless its description says
otherwise, and the service recovers before the next one.

{table}

- **heartbeats**: how many had the response 204 during the fault. The verdict lists
  any other response.
- **p99**: the 99th percentile of their latency, as a ratio to that of the seconds before the fault.
  The machine is noisy: a ratio of 2 means nothing. If a request had waited for the database, the
  verdict would say so.
- **uploads stored**, **503**: uploads with the response 200, or 503 with JSON and
  `Retry-After`. The verdict lists any other response.
- **unanswered**: heartbeats and uploads without a response, while the service itself was stopped.
- **memory**: the growth of the process.
- **recovered**: from the end of the fault until the table had everything that was acknowledged,
  and uploads were stored again. The limit is two flush intervals and the longest backoff:
  {limit:g} s.
- **verdict**: *held* means that the above is as it should be, and these invariants hold: no
  acknowledged heartbeat or upload is missing, no time is in the future or later than its request,
  no time moved backwards, no touch was dropped, and the counters balance. Each event of a device
  has reached a webhook whose receiver fails now and then, in order and without a gap. Some devices
  stop sending before a fault ends, so that no later heartbeat hides a lost one.
{in_a_row}"""
_IN_A_ROW: Final = """
*In a row*, drawn with seed {seed}, without a recovery between them: {names}.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which faults to run.

    Attributes:
        seconds: how long each fault lasts, in seconds.
        alone: faults that are run one by one; the service recovers after each.
        seed: the seed of the random choice of faults.
        in_a_row: how many faults to choose at random, and to run without a recovery between them.
    """

    seconds: float
    alone: Sequence[str] = tuple(FAULTS)
    seed: int = 0
    in_a_row: int = 0

    def drawn(self) -> list[str]:
        """Return the faults to run in a row. They depend only on the seed."""
        return random.Random(self.seed).choices(list(FAULTS), k=self.in_a_row)


@dataclass(slots=True)
class Matrix:
    """The outcomes of a plan.

    Attributes:
        plan: the plan.
        limit_s: how long a recovery may take, in seconds.
        outcomes: each fault's outcome, by the name of the fault.
    """

    plan: Plan
    limit_s: float = 0.0
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether every check succeeded."""
        return not any(outcome.problems for outcome in self.outcomes.values())


async def carry_out(plan: Plan, settings: Settings, console: Console) -> Matrix:
    """Run the faults of a plan against the service.

    Args:
        plan: which faults to run.
        settings: the service's settings.
        console: where progress is shown.
    """
    matrix, drawn = Matrix(plan), plan.drawn()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("setting up", total=len(plan.alone) + bool(drawn))
        async with running_environment(settings, seconds=plan.seconds) as here:
            matrix.limit_s = recovery_limit_s(here)
            for name in plan.alone:
                progress.update(bar, description=name)
                matrix.outcomes[name] = await run_scenario(here, FAULTS[name])
                progress.advance(bar)
            if drawn:
                progress.update(bar, description=f"{len(drawn)} in a row")
                faults = (FAULTS[name] for name in drawn)
                matrix.outcomes["in a row"] = await run_scenario(here, *faults)
    return matrix


def show(matrix: Matrix, console: Console) -> None:
    """Print the table.

    Args:
        matrix: the outcomes.
        console: where to print.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("fault")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "verdict" else "right")
    for name, outcome in matrix.outcomes.items():
        *figures, verdict = _cells(outcome)
        colour = "red" if outcome.problems else "green"
        table.add_row(name, *figures, f"[{colour}]{escape(verdict)}[/]")
    console.print(table, highlight=False)
    if drawn := matrix.plan.drawn():
        console.print(f"in a row, seed {matrix.plan.seed}: {', '.join(drawn)}", highlight=False)


def page(matrix: Matrix, command: str) -> str:
    """Return the page of a run in Markdown.

    Args:
        matrix: the outcomes.
        command: the command that repeats the run.
    """
    plan, results = matrix.plan, Report().results
    drawn = plan.drawn()
    lines = [("fault", "what happens", *_COLUMNS), ("---",) * (len(_COLUMNS) + 2)]
    for name, outcome in matrix.outcomes.items():
        what = FAULTS[name].what if name in FAULTS else f"{len(drawn)} faults, see below"
        lines.append((name, what, *_cells(outcome)))
    return _PAGE.format(
        heartbeats=HEARTBEATS_PER_S,
        uploads=UPLOADS_PER_S,
        command=command,
        at=results.at,
        machine=", ".join(f"{name} {value}" for name, value in results.machine.items()),
        seconds=plan.seconds,
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        limit=matrix.limit_s,
        in_a_row=_IN_A_ROW.format(seed=plan.seed, names=", ".join(drawn)) if drawn else "",
    )


def _cells(outcome: Outcome) -> list[str]:
    ratio, growth = outcome.p99_ratio, outcome.growth_bytes
    return [
        f"{outcome.heartbeats:,}",
        "" if ratio is None else f"{ratio:.1f}",
        f"{outcome.stored:,}",
        f"{outcome.unavailable:,}",
        f"{outcome.unreachable:,}",
        "new process" if growth is None else f"{growth / _MB:+.1f} MB",
        f"{outcome.recovered_s:.1f} s",
        "; ".join(outcome.problems) or "held",
    ]
