"""A buffer and a store that record in the ledger what they take, write and lose."""

from collections.abc import Callable
from typing import Any

from benchmarks.simulation.ledger import Ledger
from tracker import RowRejected, StoreMisconfigured, Target
from tracker._buffer.buffer import Buffer
from tracker._flush.counts import FlushCounts
from tracker._flush.store import Chunk, ChunkResult, Store


class CheckedBuffer(Buffer):
    """A buffer that records in the ledger what it takes, and what it reports as lost."""

    __slots__ = ("_now", "_stored", "ledger", "missed")

    def __init__(
        self,
        target: Target,
        ledger: Ledger,
        stored: Callable[[int], int | None],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(target, clock=clock, monotonic=monotonic)
        self.missed: set[tuple[int, int]] = set()
        """The changes that its journal did not record."""
        self.ledger = ledger
        self._stored = stored
        self._now = clock

    def touch(self, key: object, at: Any = None, now: float | None = None) -> None:
        """Touch, and record that the touch must be written, unless it is counted as dropped."""
        dropped, missed = sum(self.dropped.values()), self._missed_changes()
        super().touch(key, at, now)
        if len(self) > self.target.capacity_keys:
            self.ledger.violated(f"{len(self)} keys are more than the capacity")
        if sum(self.dropped.values()) != dropped:
            return
        second = int(self._now()) if at is None else min(int(at), int(self._now()))
        number = int(key)  # type: ignore[call-overload]
        second -= second % self.target.resolution_s
        self.ledger.touched(number, second, self._stored(number))
        if self._missed_changes() != missed:
            self.missed.add((number, second))

    def recover(self, key: object, second: int) -> None:
        """Recover, which changes neither what must be written nor what may be lost."""
        dropped = sum(self.dropped.values())
        super().recover(key, second)
        if sum(self.dropped.values()) != dropped:
            self.ledger.violated(f"key {key} is dropped during a recovery: {self.dropped}")

    def _missed_changes(self) -> int:
        return self.journal.missed if self.journal is not None else 0

    def close(self) -> int:
        """Close, and allow the loss of what it reports as lost."""
        pending, dropped = self.pending(), self.dropped["shutdown"]
        left = super().close()
        if left or self.dropped["shutdown"] != dropped:
            if left != len(pending) or self.dropped["shutdown"] != dropped + left:
                self.ledger.violated(f"{left} of {len(pending)} pending keys are lost at the stop")
            for key, second in pending.items():
                self.ledger.allow_loss(key, second, "lost at the stop")
        return left

    def pending(self) -> dict[int, int]:
        """Return the latest second of each key that is pending."""
        view = self.view()
        keys = {*self._live, *self._in_flight}
        return {int(key): view.get(key) or 0 for key in sorted(keys)}

    @property
    def is_draining(self) -> bool:
        """Whether something is in flight."""
        return bool(self._in_flight)

    @property
    def live_keys(self) -> int:
        """The number of keys that came since the last drain, or were restored."""
        return len(self._live)


class CheckedStore:
    """A store that records which keys may leave the buffer unwritten.

    Args:
        name: the name of the process.
        store: the tracker's store.
        ledger: where to record it.
    """

    def __init__(self, name: str, store: Store, ledger: Ledger) -> None:
        self._name = name
        self._store = store
        self.ledger = ledger
        self.on_flush: Callable[[], None] = lambda: None
        """Called at the first chunk of each flush."""
        self._flushes = -1
        self._advanced = False
        self._rejected_keys: dict[int, int] = {}
        self._rejected = 0

    def begin(self, counts: FlushCounts) -> None:
        """Set the function that counts flushes."""
        self.counts = counts

    async def write(self, chunk: Chunk) -> ChunkResult:
        """Write, and record the result of the chunk."""
        flushes = self.counts.success + self.counts.partial + self.counts.failed
        if flushes != self._flushes:
            self.check_rejected()
            self._flushes, self._advanced, self._rejected_keys = flushes, False, {}
            self.on_flush()
        try:
            written = await self._store.write(chunk)
        except BaseException as error:
            if self.ledger.trace is not None:
                self.ledger.say(f"{self._name} fails to write {chunk}: {error!r}")
            if isinstance(error, (RowRejected, StoreMisconfigured)) and len(chunk) == 1:
                self._rejected_keys.update(_entries(chunk))
            raise
        if self.ledger.trace is not None:
            self.ledger.say(f"{self._name} writes {chunk}: {written}")
        entries = _entries(chunk)
        for key in map(int, written.missing):
            if key not in self.ledger.missing:
                self.ledger.violated(f"key {key} is reported as missing, and never was")
            self.ledger.allow_loss(key, entries[key], "missing")
        for key in entries:  # rejected before, perhaps: the last answer of a flush counts
            self._rejected_keys.pop(key, None)
        self._rejected_keys.update((int(key), entries[int(key)]) for key in written.rejected)
        left = len(written.missing) + len(written.rejected) + len(written.locked)
        self._advanced |= len(chunk) > left + written.unchanged
        return written

    async def check(self) -> None:
        """Check."""
        await self._store.check()

    async def hides_rows(self) -> str | None:
        """Return the result of the store."""
        return await self._store.hides_rows()

    def check_rejected(self) -> None:
        """Allow the loss of rejected keys, if the server does reject them."""
        rejected, self._rejected = self.counts.rejected - self._rejected, self.counts.rejected
        if not rejected:
            return
        if rejected != len(self._rejected_keys) or not self._advanced:
            by_store = len(self._rejected_keys)
            self.ledger.violated(f"{rejected} keys are rejected, {by_store} by the store")
        for key, second in self._rejected_keys.items():
            self.ledger.allow_loss(key, second, "rejected")


def _entries(chunk: Chunk) -> dict[int, int]:
    return {int(key): second for key, second in chunk.entries()}
