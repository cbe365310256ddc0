"""The laws, and what it takes to check them: what was touched, what is owed, what may be lost."""

from collections.abc import Callable
from typing import Final, NoReturn

EPOCH: Final = 1_700_000_000
"""The second at which every history begins."""


class LawBroken(AssertionError):
    """The tracker has done what it must never do."""


class Ledger:
    """Which touches are not in the table yet, and what may be there at most.

    Args:
        clock: seconds since the history began.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.owed: dict[int, int] = {}
        """For each key the second that the table has yet to reach."""
        self.missing: dict[int, float] = {}
        """When each row was last found missing."""
        self.touches = 0
        self.violation: str | None = None
        self.trace: Callable[[str], None] | None = None
        self._clock = clock
        self._most: dict[int, int] = {}

    def now(self) -> int:
        """Return the server's second."""
        return EPOCH + int(self._clock())

    def broken(self, law: str) -> NoReturn:
        """End the history, even if whoever called this survives every error.

        Raises:
            LawBroken: always.
        """
        self.violation = self.violation or law
        self.say(f"BROKEN: {law}")
        raise LawBroken(law)

    def say(self, event: str) -> None:
        """Note a step, if anybody wants to know."""
        if self.trace is not None:
            self.trace(event)

    def touched(self, key: int, second: int, stored: int | None) -> None:
        """Note a touch that was taken.

        Args:
            key: what was touched.
            second: when, by the clock of the process.
            stored: what the table says of it.
        """
        self.touches += 1
        self._most[key] = max(second, self._most.get(key, 0))
        due = min(second, self.now())  # the server stores nothing that is in its future
        if stored is None or stored < due:
            self.owed[key] = max(due, self.owed.get(key, 0))

    def stored(self, key: int, before: int | None, at: int) -> None:
        """Check and note what has just been stored."""
        if before is not None and before > at:
            self.broken(f"row {key} moves back from {before} to {at}")
        if at > self._most.get(key, 0):
            self.broken(f"row {key} is stored as {at}, later than any touch of it")
        if at > self.now():
            self.broken(f"row {key} is stored as {at}, later than the server's {self.now()}")
        if self.owed.get(key, at + 1) <= at:
            del self.owed[key]

    def found_missing(self, key: int) -> None:
        """Note that a statement found no row."""
        self.missing[key] = self._clock()

    def forgive(self, key: int, second: int, why: str) -> None:
        """Let a touch be lost: it was counted and logged, or nobody promised to keep it."""
        if self.owed.get(key, second + 1) <= second:
            self.say(f"ledger: key {key} at {second} may be lost: {why}")
            del self.owed[key]
