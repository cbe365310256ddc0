"""Records touches, writes and allowed losses, and checks the invariants of the table."""

from collections.abc import Callable
from typing import Final, NoReturn

EPOCH: Final = 1_700_000_000
"""The epoch second at which every history begins."""


class InvariantViolation(AssertionError):
    """The tracker has violated an invariant."""


class Ledger:
    """Records which touches the table lacks, and the latest times that it may have.

    Args:
        clock: seconds since the history began.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.required: dict[int, int] = {}
        """For each key, the second that the table must still reach."""
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

    def violated(self, violation: str) -> NoReturn:
        """End the history, even if the caller catches every error.

        Raises:
            InvariantViolation: always.
        """
        self.violation = self.violation or violation
        self.say(f"VIOLATED: {violation}")
        raise InvariantViolation(violation)

    def say(self, event: str) -> None:
        """Record a step, if there is a trace."""
        if self.trace is not None:
            self.trace(event)

    def touched(self, key: int, second: int, stored: int | None) -> None:
        """Record an accepted touch.

        Args:
            key: the touched key.
            second: the time, by the clock of the process.
            stored: the key's time in the table.
        """
        self.touches += 1
        self._most[key] = max(second, self._most.get(key, 0))
        due = min(second, self.now())  # the server stores no time that is in its future
        if stored is None or stored < due:
            self.required[key] = max(due, self.required.get(key, 0))

    def stored(self, key: int, before: int | None, at: int) -> None:
        """Check and record a time that was just stored."""
        if before is not None and before > at:
            self.violated(f"row {key} moves back from {before} to {at}")
        if at > self._most.get(key, 0):
            self.violated(f"row {key} is stored as {at}, later than any touch of it")
        if at > self.now():
            self.violated(f"row {key} is stored as {at}, later than the server's {self.now()}")
        if self.required.get(key, at + 1) <= at:
            del self.required[key]

    def found_missing(self, key: int) -> None:
        """Record that a statement found no row."""
        self.missing[key] = self._clock()

    def allow_loss(self, key: int, second: int, why: str) -> None:
        """Allow the loss of a touch that was counted and logged, or was not promised to survive."""
        if self.required.get(key, second + 1) <= second:
            self.say(f"ledger: key {key} at {second} may be lost: {why}")
            del self.required[key]
