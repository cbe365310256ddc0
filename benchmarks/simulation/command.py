"""`python -m benchmarks simulate`: history after history, until there were enough flushes."""

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
"""Histories that a process lives through before it reports."""
_LAST_STEPS: Final = 60


@dataclass(frozen=True)
class Outcome:
    """What became of some histories.

    Args:
        happened: how often what happened.
        seed: of the first history in which a law was broken, if any.
        law: which, and how.
    """

    happened: Counter[str]
    seed: int | None = None
    law: str = ""


def live_through(seeds: range) -> Outcome:
    """Live through one history after the other, up to the first one that goes wrong."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        history = History(seed)
        try:
            history.run()
        except Exception as error:  # noqa: BLE001 - a fault of the simulation is one to look at, too
            return Outcome(happened, seed, f"{type(error).__name__}: {error}")
        happened += history.happened
        happened["histories"] += 1
    return Outcome(happened)


def simulate(*, flushes: int, seed: int, processes: int, console: Console) -> int:
    """Live through histories until there were so many flushes.

    Args:
        flushes: how many.
        seed: of the first history; the next one has the next seed.
        processes: how many work at once.
        console: where to print.

    Returns:
        0 if no law was broken, else 1.
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
    """Live through one history once more and print all of its steps.

    Args:
        seed: of the history.
        console: where to print.

    Returns:
        0 if no law was broken, else 1.
    """
    history = History(seed, lambda step: console.print(step, markup=False, soft_wrap=True))
    try:
        history.run()
    except Exception:  # noqa: BLE001 - whatever it is, here is where it comes from
        console.print_exception()
        return 1
    _show(history.happened, 0.0, console)
    return 0


def _say_broken(seed: int, law: str, console: Console) -> int:
    steps: deque[str] = deque(maxlen=_LAST_STEPS)
    try:
        History(seed, steps.append).run()
    except Exception:  # noqa: BLE001 - which one is known
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
        console.print(f"in {took_s:.0f} s, Python {sys.version.split()[0]}; no law was broken")
