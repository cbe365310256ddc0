"""Which chunk of a batch comes next, and which of its keys must be restored.

All methods but `arrange` are synchronous, so a flush can be cancelled at any of its awaits.
"""

from collections.abc import Collection, Iterable
from typing import Final

from tracker._flush.order import by_region
from tracker._flush.store import Chunk, ChunkResult
from tracker.errors import RowRejected, StoreMisconfigured, StoreTimeout, StoreUnavailable
from tracker.keys import Entries, Key

_SMALLEST_CHUNK_KEYS: Final = 50
"""A chunk of this size that times out is divided further only to find a row that is slow."""
_MAX_REJECTED_KEYS: Final = 100
"""If a flush has more rejected rows, the fault is in the table, not in the rows."""
_MAX_TEMPORARY_FAILURES: Final = 60
"""Two rows of a chunk of 5,000 are found with about 50 writes that fail."""
_MAX_TIMEOUTS: Final = 12
"""As many as it takes to find two slow rows in the smallest chunk; each lasts seconds."""
_NO_CHUNK: Final = Chunk([], [])


class BatchProgress:
    """How far one batch has been written.

    Args:
        batch: the drained entries; never changed, because views of the buffer may show them.
        chunk_keys: the most keys in a chunk.
    """

    def __init__(self, batch: Entries, chunk_keys: int) -> None:
        self.chunk_keys = chunk_keys
        self.timed_out = False
        self.locked: Entries = {}
        self.missing: Entries = {}
        self.rejected: Entries = {}
        self.postponed: Entries = {}
        """What failed although the store is in order and although it may succeed later."""
        self.rejection: RowRejected | None = None
        """Why the last row was rejected."""
        self._any_advanced = False  # whether any row has been written
        self._table_at_fault = False
        self._postponement: StoreUnavailable | None = None
        self._failures = 0  # of chunks that were divided or postponed for a temporary error
        self._timeouts = 0  # those among them
        self._missing_believed = False
        self._batch = batch
        self._regions: list[Chunk] = []  # the next one to write is last
        self._taken: list[list[Key]] = []
        self._remaining_keys = len(batch)
        self._chunk = _NO_CHUNK  # being written
        self._parts: list[Chunk] = []  # of a chunk that was divided, still to be written
        self._any_committed = False

    async def arrange(self, last: Collection[Key]) -> None:
        """Decide the order in which keys are written; call it before the first chunk.

        Args:
            last: keys that failed in the last flush. They go to the end, where they delay no other.
        """
        if len(self._batch) <= self.chunk_keys:
            self._regions = [Chunk(list(self._batch), list(self._batch.values()))]
        else:
            self._regions = await by_region(self._batch, set(last))
            self._regions.reverse()

    def next_chunk(self) -> Chunk:
        """Return the entries to write next; an empty chunk when all have been written."""
        if self._parts:
            self._chunk = self._parts.pop()
            return self._chunk
        chunk = Chunk([], [])
        while self._regions and len(chunk) < self.chunk_keys:
            some = self._regions[-1].take(self.chunk_keys - len(chunk))
            chunk.keys.extend(some.keys)
            chunk.seconds.extend(some.seconds)
            if not self._regions[-1]:
                self._regions.pop()
        self._taken.append(chunk.keys)
        self._remaining_keys -= len(chunk)
        self._chunk = chunk
        return chunk

    def under_way(self) -> Collection[Key]:
        """Return the keys of the chunk that is being written."""
        return self._chunk.keys

    @property
    def remaining_chunks(self) -> int:
        """How many chunks are still to be written, if none is divided further."""
        return len(self._parts) + -(-self._remaining_keys // self.chunk_keys)

    @property
    def found(self) -> int:
        """How many keys of the batch have a row, if the whole batch was tried."""
        return len(self._batch) - len(self.missing)

    def committed(self, result: ChunkResult, *, advanced: bool) -> None:
        """Record the outcome of the chunk.

        Args:
            result: what the store returned.
            advanced: whether any row was written.

        Raises:
            StoreMisconfigured: so many rows are rejected that the table must be at fault.
        """
        unwritten = result.rejected or result.locked or result.missing
        entries = dict(self._chunk.entries()) if unwritten else {}
        locked = [(key, entries[key]) for key in result.locked]
        missing = [(key, entries[key]) for key in result.missing]
        rejected = [(key, entries[key]) for key in result.rejected]
        self._any_committed = True
        self._any_advanced |= advanced
        self._chunk = _NO_CHUNK
        self.locked.update(locked)
        self.missing.update(missing)
        if rejected:
            self._reject(rejected, RowRejected("a trigger or a policy skipped the row"))

    def divide_late(self) -> bool:
        """Split a chunk that took too long into halves, and let later chunks be smaller.

        Returns:
            False if it is small already: then the store is slow, or a row; see `postpone`.
        """
        middle = len(self._chunk) // 2
        self.timed_out = True
        self.chunk_keys = max(middle, min(self.chunk_keys, _SMALLEST_CHUNK_KEYS))
        if len(self._chunk) <= _SMALLEST_CHUNK_KEYS:
            return False
        self._halve()
        return True

    def divide(self, error: RowRejected) -> None:
        """Split the chunk into halves, to find the rejected row.

        Raises:
            StoreMisconfigured: so many rows are rejected that the table must be at fault.
        """
        chunk = self._chunk
        self._halve()
        if len(chunk) == 1:
            self._reject(chunk.entries(), error)

    def postpone(self, error: StoreUnavailable) -> None:
        """Split the chunk, to write its other rows although one of them fails or is slow each time.

        Raises:
            StoreUnavailable: so many chunks have failed that it is not for single rows.
        """
        self._failures += 1
        self._timeouts += isinstance(error, StoreTimeout)
        if self._failures > _MAX_TEMPORARY_FAILURES or self._timeouts > _MAX_TIMEOUTS:
            raise error
        chunk = self._chunk
        self._halve()
        if len(chunk) == 1:
            self._postponement = error
            self.postponed.update(chunk.entries())

    def check_postponed(self) -> None:
        """Report rows that failed for a temporary error, for which no row is rejected.

        Raises:
            StoreUnavailable: there are some; their touches must be written again.
        """
        if self._postponement is not None:
            raise self._postponement

    def _halve(self) -> None:
        chunk, middle = self._chunk, len(self._chunk) // 2
        self._chunk = _NO_CHUNK
        if len(chunk) > 1:
            self._parts += [
                Chunk(chunk.keys[middle:], chunk.seconds[middle:]),
                Chunk(chunk.keys[:middle], chunk.seconds[:middle]),
            ]

    def _reject(self, entries: Iterable[tuple[Key, int]], error: RowRejected) -> None:
        self.rejected.update(entries)
        self.rejection = error
        if len(self.rejected) > _MAX_REJECTED_KEYS:
            self._table_at_fault = True
            raise StoreMisconfigured(
                f"more than {_MAX_REJECTED_KEYS} rows are rejected, the last one: {error}"
            ) from error

    def check_rejections(self) -> None:
        """Accept that rows are at fault only if other rows were written.

        Raises:
            StoreMisconfigured: all rows that were tried are rejected, or the error is permanent.
            StoreUnavailable: the only row that was tried is; the row or the table may be at fault.
        """
        if self.rejected and not self._any_advanced:
            self._table_at_fault = True
            rejection = self.rejection
            permanent = rejection and isinstance(rejection.__cause__, StoreMisconfigured)
            kind = StoreMisconfigured if permanent or len(self.rejected) > 1 else StoreUnavailable
            raise kind(f"no row is written and {len(self.rejected)} rejected: {rejection}")

    def believe_missing(self) -> None:
        """Accept that the missing keys have no row; until then they must be written again."""
        self._missing_believed = True

    def uncommitted(self) -> Entries:
        """Return what must be written again; call it once, at the end of the flush.

        If the whole batch was tried, that is what is locked. If the flush ended early, it is also
        what was not tried, and what was rejected or missing, because the table may be at fault.
        """
        hidden = self.postponed if self._missing_believed else self.missing | self.postponed
        finished = not self._chunk and not self._parts and not self._remaining_keys
        if finished and not self._table_at_fault and not hidden:
            return self.locked
        if not self._any_committed:
            return self._batch
        # To copy the batch and delete keys is faster than to copy keys one by one: 34 ms against
        # 300 ms for a million keys.
        if self._remaining_keys >= len(self._batch) // 2:
            uncommitted = self._batch.copy()
            for keys in self._taken:
                for key in keys:
                    del uncommitted[key]
        else:
            uncommitted = {key: at for region in self._regions for key, at in region.entries()}
        uncommitted |= self.locked
        uncommitted |= self.rejected
        uncommitted |= hidden
        for part in self._parts:
            uncommitted.update(part.entries())
        uncommitted.update(self._chunk.entries())
        return uncommitted
