"""A terminal with a program on it, as a user has it."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DEADLINE_S = 60.0


class Terminal:
    """What is typed, and what is shown."""

    def __init__(self, file: int, process: subprocess.Popen) -> None:
        self._file = file
        self._process = process
        self._shown = b""

    def type(self, text: str) -> None:
        os.write(self._file, text.encode())

    def wait_for(self, text: str) -> None:
        """Return when a text is shown; what was shown up to it is forgotten."""
        deadline = time.monotonic() + DEADLINE_S
        while text.encode() not in self._shown:
            left_s = deadline - time.monotonic()
            assert select.select([self._file], [], [], max(0, left_s))[0], self._shown
            self._shown += os.read(self._file, 65_536)
        self._shown = self._shown.partition(text.encode())[2]

    def rest(self) -> str:
        """Return what is shown until the program has ended."""
        while True:
            assert select.select([self._file], [], [], DEADLINE_S)[0], self._shown
            try:
                self._shown += os.read(self._file, 65_536)
            except OSError:  # the other side is closed
                return self._shown.decode()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit code, and what was shown since a text was waited for."""
        self._process.send_signal(number)
        shown = self.rest()
        return self._process.wait(DEADLINE_S), shown


@contextmanager
def terminal(
    *command: str, folder: Path = CHECKOUT, kind: str = "dumb", **environment: str
) -> Iterator[Terminal]:
    """Run a program on a terminal.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        kind: of terminal, as TERM has it.
        environment: variables that differ from those of the tests.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TERM": kind, **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
