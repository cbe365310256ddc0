"""Counts of the outcomes of drained keys and of flushes since the start, in plain numbers."""

from dataclasses import dataclass, field
from typing import Final

from tracker.instrumentation import Histogram

_DURATION_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS_BOUNDS: Final = (1, 10, 50, 100, 250, 500, 1000, 2000, 5000, 10_000, 20_000)


@dataclass(slots=True)
class FlushCounts:
    """Counters of one flusher; times are in seconds, and since the epoch where they are `at`."""

    written: int = 0
    unchanged: int = 0
    missing: int = 0
    rejected: int = 0
    corrected: int = 0
    """Of those written: how many had a stored time in the future."""
    hidden: int = 0
    """How many keys the last flush kept because the table may not show their rows."""
    success: int = 0
    partial: int = 0
    failed: int = 0
    last_success_at: float = 0.0
    last_duration_s: float | None = None
    duration_s: Histogram = field(default_factory=lambda: Histogram(_DURATION_BOUNDS_S))
    chunk_rows: Histogram = field(default_factory=lambda: Histogram(_ROWS_BOUNDS))

    @property
    def flushes(self) -> int:
        """How many flushes there were, with any outcome."""
        return self.success + self.partial + self.failed
