"""One flush: drain the buffer, write it chunk by chunk, give back what was not committed.

Every drained key ends in exactly one of written, unchanged, missing or rejected, or goes back into
the buffer. That holds at every await, cancellation included.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Final

import structlog

from tracker.buffer import Buffer, Entries
from tracker.errors import (
    RowRefused,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
)
from tracker.histogram import Histogram
from tracker.keys import Key
from tracker.repeats import Repeats
from tracker.store import Chunk, Store, Written

_DURATION_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS_BOUNDS: Final = (1, 10, 50, 100, 250, 500, 1000, 2000, 5000, 10_000, 20_000)
_SMALLEST_CHUNK_KEYS: Final = 50
_MOST_REFUSED_KEYS: Final = 100
"""A flush in which more rows are refused has met a fault of the table, not of rows."""
_SHOWN_KEYS: Final = 5
_KEY: Final = itemgetter(0)  # sorting whole entries would compare them one by one
_LOG_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class FlushCounts:
    """What has become of the drained keys and of the flushes so far; plain integers."""

    written: int = 0
    unchanged: int = 0
    missing: int = 0
    rejected: int = 0
    success: int = 0
    partial: int = 0
    failed: int = 0
    last_success_at: float = 0.0
    duration_s: Histogram = field(default_factory=lambda: Histogram(_DURATION_BOUNDS_S))
    chunk_rows: Histogram = field(default_factory=lambda: Histogram(_ROWS_BOUNDS))


class Flush:
    """Moves what is pending in one buffer into its store.

    Args:
        buffer: where the touches are.
        store: where they go.
        chunk_keys: the most keys in one statement.
        clock: wall clock in seconds since the epoch.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        buffer: Buffer,
        store: Store,
        *,
        chunk_keys: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.buffer = buffer
        self.counts = FlushCounts()
        self._store = store
        self._most_keys = self._chunk_keys = chunk_keys
        self._clock = clock
        self._monotonic = monotonic
        self._one_at_a_time = asyncio.Lock()
        self._repeats = {
            event: Repeats(_LOG_EVERY_S, monotonic)
            for event in ("flush.rows_refused", "flush.rows_missing", "flush.rows_locked")
        }

    async def __call__(self) -> int:
        """Write all that is pending now; what cannot be written stays in the buffer.

        Returns:
            How many keys are still pending because somebody else's transaction holds their rows.

        Raises:
            StoreError: the store failed; what it did not commit is pending again.
        """
        async with self._one_at_a_time:
            batch = self.buffer.drain()
            if not batch:
                return 0
            started = self._monotonic()
            writing = _Writing(batch, self._chunk_keys)
            try:
                await self._write(writing)
                writing.judge_refusals()
                self._conclude(writing)
                locked = len(writing.locked)  # the buffer takes these over and adds to them
            except BaseException as error:
                self.counts.failed += 1
                if isinstance(error, StoreError):
                    self._chunk_keys = writing.chunk_keys
                raise
            finally:
                self.buffer.settle(writing.uncommitted())
                self.counts.duration_s.observe(self._monotonic() - started)
            # Back to larger chunks one flush at a time: the next timeout may be one step away.
            grown = writing.chunk_keys if writing.timed_out else 2 * writing.chunk_keys
            self._chunk_keys = min(grown, self._most_keys)
            return locked

    async def _write(self, writing: "_Writing") -> None:
        while chunk := writing.next_chunk():
            try:
                written = await self._store.write(chunk)
            except (RowRefused, StoreTimeout) as error:
                writing.divide(error)
                continue
            advanced = self._account(chunk, written)
            writing.committed(written, advanced=advanced)

    def _account(self, chunk: Chunk, written: Written) -> bool:
        """Count what became of a chunk; whether any row of it was written."""
        counts = self.counts
        ended = len(chunk) - len(written.refused) - len(written.locked)
        counts.chunk_rows.observe(len(chunk))
        counts.unchanged += written.unchanged
        counts.missing += len(written.missing)
        advanced = ended - written.unchanged - len(written.missing)
        counts.written += advanced
        if ended:
            counts.last_success_at = self._clock()
        self._say("flush.rows_missing", written.missing)
        return advanced > 0

    def _conclude(self, writing: "_Writing") -> None:
        self.counts.rejected += len(writing.refused)
        if writing.locked:
            self.counts.partial += 1
        else:
            self.counts.success += 1
        self._say("flush.rows_refused", writing.refused, error=str(writing.refusal))
        self._say("flush.rows_locked", writing.locked)

    def _say(self, event: str, keys: Collection[Key], **more: str) -> None:
        """Log what became of some keys, a few of them by name, once a minute at most."""
        first = [str(key) for key in islice(keys, _SHOWN_KEYS)]
        if first and (times := self._repeats[event].again()):
            # Not even a log that cannot be written may upset the accounting.
            with suppress(Exception):
                target = self.buffer.target.name
                log.warning(
                    event, target=target, keys=len(keys), first_keys=first, times=times, **more
                )


class _Writing:
    """How far the writing of a batch has come, so that it can be broken off at any await.

    Args:
        batch: the drained entries; no value is changed, for views of the buffer may show them.
        chunk_keys: the most keys in a chunk.
    """

    def __init__(self, batch: Entries, chunk_keys: int) -> None:
        self.chunk_keys = chunk_keys
        self.timed_out = False
        self.locked: Entries = {}
        self.refused: Entries = {}
        self._refusal: RowRefused | None = None
        self._advanced = False  # whether any row has been written
        self._table_is_to_blame = False
        self._batch = batch
        self._rest = iter(batch.items())
        self._taken = 0
        self._chunk: Chunk = ()  # being written
        self._parts: list[Chunk] = []  # of a chunk that was divided, still to be written
        self._begun = False  # whether anything has been committed

    def next_chunk(self) -> Chunk:
        """Return the entries to write next, in key order; none when all has been written."""
        if self._parts:
            self._chunk = self._parts.pop()
        else:
            # In key order, because every writer must lock rows in the same order.
            self._chunk = sorted(islice(self._rest, self.chunk_keys), key=_KEY)
            self._taken += len(self._chunk)
        return self._chunk

    @property
    def refusal(self) -> RowRefused | None:
        """Why the last row was refused."""
        return self._refusal

    def committed(self, written: Written, *, advanced: bool) -> None:
        """Note what became of the chunk.

        Args:
            written: what the store said.
            advanced: whether any row was written.

        Raises:
            StoreMisconfigured: so many rows are refused that the table must be to blame.
        """
        self._begun = True
        self._advanced |= advanced
        entries = dict(self._chunk) if written.refused or written.locked else {}
        self._chunk = ()
        self.locked.update((key, entries[key]) for key in written.locked)
        if written.refused:
            refused = [(key, entries[key]) for key in written.refused]
            self._refuse(refused, RowRefused("a trigger or a policy left the row alone"))

    def divide(self, error: RowRefused | StoreTimeout) -> None:
        """Write the chunk in two halves, to find the row that is refused or to be in time.

        Raises:
            StoreTimeout: the chunk is as small as it gets.
            StoreMisconfigured: so many rows are refused that the table must be to blame.
        """
        chunk, middle = self._chunk, len(self._chunk) // 2
        if isinstance(error, StoreTimeout):
            self.timed_out = True
            self.chunk_keys = max(middle, min(self.chunk_keys, _SMALLEST_CHUNK_KEYS))
            if len(chunk) <= _SMALLEST_CHUNK_KEYS:
                raise error
        self._chunk = ()
        if len(chunk) > 1:
            self._parts += [chunk[middle:], chunk[:middle]]
        elif isinstance(error, RowRefused):
            self._refuse(chunk, error)

    def _refuse(self, entries: Chunk, error: RowRefused) -> None:
        self.refused.update(entries)
        self._refusal = error
        if len(self.refused) > _MOST_REFUSED_KEYS:
            self._table_is_to_blame = True
            raise StoreMisconfigured(
                f"more than {_MOST_REFUSED_KEYS} rows are refused, the last one: {error}"
            ) from error

    def judge_refusals(self) -> None:
        """Believe that rows are to blame only where others were written.

        Raises:
            StoreMisconfigured: all rows that were tried are refused.
            StoreUnavailable: the only row that was tried is; it may be the row or the table.
        """
        if self.refused and not self._advanced:
            self._table_is_to_blame = True
            kind = StoreMisconfigured if len(self.refused) > 1 else StoreUnavailable
            raise kind(f"no row is written and {len(self.refused)} refused: {self._refusal}")

    def uncommitted(self) -> Entries:
        """Return what must be written again, and end the writing.

        Of a batch that is through that is what is locked. Of one that was broken off it is also
        what was refused, for the table may have been to blame, and what was not tried. The chunk
        that failed comes last, so that one which always fails holds up no other.
        """
        finished = not self._chunk and not self._parts and self._taken == len(self._batch)
        if finished and not self._table_is_to_blame:
            return self.locked
        if not self._begun:
            left = self._batch
            for key, at in self._chunk:
                left[key] = left.pop(key, at)
            return left
        if self._taken <= len(self._batch) // 2:  # copying and deleting is faster than copying one
            left = self._batch.copy()  # by one: 34 ms against 300 ms for a million
            for key in islice(self._batch, self._taken):
                del left[key]
        else:
            left = dict(self._rest)
        left |= self.locked
        left |= self.refused
        for part in self._parts:
            left.update(part)
        left.update(self._chunk)
        return left
