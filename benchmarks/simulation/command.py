"""`python -m benchmarks simulate`: runs histories until they had enough flushes."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.simulation.history import History

_HISTORIES_PER_JOB: Final = 25
"""Number of histories that a process runs before it reports."""
_LAST_STEPS: Final = 60


@dataclass(frozen=True)
class Outcome:
    """The outcomes of some histories.

    Args:
        events: the number of events of each kind.
        seed: the seed of the first history that violated an invariant, if any.
        violation: the violation, as text.
    """

    events: Counter[str]
    seed: int | None = None
    violation: str = ""


def run_histories(seeds: range) -> Outcome:
    """Run histories one after another, up to the first that fails."""
    events: Counter[str] = Counter()
    for seed in seeds:
        history = History(seed)
        try:
            history.run()
        except Exception as error:  # noqa: BLE001 - errors of the simulation count, too
            return Outcome(events, seed, f"{type(error).__name__}: {error}")
        events += history.events
        events["histories"] += 1
    return Outcome(events)


def simulate(*, flushes: int, seed: int, processes: int, console: Console) -> int:
    """Run histories until they had a number of flushes.

    Args:
        flushes: the minimum number of flushes.
        seed: the seed of the first history; each next one has the next seed.
        processes: the number of processes that run histories at once.
        console: where to print.

    Returns:
        0 if no invariant was violated, else 1.
    """
    started = time.monotonic()
    console.print(f"histories from seed {seed} on")
    columns = (
        TextColumn("{task.completed:,} of {task.total:,} flushes"),
        *(BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=flushes)
        outcome = _run_until(
            flushes, seed, processes, lambda done: progress.update(bar, completed=done)
        )
    if outcome.seed is not None:
        return _print_violation(outcome.seed, outcome.violation, console)
    _show(outcome.events, time.monotonic() - started, console)
    return 0


def _run_until(flushes: int, seed: int, processes: int, say: Callable[[int], None]) -> Outcome:
    events: Counter[str] = Counter()
    starts = count(seed, _HISTORIES_PER_JOB)
    jobs: set[Future[Outcome]] = set()
    with ProcessPoolExecutor(processes) as pool:
        while events["flushes"] < flushes:
            while len(jobs) < 2 * processes:
                first = next(starts)
                jobs.add(pool.submit(run_histories, range(first, first + _HISTORIES_PER_JOB)))
            done, jobs = wait(jobs, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in done):
                events += outcome.events
                if outcome.seed is not None:
                    pool.shutdown(cancel_futures=True)
                    return Outcome(events, outcome.seed, outcome.violation)
            say(events["flushes"])
        pool.shutdown(cancel_futures=True)
    return Outcome(events)


def replay(seed: int, console: Console) -> int:
    """Run one history, and print all of its steps.

    Args:
        seed: the seed of the history.
        console: where to print.

    Returns:
        0 if no invariant was violated, else 1.
    """
    history = History(seed, lambda step: console.print(step, markup=False, soft_wrap=True))
    try:
        history.run()
    except Exception:  # noqa: BLE001 - shows where any error comes from
        console.print_exception()
        return 1
    _show(history.events, 0.0, console)
    return 0


def _print_violation(seed: int, violation: str, console: Console) -> int:
    steps: deque[str] = deque(maxlen=_LAST_STEPS)
    try:
        History(seed, steps.append).run()
    except Exception:  # noqa: BLE001 - the violation is recorded
        console.print("\n".join(steps), markup=False, soft_wrap=True)
    console.print(f"seed {seed}: {violation}", style="red", markup=False, soft_wrap=True)
    console.print(f"again, with all steps: python -m benchmarks simulate --seed {seed} --trace")
    return 1


def _show(events: Counter[str], took_s: float, console: Console) -> None:
    table = Table("", "times")
    table.columns[1].justify = "right"
    for what, times in sorted(events.items(), key=lambda item: (":" in item[0], item[0])):
        table.add_row(what, f"{times:,}")
    console.print(table)
    if took_s:
        console.print(
            f"in {took_s:.0f} s, Python {sys.version.split()[0]}; no invariant was violated"
        )
