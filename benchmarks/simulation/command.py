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

_AT_ONCE: Final = 25
"""Number of histories that a process runs before it reports."""
_LAST_STEPS: Final = 60


@dataclass(frozen=True)
class Outcome:
    """The outcomes of some histories.

    Args:
        happened: the number of events of each kind.
        seed: the seed of the first history that violated an invariant, if any.
        law: the violation, as text.
    """

    happened: Counter[str]
    seed: int | None = None
    law: str = ""


def live_through(seeds: range) -> Outcome:
    """Run histories one after another, up to the first that fails."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        history = History(seed)
        try:
            history.run()
        except Exception as error:  # noqa: BLE001 - errors of the simulation count, too
            return Outcome(happened, seed, f"{type(error).__name__}: {error}")
        happened += history.happened
        happened["histories"] += 1
    return Outcome(happened)


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
        outcome = _live_until(
            flushes, seed, processes, lambda done: progress.update(bar, completed=done)
        )
    if outcome.seed is not None:
        return _say_broken(outcome.seed, outcome.law, console)
    _show(outcome.happened, time.monotonic() - started, console)
    return 0


def _live_until(flushes: int, seed: int, processes: int, say: Callable[[int], None]) -> Outcome:
    happened: Counter[str] = Counter()
    starts = count(seed, _AT_ONCE)
    at_work: set[Future[Outcome]] = set()
    with ProcessPoolExecutor(processes) as pool:
        while happened["flushes"] < flushes:
            while len(at_work) < 2 * processes:
                first = next(starts)
                at_work.add(pool.submit(live_through, range(first, first + _AT_ONCE)))
            done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in done):
                happened += outcome.happened
                if outcome.seed is not None:
                    pool.shutdown(cancel_futures=True)
                    return Outcome(happened, outcome.seed, outcome.law)
            say(happened["flushes"])
        pool.shutdown(cancel_futures=True)
    return Outcome(happened)


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
    _show(history.happened, 0.0, console)
    return 0


def _say_broken(seed: int, law: str, console: Console) -> int:
    steps: deque[str] = deque(maxlen=_LAST_STEPS)
    try:
        History(seed, steps.append).run()
    except Exception:  # noqa: BLE001 - the violation is recorded
        console.print("\n".join(steps), markup=False, soft_wrap=True)
    console.print(f"seed {seed}: {law}", style="red", markup=False, soft_wrap=True)
    console.print(f"again, with all steps: python -m benchmarks simulate --seed {seed} --trace")
    return 1


def _show(happened: Counter[str], took_s: float, console: Console) -> None:
    table = Table("", "times")
    table.columns[1].justify = "right"
    for what, times in sorted(happened.items(), key=lambda item: (":" in item[0], item[0])):
        table.add_row(what, f"{times:,}")
    console.print(table)
    if took_s:
        console.print(
            f"in {took_s:.0f} s, Python {sys.version.split()[0]}; no invariant was violated"
        )
