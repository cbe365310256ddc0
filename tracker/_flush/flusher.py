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
from typing import Final

from tracker._buffer.buffer import Buffer
from tracker._flush.batch import BatchProgress
from tracker._flush.store import Chunk, ChunkResult, Store
from tracker.errors import (
    RowRejected,
    StoreError,
    StoreTimeout,
)
from tracker.instrumentation._histogram import Histogram
from tracker.instrumentation._log import Log
from tracker.instrumentation._throttle import LogThrottle
from tracker.keys import Key

_DURATION_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS_BOUNDS: Final = (1, 10, 50, 100, 250, 500, 1000, 2000, 5000, 10_000, 20_000)
_REST: Final = 2.0
"""How long to rest after a chunk, in terms of the time that it took."""
_SHOWN_KEYS: Final = 5
_LOG_EVERY_S: Final = 60.0

log: Final = Log(__name__)


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
    last_duration_s: float | None = None
    duration_s: Histogram = field(default_factory=lambda: Histogram(_DURATION_BOUNDS_S))
    chunk_rows: Histogram = field(default_factory=lambda: Histogram(_ROWS_BOUNDS))

    @property
    def flushes(self) -> int:
        """How many there were, however they ended."""
        return self.success + self.partial + self.failed


class Flusher:
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
        self._failed_keys: Collection[Key] = ()  # of the chunk that the last flush failed at
        self._one_at_a_time = asyncio.Lock()
        self._hurried = asyncio.Event()
        self._repeats = {
            event: LogThrottle(_LOG_EVERY_S, monotonic)
            for event in ("flush.rows_rejected", "flush.rows_missing", "flush.rows_locked")
        }

    async def __call__(self, *, within_s: float = 0.0) -> int:
        """Write all that is pending now; what cannot be written stays in the buffer.

        Args:
            within_s: how long it may take, in seconds. Time that is left is spent on rests between
                chunks, for the requests' sake, until `hurry()` is called.

        Returns:
            How many keys are still pending because somebody else's transaction holds their rows.

        Raises:
            StoreError: the store failed; what it did not commit is pending again.
        """
        if within_s:
            self._hurried.clear()  # who hurries from now on means this flush, waiting or not
        async with self._one_at_a_time:
            batch = self.buffer.drain()
            if not batch:
                return 0
            started = self._monotonic()
            writing = BatchProgress(batch, self._chunk_keys)
            try:
                if self.buffer.journal is not None:
                    await self.buffer.journal.rewrite(batch)
                await writing.arrange(self._failed_keys)
                await self._write(writing, started + within_s)
                writing.judge_refusals()
                self._conclude(writing)
                locked = len(writing.locked)  # the buffer takes these over and adds to them
            except BaseException as error:
                self.counts.failed += 1
                self._failed_keys = writing.under_way()
                if isinstance(error, StoreError):
                    self._chunk_keys = writing.chunk_keys
                raise
            finally:
                self.buffer.settle(writing.uncommitted())
                self.counts.last_duration_s = self._monotonic() - started
                self.counts.duration_s.observe(self.counts.last_duration_s)
            self._failed_keys = ()
            # Back to larger chunks one flush at a time: the next timeout may be one step away.
            grown = writing.chunk_keys if writing.timed_out else 2 * writing.chunk_keys
            self._chunk_keys = min(grown, self._most_keys)
            return locked

    def hurry(self) -> None:
        """Let the flush that has been asked for, if any, take no more rests."""
        self._hurried.set()

    async def _write(self, writing: BatchProgress, until: float) -> None:
        while chunk := writing.next_chunk():
            started = self._monotonic()
            try:
                written = await self._store.write(chunk)
            except (RowRejected, StoreTimeout) as error:
                writing.divide(error)
                continue
            advanced = self._account(chunk, written)
            writing.committed(written, advanced=advanced)
            worked_s = self._monotonic() - started
            await self._rest(worked_s, until - self._monotonic(), writing.chunks_left)

    async def _rest(self, worked_s: float, left_s: float, chunks: int) -> None:
        """Leave the machine to the requests, if the other chunks can still be written in time."""
        rest_s = min(_REST * worked_s, left_s / chunks - worked_s) if chunks else 0.0
        filling_up = len(self.buffer) >= self.buffer.target.high_water
        if rest_s > 0 and not filling_up and not self._hurried.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._hurried.wait()

    def _account(self, chunk: Chunk, written: ChunkResult) -> bool:
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

    def _conclude(self, writing: BatchProgress) -> None:
        self.counts.rejected += len(writing.refused)
        if writing.locked:
            self.counts.partial += 1
        else:
            self.counts.success += 1
        self._say("flush.rows_rejected", writing.refused, error=str(writing.refusal))
        self._say("flush.rows_locked", writing.locked)

    def _say(self, event: str, keys: Collection[Key], **more: str) -> None:
        """Log what became of some keys, a few of them by name, once a minute at most."""
        first = [str(key) for key in islice(keys, _SHOWN_KEYS)]
        if first and (times := self._repeats[event].due()):
            target = self.buffer.target.name
            log.warning(event, target=target, keys=len(keys), first_keys=first, times=times, **more)
