"""Checks the invariants of a single process at each step."""

import asyncio
from typing import Final

from benchmarks.simulation.ledger import Ledger
from benchmarks.simulation.process import Process

_TOLERANCE_S: Final = 0.1


class ProcessChecker:
    """The invariants of one process.

    Args:
        process: the process.
        ledger: receives violations.
    """

    def __init__(self, process: Process, ledger: Ledger) -> None:
        self.process = process
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._flushes = self._successes = self._failures = 0
        self._succeeded = False  # whether the last flush was a success
        self._backoff_until = 0.0
        self._full_since: float | None = None
        process.store.on_flush = self._on_flush

    def _on_flush(self) -> None:
        process = self.process
        early = self._loop.time() < self._backoff_until - 1e-6
        if early and not process.explicit_flushes and not process.stopping:
            self._ledger.violated("a flush begins before the backoff is over")

    def check(self) -> None:
        """Check conditions that may only last for one step."""
        process = self.process
        counts, loop = process.flusher.counts, process.flush_loop
        flushes = counts.success + counts.partial + counts.failed
        if flushes != self._flushes:
            # One may have followed the other within the same step.
            self._succeeded = counts.success - self._successes == flushes - self._flushes
            self._flushes, self._successes = flushes, counts.success
            self._full_since = None
            process.store.check_rejected()
        if loop is not None and loop.failures != self._failures:
            self._check_backoff(loop.failures)

    def check_fully(self) -> None:
        """Check conditions that stay violated once they are."""
        process = self.process
        loop = process.flush_loop
        if loop is not None and loop._task.done() and not process.stopping:
            self._ledger.violated(f"the flush loop has ended: {loop._task}")
        self._check_balance()
        self._check_high_water()

    def _check_balance(self) -> None:
        process = self.process
        buffer, counts = process.buffer, process.flusher.counts
        # A flush that the shutdown no longer waits for has ended some keys.
        unsettled = process.cancelled or process.explicit_flushes
        if not (unsettled if buffer._closed else buffer.is_draining):
            ended = counts.written + counts.unchanged + counts.missing + counts.rejected
            dropped = sum(buffer.dropped.values())
            if buffer.touches != buffer.coalesced + dropped + ended + len(buffer):
                self._ledger.violated(
                    f"the counters do not balance: {buffer.touches} touches, {buffer.coalesced} "
                    f"coalesced, {dropped} dropped, {ended} ended, {len(buffer)} pending"
                )

    def _check_backoff(self, failures: int) -> None:
        process = self.process
        initial_s, max_s = process.options.backoff_initial_s, process.options.backoff_max_s
        self._failures = failures
        self._backoff_until = 0.0
        explicit = process.explicit_flushes or process.explicit_at == self._loop.time()
        if failures and not process.stopping and not explicit:  # a queued flush needs no backoff
            least_s = 0.75 * min(max_s, initial_s * 2 ** (failures - 1))
            self._backoff_until = self._loop.time() + least_s

    def _check_high_water(self) -> None:
        """Check that a buffer near its capacity is flushed at once if the store is healthy."""
        process = self.process
        buffer, now = process.buffer, self._loop.time()
        waits = (
            buffer.live_keys >= buffer.target.high_water
            and self._succeeded
            and not buffer.is_draining
            and not process.stopping
        )
        if not waits:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        elif now - self._full_since > _TOLERANCE_S:
            self._ledger.violated("a full buffer waits for its flush")
