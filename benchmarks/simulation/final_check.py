"""Checks the end of a history: after the last fault, everything must recover."""

import asyncio
from collections.abc import Callable
from typing import Final

from benchmarks.simulation.disk import Machine
from benchmarks.simulation.ledger import Ledger
from benchmarks.simulation.options import Options
from benchmarks.simulation.process import Process

_LONG_S: Final = 120.0
_IDLE_SEGMENTS: Final = 5


class FinalCheck:
    """The conditions that must be reached after all faults have ended.

    Args:
        options: the options of all processes.
        ledger: the touches that must still be written.
        machine: the disk with the journals of ended processes.
        processes: the running processes.
    """

    def __init__(
        self, options: Options, ledger: Ledger, machine: Machine, processes: list[Process]
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._machine = machine
        self._processes = processes

    async def everything_ends_well(self, start: Callable[[], Process]) -> None:
        """Check that all touches are written, and all orphaned journals recovered and removed.

        Args:
            start: a function that starts one more process.
        """
        await self._everything_pending_is_written()
        heir = start()
        self._processes.append(heir)
        await self._everything_left_behind_is_taken_over()
        await self._no_journal_grows(heir)
        for process in self._processes:
            process.ask_to_stop()
        await asyncio.wait({process.task for process in self._processes})
        if self._ledger.owed:
            self._ledger.broken(f"at the end there are unwritten touches: {self._ledger.owed}")
        if self._machine.directories:
            self._ledger.broken(
                f"at the end there are directories left: {self._machine.directories}"
            )

    async def _everything_pending_is_written(self) -> None:
        """Wait for two intervals, the longest backoff, and operations in progress."""
        options = self._options
        holders = [process.holds() for process in self._processes]
        pending = {
            key: second
            for key, second in self._ledger.owed.items()
            if any((holds(key) or 0) >= second for holds in holders)
        }
        begun_s = 3 * options.statement_timeout_s
        await asyncio.sleep(2.2 * options.interval_s + options.backoff_max_s + begun_s)
        for key, second in pending.items():
            if self._ledger.owed.get(key, second + 1) <= second:
                self._ledger.broken(f"the touch of key {key} at {second} is still not written")

    async def _everything_left_behind_is_taken_over(self) -> None:
        try:
            async with asyncio.timeout(_LONG_S):
                while self._ledger.owed or any(
                    directory.deserted for directory in self._machine.directories
                ):
                    await asyncio.sleep(0.5)
        except TimeoutError:
            self._ledger.broken("an orphaned journal is never recovered")

    async def _no_journal_grows(self, heir: Process) -> None:
        """Check that an idle process has only the live segment, at most a full one, and spares."""
        for _ in range(3):
            heir.touch(1)
            await asyncio.sleep(2 * self._options.interval_s + 2)
        for process in self._processes:
            if (segments := len(process.directory.memories)) > _IDLE_SEGMENTS:
                self._ledger.broken(f"process {process.number} has {segments} segments while idle")
