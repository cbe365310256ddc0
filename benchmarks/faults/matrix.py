"""The fault matrix: every fault alone, then some in a row, as a table and as a page."""

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

The service, as shipped, with {heartbeats} heartbeats and {uploads} uploads a second on it, while
things go wrong around it. Written by a run:

```sh
{command}
```

{at:%Y-%m-%d}; {machine}. Each fault lasts {seconds:g} s, unless it says otherwise, and the service
recovers before the next.

{table}

- **heartbeats**: how many were answered 204 during the fault. Any other answer is in the verdict.
- **p99**: of their latency, against the seconds before the fault. The machine is noisy: a ratio
  of 2 says nothing. Nobody waited for the database, or the verdict would say so.
- **uploads stored**, **503**: answered 200, or 503 with JSON and `Retry-After`; likewise.
- **unanswered**: heartbeats and uploads that found nobody, where the service itself was stopped.
- **memory**: what the process grew by.
- **recovered**: from the end of the fault until all that had been acknowledged was in the table
  and uploads were stored again. Two flush intervals and the longest backoff, {limit:g} s, may pass.
- **verdict**: *held* means that besides all of this no acknowledged heartbeat or upload is missing,
  no time is in the future or later than the request, none moved backwards while the table was
  watched, nothing was dropped, and the counters balance. Some devices
  fall silent before a fault ends, so that no later heartbeat hides a lost one.
{in_a_row}"""
_IN_A_ROW: Final = """
*In a row*, drawn with seed {seed}, without a rest between them: {names}.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen.

    Attributes:
        seconds: how long each fault lasts.
        alone: faults that happen one by one, the service recovering after each.
        seed: of what is drawn.
        in_a_row: how many faults to draw, which happen one right after the other.
    """

    seconds: float
    alone: Sequence[str] = tuple(FAULTS)
    seed: int = 0
    in_a_row: int = 0

    def drawn(self) -> list[str]:
        """Return the faults that happen in a row, the same ones for the same seed."""
        return random.Random(self.seed).choices(list(FAULTS), k=self.in_a_row)


@dataclass(slots=True)
class Matrix:
    """What became of a plan.

    Attributes:
        plan: the plan.
        limit_s: how long a recovery may take, in seconds.
        outcomes: by the name of the fault.
    """

    plan: Plan
    limit_s: float = 0.0
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether nothing happened that should not."""
        return not any(outcome.problems for outcome in self.outcomes.values())


async def carry_out(plan: Plan, settings: Settings, console: Console) -> Matrix:
    """Put the service through a plan.

    Args:
        plan: what is to happen.
        settings: the service's.
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
        matrix: what became of a plan.
        console: where to.
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
        matrix: what became of a plan.
        command: by which it can be repeated.
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
