"""Progress of a long command: each step on a line of its own, with the time since the start.

A terminal shows a bar as well. Elsewhere, as in a log file, a line says every few seconds how far
the current part is, so that a reader can see that the command is alive.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

_SAY_EVERY_S: Final = 10.0


def elapsed(seconds: float) -> str:
    """Return a duration as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """Prints the progress of a command.

    Args:
        console: where to print.
        clock: the current time in seconds; any start.

    Attributes:
        took_s: duration of each part that has ended, by name, in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.took_s: dict[str, float] = {}
        self._console = console
        self._clock = clock
        self._started = clock()

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        self._console.print(
            f"{elapsed(self._clock() - self._started):>6}  {text}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    @contextmanager
    def part(self, name: str, steps: int) -> Iterator[Callable[[], None]]:
        """Report one part of the command while the block runs.

        Args:
            name: the name of the part.
            steps: its number of steps.

        Returns:
            A function to call after each step.
        """
        started = said = self._clock()
        done = 0
        terminal = self._console.is_terminal
        columns = (
            TextColumn("{task.description:8}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=self._console, transient=True, disable=not terminal) as bars:
            bar = bars.add_task(name, total=steps)

            def advance() -> None:
                nonlocal done, said
                done += 1
                bars.advance(bar)
                if not terminal and self._clock() - said >= _SAY_EVERY_S and done < steps:
                    said = self._clock()
                    self.say(f"{name}: step {done} of {steps}")

            self.say(f"{name}: begins")
            yield advance
        self.took_s[name] = self._clock() - started
        self.say(f"{name}: done in {elapsed(self.took_s[name])}")
