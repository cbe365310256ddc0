"""Runs one history: processes receive touches, stop, crash and start during faults."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from benchmarks.simulation.disk import Machine
from benchmarks.simulation.faults import FAULTS, Surroundings
from benchmarks.simulation.final_check import FinalCheck
from benchmarks.simulation.ledger import EPOCH, LawBroken, Ledger
from benchmarks.simulation.log_capture import speaking_to
from benchmarks.simulation.loop import VirtualLoop
from benchmarks.simulation.network import Network
from benchmarks.simulation.options import some_options
from benchmarks.simulation.parameters import turned
from benchmarks.simulation.process import Process
from benchmarks.simulation.server import Server
from benchmarks.simulation.watch import Watch
from tracker._journal.format import Segment

_LOOK_EVERY: Final = 16
"""Steps between two of the expensive checks."""


class History:
    """One history.

    Args:
        seed: determines the whole history.
        trace: receives each step as text, if given.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.happened: Counter[str] = Counter()
        self._chance = chance = random.Random(seed)
        self._seed = seed
        self._loop = VirtualLoop(chance)
        self._ledger = Ledger(self._loop.time)
        if trace is not None:
            self._ledger.trace = lambda event: trace(f"{self._loop.time():10.4f} {event}")
        self._keys = range(1, chance.randint(3, 40))
        self._options = some_options(chance)
        self._server = Server(self._options.target, self._ledger, chance)
        self._server.rows = dict.fromkeys(self._keys)
        self._network = Network(self._server, chance)
        self._machine = Machine(self._ledger, chance.choice((40, 100, 400)), chance)
        self._surroundings = Surroundings(
            self._server, self._network, self._machine, self._keys, chance
        )
        self._ends: dict[str, Callable[[], None]] = {}
        self._watches: list[Watch] = []
        self._started = 0
        self._crash_at = 0
        self._loop.after_step = self._after_step
        self._loop.on_unhandled = self._on_unhandled

    def run(self) -> None:
        """Run it.

        Raises:
            LawBroken: the tracker has violated an invariant.
        """
        with turned(self._chance), speaking_to(self._ledger, self._machine):
            before = random.getstate()
            random.seed(self._seed)  # the tracker's own jitter
            try:
                self._loop.run_until_complete(self._happen())
            finally:
                self._loop.after_step = lambda: None
                self._loop.on_unhandled = lambda _: None
                self._end_all()
                self._loop.close()
                random.setstate(before)
        self.happened["steps"] += self._loop.steps
        self.happened["touches"] += self._ledger.touches

    def _end_all(self) -> None:
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            with suppress(RuntimeError):  # the loop was stopped by a failure
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))

    async def _happen(self) -> None:
        chance = self._chance
        writers = chance.choice((1, 2, 3, 3))
        until = self._loop.time() + chance.uniform(5, 40)
        self._arm_crash()
        tasks = [
            asyncio.create_task(self._life(until)),
            *(asyncio.create_task(self._populate(until)) for _ in range(writers)),
        ]
        await asyncio.gather(*tasks)
        self._crash_at = 0
        for kind in list(self._ends):
            self._lift(kind)
        final_check = FinalCheck(self._options, self._ledger, self._machine, self._living())
        await final_check.everything_ends_well(self._start)
        for watch in self._watches:
            self._is_over(watch.process)

    def _living(self) -> list[Process]:
        return [watch.process for watch in self._watches if not watch.process.is_gone]

    # Faults.

    async def _life(self, until: float) -> None:
        chance = self._chance
        mean_pause_s = chance.choice((0.5, 2, 10))
        while self._loop.time() < until:
            await asyncio.sleep(chance.expovariate(1 / mean_pause_s))
            kind = chance.choice(list(FAULTS))
            if kind not in self._ends:
                self.happened[f"fault: {kind}"] += 1
                self._ledger.say(f"fault: {kind}")
                self._ends[kind] = FAULTS[kind](self._surroundings)
                self._loop.call_later(chance.expovariate(0.7), self._lift, kind)

    def _lift(self, kind: str) -> None:
        if kind in self._ends:
            self._ledger.say(f"over: {kind}")
            self._ends.pop(kind)()

    def _arm_crash(self) -> None:
        rarely = self._chance.choice((200, 2000, 20_000))
        self._crash_at = self._loop.steps + self._chance.randint(1, rarely)

    def _crash_one(self) -> None:
        self._arm_crash()
        if living := self._living():
            process = self._chance.choice(living)
            self._ledger.say(f"process {process.number} crashes")
            self.happened["crashes"] += 1
            process.crash(self._junk())
            self._check_nothing_lost()

    def _junk(self) -> bytes:
        """Return an incomplete or corrupt record, or nothing."""
        memory = bytearray(64)
        Segment("junk", memory, 0).append(self._chance.choice(self._keys), EPOCH + 1_000_000)
        record = memory.rstrip(b"\0")
        match self._chance.randrange(3):
            case 0:
                return b""
            case 1:
                return bytes(record[:-1])
            case _:
                record[self._chance.randrange(4)] ^= 1 << self._chance.randrange(8)
                return bytes(record)

    # Processes.

    async def _populate(self, until: float) -> None:
        chance = self._chance
        while self._loop.time() < until:
            process = self._start()
            lifetime = self._loop.time() + chance.expovariate(1 / 15)
            while not process.is_gone and self._loop.time() < min(until, lifetime):
                await asyncio.sleep(chance.expovariate(3))
                if process.serves and not process.is_gone:
                    self._something_happens(process)
            if not process.is_gone and self._loop.time() < until:
                await self._stop(process)
            await asyncio.sleep(chance.expovariate(2))

    def _start(self) -> Process:
        self._started += 1
        process = Process(self._started, self._options, self._network, self._machine)
        self._ledger.say(f"process {process.number} starts")
        if self._chance.random() < 0.3:
            process.ahead_s = self._chance.choice((-3600.0, -5, 5, 3600))
            process.drift = self._chance.uniform(-0.1, 0.1)
        self._watches.append(Watch(process, self._ledger))
        return process

    async def _stop(self, process: Process) -> None:
        self._ledger.say(f"process {process.number} is stopped")
        self.happened["stops"] += 1
        if self._chance.random() < 0.7:
            process.ask_to_stop()
        else:
            process.cancel()
        await asyncio.wait({process.task})

    def _something_happens(self, process: Process) -> None:
        chance = self._chance
        for _ in range(chance.choice((1, 2, 5, 30))):
            self._touch(process)
        what = chance.random()
        if what < 0.1:
            process.ask_to_flush(chance.choice((0.001, 0.01, 1, 100)))
        elif what < 0.12:
            process.ahead_s = chance.choice((-3600.0, -1, 0, 1, 3600))
            self._ledger.say(f"process {process.number}'s clock is {process.ahead_s} s ahead")

    def _touch(self, process: Process) -> None:
        chance = self._chance
        key: object = chance.choice(self._keys)
        at: object = None
        if (odd := chance.random()) < 0.1:
            key = str(key)
        elif odd < 0.12:
            key, at = chance.choice(((None, None), (key, "soon"), ([], 5), (key, -5), (key, 1e30)))
        elif odd < 0.2:
            at = EPOCH + self._loop.time() + chance.uniform(-10, 10)
        process.touch(key, at)

    # Invariants.

    def _on_unhandled(self, error: str) -> None:
        self._ledger.violation = self._ledger.violation or f"unhandled error: {error}"

    def _after_step(self) -> None:
        if self._ledger.violation is not None:
            raise LawBroken(self._ledger.violation)
        look = not self._loop.steps % _LOOK_EVERY
        for watch in self._watches:
            if not watch.process.crashed:
                watch.check()
                if look:
                    watch.look()
        if look:
            self._watches = [watch for watch in self._watches if not self._is_over(watch.process)]
            self._check_nothing_lost()
        if self._loop.steps == self._crash_at:
            self._crash_one()

    def _is_over(self, process: Process) -> bool:
        if not process.is_gone:
            return False
        if not process.crashed and not process.task.cancelled() and process.task.exception():
            self._ledger.broken(f"a process ends with {process.task.exception()!r}")
        self._count(process)
        return True

    def _count(self, process: Process) -> None:
        counts = process.flusher.counts
        self.happened["flushes"] += counts.success + counts.partial + counts.failed

    def _check_nothing_lost(self) -> None:
        if not (owed := self._ledger.owed):
            return
        holders = [process.holds() for process in self._living()]
        left_behind: dict[int, int] | None = None
        for key, second in owed.items():
            if any((holds(key) or 0) >= second for holds in holders):
                continue
            if left_behind is None:
                left_behind = self._machine.left_behind()
            if left_behind.get(key, -1) < second:
                self._ledger.broken(f"the touch of key {key} at {second} is lost")
