"""One flush: drain the buffer, write it chunk by chunk, give back what was not committed.

Every drained key ends in exactly one of written, unchanged, missing or rejected, or goes back into
the buffer. That holds at every await, cancellation included.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import structlog

from tracker.buffer import Buffer, Entries
from tracker.errors import RowRefused, StoreMisconfigured, StoreTimeout
from tracker.histogram import Histogram
from tracker.keys import Key
from tracker.store import Chunk, Store

_DURATION_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS_BOUNDS: Final = (1, 10, 50, 100, 250, 500, 1000, 2000, 5000, 10_000, 20_000)
_SMALLEST_CHUNK_KEYS: Final = 50
_MOST_REFUSED_KEYS: Final = 100
"""A flush in which more rows are refused has met a fault of the table, not of rows."""
_SHOWN_KEYS: Final = 5

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class FlushCounts:
    """What has become of the drained keys and of the flushes so far; plain integers."""

    written: int = 0
    unchanged: int = 0
    missing: int = 0
    rejected: int = 0
    chunks: int = 0
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
            try:
                locked = await self._write(batch)
            except BaseException:
                self.counts.failed += 1
                raise
            finally:
                self.counts.duration_s.observe(self._monotonic() - started)
            if locked:
                self.counts.partial += 1
            else:
                self.counts.success += 1
            self.counts.last_success_at = self._clock()
            return locked

    async def _write(self, batch: Entries) -> int:
        rest = iter(batch.items())
        split: list[Chunk] = []  # halves of a chunk with a refused row, still to be written
        chunk: Chunk = ()
        locked: Entries = {}
        refused: list[Key] = []
        begun = False  # whether any key of the batch has been accounted for
        try:
            # Sorted, because every writer must lock rows in the same order.
            while chunk := split.pop() if split else sorted(islice(rest, self._chunk_keys)):
                try:
                    written = await self._store.write(chunk)
                except RowRefused as error:
                    if len(chunk) > 1:
                        middle = len(chunk) // 2
                        split += [chunk[middle:], chunk[:middle]]
                        continue
                    if len(refused) == _MOST_REFUSED_KEYS:
                        raise StoreMisconfigured(
                            f"more than {_MOST_REFUSED_KEYS} rows refused, the last: {error}"
                        ) from error
                    begun = True
                    refused.append(chunk[0][0])
                    self._reject(chunk[0][0], error)
                    continue
                begun = True
                again = dict.fromkeys(written.locked)
                locked.update((key, at) for key, at in chunk if key in again)
                self.counts.chunks += 1
                self.counts.chunk_rows.observe(len(chunk))
                self.counts.unchanged += written.unchanged
                self.counts.missing += len(written.missing)
                self.counts.written += (
                    len(chunk) - written.unchanged - len(written.missing) - len(again)
                )
                if written.missing:
                    self._say_missing(written.missing)
                self._chunk_keys = min(2 * self._chunk_keys, self._most_keys)
        except StoreTimeout:
            self._chunk_keys = max(
                self._chunk_keys // 2, min(_SMALLEST_CHUNK_KEYS, self._most_keys)
            )
            raise
        finally:
            # After a failure of the first chunk, by far the most common, nothing is copied.
            if begun:
                locked.update(chunk)
                for half in split:
                    locked.update(half)
                locked.update(rest)
                self.buffer.settle(locked)
            else:
                self.buffer.settle(batch)
        return len(locked)

    def _reject(self, key: Key, error: RowRefused) -> None:
        self.counts.rejected += 1
        log.error(
            "flush.row_refused", target=self.buffer.target.name, key=str(key), error=str(error)
        )

    def _say_missing(self, missing: Sequence[Key]) -> None:
        log.info(
            "flush.keys_missing",
            target=self.buffer.target.name,
            keys=len(missing),
            first=[str(key) for key in islice(missing, _SHOWN_KEYS)],
        )
