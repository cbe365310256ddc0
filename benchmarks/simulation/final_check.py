"""Checks the end of a history: after the last fault, everything must recover."""

import asyncio
from collections.abc import Callable
from typing import Final

from benchmarks.simulation.disk import Disk
from benchmarks.simulation.ledger import Ledger
from benchmarks.simulation.options import Options
from benchmarks.simulation.process import Process

_RECOVERY_TIMEOUT_S: Final = 120.0
_IDLE_SEGMENTS: Final = 5


class FinalCheck:
    """The conditions that must be reached after all faults have ended.

    Args:
        options: the options of all processes.
        ledger: the touches that must still be written.
        disk: the disk with the journals of ended processes.
        processes: the running processes.
    """

    def __init__(
        self, options: Options, ledger: Ledger, disk: Disk, processes: list[Process]
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._disk = disk
        self._processes = processes

    async def run(self, start: Callable[[], Process]) -> None:
        """Check that all touches are written, and all orphaned journals recovered and removed.

        Args:
            start: a function that starts one more process.
        """
        await self._pending_touches_are_written()
        successor = start()
        self._processes.append(successor)
        await self._orphaned_journals_are_recovered()
        await self._idle_journals_stay_small(successor)
        for process in self._processes:
            process.request_stop()
        await asyncio.wait({process.task for process in self._processes})
        if self._ledger.required:
            self._ledger.violated(
                f"at the end there are unwritten touches: {self._ledger.required}"
            )
        if self._disk.directories:
            self._ledger.violated(
                f"at the end there are directories left: {self._disk.directories}"
            )

    async def _pending_touches_are_written(self) -> None:
        """Wait for two intervals, the longest backoff, and operations in progress."""
        options = self._options
        holders = [process.holds() for process in self._processes]
        pending = {
            key: second
            for key, second in self._ledger.required.items()
            if any((holds(key) or 0) >= second for holds in holders)
        }
        begun_s = 3 * options.statement_timeout_s
        await asyncio.sleep(2.2 * options.interval_s + options.backoff_max_s + begun_s)
        for key, second in pending.items():
            if self._ledger.required.get(key, second + 1) <= second:
                self._ledger.violated(f"the touch of key {key} at {second} is still not written")

    async def _orphaned_journals_are_recovered(self) -> None:
        try:
            async with asyncio.timeout(_RECOVERY_TIMEOUT_S):
                while self._ledger.required or any(
                    directory.orphaned for directory in self._disk.directories
                ):
                    await asyncio.sleep(0.5)
        except TimeoutError:
            self._ledger.violated("an orphaned journal is never recovered")

    async def _idle_journals_stay_small(self, successor: Process) -> None:
        """Check that an idle process has only the live segment, at most a full one, and spares."""
        for _ in range(3):
            successor.touch(1)
            await asyncio.sleep(2 * self._options.interval_s + 2)
        for process in self._processes:
            if (segments := len(process.directory.memories)) > _IDLE_SEGMENTS:
                self._ledger.violated(
                    f"process {process.number} has {segments} segments while idle"
                )
