"""Runs one history: processes receive touches, stop, crash and start during faults."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from benchmarks.simulation.disk import Disk
from benchmarks.simulation.faults import FAULTS, Environment
from benchmarks.simulation.final_check import FinalCheck
from benchmarks.simulation.ledger import EPOCH, InvariantViolation, Ledger
from benchmarks.simulation.log_capture import logs_traced
from benchmarks.simulation.loop import VirtualLoop
from benchmarks.simulation.network import Network
from benchmarks.simulation.options import random_options
from benchmarks.simulation.parameters import small_parameters
from benchmarks.simulation.process import Process
from benchmarks.simulation.process_checker import ProcessChecker
from benchmarks.simulation.server import Server
from tracker._journal.format import Segment

_FULL_CHECK_EVERY: Final = 16
"""Steps between two of the expensive checks."""


class History:
    """One history.

    Args:
        seed: determines the whole history.
        trace: receives each step as text, if given.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.events: Counter[str] = Counter()
        self._rng = rng = random.Random(seed)
        self._seed = seed
        self._loop = VirtualLoop(rng)
        self._ledger = Ledger(self._loop.time)
        if trace is not None:
            self._ledger.trace = lambda event: trace(f"{self._loop.time():10.4f} {event}")
        self._keys = range(1, rng.randint(3, 40))
        self._options = random_options(rng)
        self._server = Server(self._options.target, self._ledger, rng)
        self._server.rows = dict.fromkeys(self._keys)
        self._network = Network(self._server, rng)
        self._disk = Disk(self._ledger, rng.choice((40, 100, 400)), rng)
        self._environment = Environment(self._server, self._network, self._disk, self._keys, rng)
        self._active_faults: dict[str, Callable[[], None]] = {}
        self._checkers: list[ProcessChecker] = []
        self._started = 0
        self._crash_at = 0
        self._loop.after_step = self._after_step
        self._loop.on_unhandled = self._on_unhandled

    def run(self) -> None:
        """Run it.

        Raises:
            InvariantViolation: the tracker has violated an invariant.
        """
        with small_parameters(self._rng), logs_traced(self._ledger, self._disk):
            before = random.getstate()
            random.seed(self._seed)  # the tracker's own jitter
            try:
                self._loop.run_until_complete(self._run_processes())
            finally:
                self._loop.after_step = lambda: None
                self._loop.on_unhandled = lambda _: None
                self._cancel_all()
                self._loop.close()
                random.setstate(before)
        self.events["steps"] += self._loop.steps
        self.events["touches"] += self._ledger.touches

    def _cancel_all(self) -> None:
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            with suppress(RuntimeError):  # the loop was stopped by a failure
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))

    async def _run_processes(self) -> None:
        rng = self._rng
        writers = rng.choice((1, 2, 3, 3))
        until = self._loop.time() + rng.uniform(5, 40)
        self._arm_crash()
        tasks = [
            asyncio.create_task(self._inject_faults(until)),
            *(asyncio.create_task(self._run_writer(until)) for _ in range(writers)),
        ]
        await asyncio.gather(*tasks)
        self._crash_at = 0
        for kind in list(self._active_faults):
            self._end_fault(kind)
        final_check = FinalCheck(self._options, self._ledger, self._disk, self._running())
        await final_check.run(self._start)
        for checker in self._checkers:
            self._is_over(checker.process)

    def _running(self) -> list[Process]:
        return [checker.process for checker in self._checkers if not checker.process.is_gone]

    # Faults.

    async def _inject_faults(self, until: float) -> None:
        rng = self._rng
        mean_pause_s = rng.choice((0.5, 2, 10))
        while self._loop.time() < until:
            await asyncio.sleep(rng.expovariate(1 / mean_pause_s))
            kind = rng.choice(list(FAULTS))
            if kind not in self._active_faults:
                self.events[f"fault: {kind}"] += 1
                self._ledger.say(f"fault: {kind}")
                self._active_faults[kind] = FAULTS[kind](self._environment)
                self._loop.call_later(rng.expovariate(0.7), self._end_fault, kind)

    def _end_fault(self, kind: str) -> None:
        if kind in self._active_faults:
            self._ledger.say(f"over: {kind}")
            self._active_faults.pop(kind)()

    def _arm_crash(self) -> None:
        rarely = self._rng.choice((200, 2000, 20_000))
        self._crash_at = self._loop.steps + self._rng.randint(1, rarely)

    def _crash_one(self) -> None:
        self._arm_crash()
        if running := self._running():
            process = self._rng.choice(running)
            self._ledger.say(f"process {process.number} crashes")
            self.events["crashes"] += 1
            process.crash(self._torn_record())
            self._check_nothing_lost()

    def _torn_record(self) -> bytes:
        """Return an incomplete or corrupt record, or nothing."""
        memory = bytearray(64)
        Segment("torn", memory, 0).append(self._rng.choice(self._keys), EPOCH + 1_000_000)
        record = memory.rstrip(b"\0")
        match self._rng.randrange(3):
            case 0:
                return b""
            case 1:
                return bytes(record[:-1])
            case _:
                record[self._rng.randrange(4)] ^= 1 << self._rng.randrange(8)
                return bytes(record)

    # Processes.

    async def _run_writer(self, until: float) -> None:
        rng = self._rng
        while self._loop.time() < until:
            process = self._start()
            lifetime = self._loop.time() + rng.expovariate(1 / 15)
            while not process.is_gone and self._loop.time() < min(until, lifetime):
                await asyncio.sleep(rng.expovariate(3))
                if process.serves and not process.is_gone:
                    self._use(process)
            if not process.is_gone and self._loop.time() < until:
                await self._stop(process)
            await asyncio.sleep(rng.expovariate(2))

    def _start(self) -> Process:
        self._started += 1
        process = Process(self._started, self._options, self._network, self._disk)
        self._ledger.say(f"process {process.number} starts")
        if self._rng.random() < 0.3:
            process.ahead_s = self._rng.choice((-3600.0, -5, 5, 3600))
            process.drift = self._rng.uniform(-0.1, 0.1)
        self._checkers.append(ProcessChecker(process, self._ledger))
        return process

    async def _stop(self, process: Process) -> None:
        self._ledger.say(f"process {process.number} is stopped")
        self.events["stops"] += 1
        if self._rng.random() < 0.7:
            process.request_stop()
        else:
            process.cancel()
        await asyncio.wait({process.task})

    def _use(self, process: Process) -> None:
        rng = self._rng
        for _ in range(rng.choice((1, 2, 5, 30))):
            self._touch(process)
        what = rng.random()
        if what < 0.1:
            process.request_flush(rng.choice((0.001, 0.01, 1, 100)))
        elif what < 0.12:
            process.ahead_s = rng.choice((-3600.0, -1, 0, 1, 3600))
            self._ledger.say(f"process {process.number}'s clock is {process.ahead_s} s ahead")

    def _touch(self, process: Process) -> None:
        rng = self._rng
        key: object = rng.choice(self._keys)
        at: object = None
        if (odd := rng.random()) < 0.1:
            key = str(key)
        elif odd < 0.12:
            key, at = rng.choice(((None, None), (key, "soon"), ([], 5), (key, -5), (key, 1e30)))
        elif odd < 0.2:
            at = EPOCH + self._loop.time() + rng.uniform(-10, 10)
        process.touch(key, at)

    # Invariants.

    def _on_unhandled(self, error: str) -> None:
        self._ledger.violation = self._ledger.violation or f"unhandled error: {error}"

    def _after_step(self) -> None:
        if self._ledger.violation is not None:
            raise InvariantViolation(self._ledger.violation)
        full = not self._loop.steps % _FULL_CHECK_EVERY
        for checker in self._checkers:
            if not checker.process.crashed:
                checker.check()
                if full:
                    checker.check_fully()
        if full:
            self._checkers = [
                checker for checker in self._checkers if not self._is_over(checker.process)
            ]
            self._check_nothing_lost()
        if self._loop.steps == self._crash_at:
            self._crash_one()

    def _is_over(self, process: Process) -> bool:
        if not process.is_gone:
            return False
        if not process.crashed and not process.task.cancelled() and process.task.exception():
            self._ledger.violated(f"a process ends with {process.task.exception()!r}")
        self._count(process)
        return True

    def _count(self, process: Process) -> None:
        counts = process.flusher.counts
        self.events["flushes"] += counts.success + counts.partial + counts.failed

    def _check_nothing_lost(self) -> None:
        if not (required := self._ledger.required):
            return
        holders = [process.holds() for process in self._running()]
        orphaned_entries: dict[int, int] | None = None
        for key, second in required.items():
            if any((holds(key) or 0) >= second for holds in holders):
                continue
            if orphaned_entries is None:
                orphaned_entries = self._disk.orphaned_entries()
            if orphaned_entries.get(key, -1) < second:
                self._ledger.violated(f"the touch of key {key} at {second} is lost")
