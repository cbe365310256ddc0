"""A simulated process: a buffer, its journal and its flusher, wired as in a tracker."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, cast

from benchmarks.simulation.disk import Disk, SimulatedDirectory
from benchmarks.simulation.invariants import CheckedBuffer, CheckedStore
from benchmarks.simulation.ledger import EPOCH, Ledger
from benchmarks.simulation.loop import OWNER, OwnedTask
from benchmarks.simulation.network import Network, Pool
from benchmarks.simulation.options import Options
from tracker import StoreError
from tracker._flush.backoff import Backoff
from tracker._flush.flusher import Flusher
from tracker._flush.loop import FlushLoop
from tracker._journal.format import SEGMENT_BYTES
from tracker._journal.lifecycle import open_journals
from tracker.postgres._store import PostgresStore

_CANCEL_GRACE_S: Final = 1.0
_TOLERANCE_S: Final = 0.1
"""Allowance for operations that take no time without faults."""


async def _identity() -> str:
    return "the only cluster/the only database"


class Process:
    """A writer that runs until it is stopped or crashes.

    Args:
        number: the number of the process.
        options: its options.
        network: the network to the server.
        disk: the disk with its journal.
    """

    def __init__(self, number: int, options: Options, network: Network, disk: Disk) -> None:
        self.number = number
        self.ahead_s = 0.0
        """How far its clock is ahead of the server's, in seconds."""
        self.drift = 0.0
        """By which factor its clock is faster."""
        self.crashed = self.stopping = self.cancelled = False
        self.directory = SimulatedDirectory(disk, number, options.max_segments)
        self.explicit_flushes = 0
        self.explicit_at = 0.0
        """The time at which the last explicit flush ended."""
        self.options = options
        self._ledger = disk.ledger
        self._loop = asyncio.get_running_loop()
        self._pool = Pool(network)
        self._stop = asyncio.Event()
        self.buffer = CheckedBuffer(
            options.target,
            self._ledger,
            network.server.rows.get,
            clock=self._clock,
            monotonic=self._loop.time,
        )
        store = PostgresStore(
            cast("Any", self._pool),
            options.target,
            statement_timeout_s=options.statement_timeout_s,
            lock_timeout_s=options.lock_timeout_s,
        )
        self.store = CheckedStore(f"process {number}", store, self._ledger)
        self.flusher = Flusher(
            self.buffer,
            self.store,
            chunk_keys=options.chunk_keys,
            clock=self._clock,
            monotonic=self._loop.time,
        )
        self.store.begin(self.flusher.counts)
        self.flush_loop: FlushLoop | None = None
        self.task = self._own(self._run())

    def _clock(self) -> float:
        return EPOCH + self._loop.time() * (1 + self.drift) + self.ahead_s

    def _own(self, coroutine: Any) -> OwnedTask:
        token = OWNER.set(self)
        try:
            return cast("OwnedTask", self._loop.create_task(coroutine))
        finally:
            OWNER.reset(token)

    async def _run(self) -> None:
        options = self.options
        async with AsyncExitStack() as stack:
            recovery = None
            if options.journaled:
                recovery = await stack.enter_async_context(
                    open_journals(
                        self.directory,
                        {options.target.name: self.buffer},
                        dsn=None,
                        identity=_identity,
                        max_bytes=options.max_segments * SEGMENT_BYTES,
                    )
                )
            self.flush_loop = FlushLoop(
                self.flusher,
                interval_s=options.interval_s,
                deadline_s=options.deadline_s,
                backoff=Backoff(options.backoff_initial_s, options.backoff_max_s),
                monotonic=self._loop.time,
            )
            stack.push_async_callback(self._end, self.flush_loop)
            if recovery is not None:
                await stack.enter_async_context(recovery.running())
            await self._stop.wait()

    async def _end(self, loop: FlushLoop) -> None:
        self.stopping = True
        began = self._loop.time()
        stopping = asyncio.ensure_future(loop.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping
            raise
        took_s = self._loop.time() - began
        if took_s > self.options.deadline_s + _CANCEL_GRACE_S + _TOLERANCE_S and not self.crashed:
            self._ledger.violated(f"a stop took {took_s} s")

    def touch(self, key: object, at: object = None) -> None:
        """Touch a key, as a request does."""
        self.buffer.touch(key, at)

    async def flush_now(self, timeout_s: float) -> None:
        """Flush explicitly, as an application may, and stop waiting after a timeout."""
        if self.flush_loop is not None and not self.stopping:
            self.explicit_flushes += 1
            try:
                async with asyncio.timeout(timeout_s):
                    await self.flush_loop.flush()
            except (StoreError, TimeoutError):
                pass
            except RuntimeError:
                if not self.stopping:
                    raise
            finally:
                self.explicit_flushes -= 1
                self.explicit_at = self._loop.time()

    def request_flush(self, timeout_s: float) -> None:
        """Start an explicit flush in the process."""
        self._own(self.flush_now(timeout_s))

    def request_stop(self) -> None:
        """Shut it down."""
        self.stopping = True
        self._stop.set()

    def cancel(self) -> None:
        """Cancel all of its tasks at once, as `asyncio.run` does at its end."""
        self.stopping = self.cancelled = True
        for task in self.tasks():
            task.cancel()

    def tasks(self) -> list[OwnedTask]:
        """Return all tasks of the process, in the order in which they were made."""
        tasks = cast("set[OwnedTask]", asyncio.all_tasks(self._loop))
        return sorted((task for task in tasks if task.owner is self), key=lambda task: task.number)

    def crash(self, torn: bytes) -> None:
        """End it here and now; its tasks vanish without touching anything that others see.

        Args:
            torn: the bytes after its last complete record.
        """
        self._check_journal()
        self.crashed = self.stopping = True
        # Records of a crashed process do not count any more.
        self._ledger = self.buffer.ledger = self.store.ledger = Ledger(self._loop.time)
        self.directory.crash(torn)
        self._pool.crash()
        self._loop.create_task(self._cancel_tasks())

    async def _cancel_tasks(self) -> None:
        while tasks := self.tasks():
            for task in tasks:
                task.cancel()
            await asyncio.sleep(_TOLERANCE_S)

    def _check_journal(self) -> None:
        """Check that a crash loses only what the journal reports as not recorded."""
        pending, journal = self.buffer.pending(), self.buffer.journal
        kept = self.directory.entries()
        for key, second in pending.items():
            if kept.get(key, -1) >= second:
                continue
            if journal is not None and not journal.degraded:
                self._ledger.violated(f"key {key} at {second} is not in a healthy journal")
            if journal is None or (key, second) in self.buffer.missed:
                self._ledger.allow_loss(key, second, "no journal has it")

    def holds(self) -> Callable[[int], int | None]:
        """Return a function that returns the pending second of a key."""
        return self.buffer.view().get

    @property
    def serves(self) -> bool:
        """Whether it receives requests."""
        return self.flush_loop is not None

    @property
    def is_gone(self) -> bool:
        """Whether it has stopped or crashed."""
        return self.crashed or self.task.done()
