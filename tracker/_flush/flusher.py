"""One flush: drain the buffer, write the batch chunk by chunk, restore what was not committed.

Every drained key either ends as one of written, unchanged, missing or rejected, or goes back into
the buffer. That holds at every await, cancellation included.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import islice
from typing import Final

from tracker._buffer.buffer import Buffer
from tracker._flush.batch import BatchProgress
from tracker._flush.counts import FlushCounts
from tracker._flush.missing import MissingKeys
from tracker._flush.store import Chunk, ChunkResult, Store
from tracker.errors import (
    RowRejected,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
)
from tracker.instrumentation import Log, LogThrottle
from tracker.keys import Key

_PAUSE_FACTOR: Final = 2.0
"""The longest pause after a chunk, as a multiple of the time that the chunk took."""
_LOGGED_KEYS: Final = 5
_LOG_EVERY_S: Final = 60.0

log: Final = Log(__name__)


class Flusher:
    """Writes what is pending in one buffer to its store, once per call of `flush`.

    Args:
        buffer: where the touches are.
        store: where they go.
        chunk_keys: the most keys in one statement.
        log_keys: whether log lines name some of the keys.
        clock: wall clock in seconds since the epoch.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        buffer: Buffer,
        store: Store,
        *,
        chunk_keys: int,
        log_keys: bool = True,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.buffer = buffer
        self.counts = FlushCounts()
        self._store = store
        self._missing = MissingKeys(store)
        self._max_chunk_keys = self._chunk_keys = chunk_keys
        self._logged_keys = _LOGGED_KEYS if log_keys else 0
        self._clock = clock
        self._monotonic = monotonic
        self._failed_keys: Collection[Key] = ()  # of the chunk at which the last flush failed
        self._one_at_a_time = asyncio.Lock()
        self._hurried = asyncio.Event()
        self._throttles = {
            event: LogThrottle(_LOG_EVERY_S, monotonic)
            for event in (
                "flush.rows_rejected",
                "flush.rows_missing",
                "flush.rows_locked",
                "flush.rows_corrected",
            )
        }

    async def flush(self, *, within_s: float = 0.0) -> int:
        """Write all that is pending now; what cannot be written stays in the buffer.

        Args:
            within_s: how long it may take, in seconds. Spare time is spent on pauses between
                chunks, which leave the CPU and the server to requests, until `hurry()` is called.

        Returns:
            How many keys are still pending because another transaction holds locks on their rows.

        Raises:
            StoreError: the store failed; what it did not commit is pending again.
        """
        if within_s:
            self._hurried.clear()  # from now on `hurry()` means this flush, waiting or not
        async with self._one_at_a_time:
            batch = self.buffer.drain()
            if not batch:
                return 0
            started = self._monotonic()
            progress = BatchProgress(batch, self._chunk_keys)
            try:
                if self.buffer.journal is not None:
                    await self.buffer.journal.rewrite(batch)
                await progress.arrange(self._failed_keys)
                await self._write(progress, started + within_s)
                progress.check_postponed()
                progress.check_rejections()
                await self._check_missing(progress)
                self._count_batch(progress)
                locked = len(progress.locked)  # settle() takes this map over and adds to it
            except BaseException as error:
                self.counts.failed += 1
                self._failed_keys = set(progress.postponed) or progress.under_way()
                if isinstance(error, StoreError):
                    self._chunk_keys = progress.chunk_keys
                raise
            finally:
                self.buffer.settle(progress.uncommitted())
                self.counts.last_duration_s = self._monotonic() - started
                self.counts.duration_s.observe(self.counts.last_duration_s)
            self._failed_keys = ()
            # Chunks grow again one flush at a time: the next timeout may be one step away.
            grown = progress.chunk_keys if progress.timed_out else 2 * progress.chunk_keys
            self._chunk_keys = min(grown, self._max_chunk_keys)
            return locked

    def hurry(self) -> None:
        """Let the flush that runs or waits now, if any, take no more pauses."""
        self._hurried.set()

    async def _write(self, progress: BatchProgress, until: float) -> None:
        while chunk := progress.next_chunk():
            started = self._monotonic()
            try:
                result = await self._write_chunk(chunk)
            except RowRejected as error:
                progress.divide(error)
            except StoreTimeout as error:
                if not progress.divide_late():
                    await self._postpone(progress, chunk, error)
            except StoreUnavailable as error:
                await self._postpone(progress, chunk, error)
            else:
                advanced = self._count_chunk(chunk, result)
                progress.committed(result, advanced=advanced)
                worked_s = self._monotonic() - started
                await self._pause(worked_s, until - self._monotonic(), progress.remaining_chunks)

    async def _postpone(
        self, progress: BatchProgress, chunk: Chunk, error: StoreUnavailable
    ) -> None:
        """Go on with parts of a chunk that failed in the last flush, too.

        A trigger may raise any error for a single row, or take its time. So if an error persists
        while the store is in order, the other rows are written.

        Raises:
            StoreError: the error, if it is the first one, or the store is at fault.
        """
        if set(self._failed_keys).isdisjoint(chunk.keys):
            raise error
        await self._store.check()
        progress.postpone(error)

    async def _write_chunk(self, chunk: Chunk) -> ChunkResult:
        """Write a chunk, and find out whether a permanent error is that of a row.

        A trigger or a policy may raise for a single row what else means a missing table.

        Raises:
            RowRejected: a row of the chunk is rejected.
            StoreError: the chunk was not written, and no row is the cause.
        """
        try:
            return await self._store.write(chunk)
        except StoreMisconfigured as error:
            await self._store.check()
            if len(chunk) > 1:
                raise RowRejected(str(error)) from error
        try:  # once more: the table may have been at fault for a moment
            return await self._store.write(chunk)
        except StoreMisconfigured as error:
            raise RowRejected(str(error)) from error

    async def _pause(self, worked_s: float, left_s: float, chunks: int) -> None:
        """Pause after a chunk if the remaining chunks can still be written in time."""
        pause_s = min(_PAUSE_FACTOR * worked_s, left_s / chunks - worked_s) if chunks else 0.0
        filling_up = len(self.buffer) >= self.buffer.target.high_water
        if pause_s > 0 and not filling_up and not self._hurried.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurried.wait()

    def _count_chunk(self, chunk: Chunk, result: ChunkResult) -> bool:
        """Count the outcomes of a chunk; return whether any row of it was written."""
        counts = self.counts
        ended = len(chunk) - len(result.rejected) - len(result.locked)
        counts.chunk_rows.observe(len(chunk))
        counts.unchanged += result.unchanged
        counts.corrected += len(result.corrected)
        advanced = ended - result.unchanged - len(result.missing)
        counts.written += advanced
        if ended:
            counts.last_success_at = self._clock()
        self._log_keys("flush.rows_corrected", result.corrected)
        return advanced > 0

    async def _check_missing(self, progress: BatchProgress) -> None:
        """Count missing keys as such if they have no row; else keep them.

        Raises:
            StoreError: their rows may be hidden.
        """
        missing = len(progress.missing)
        self.counts.hidden = missing
        await self._missing.believe(missing, progress.found)
        self.counts.hidden = 0
        progress.believe_missing()

    def _count_batch(self, progress: BatchProgress) -> None:
        self.counts.missing += len(progress.missing)
        self.counts.rejected += len(progress.rejected)
        if progress.locked:
            self.counts.partial += 1
        else:
            self.counts.success += 1
        self._log_keys("flush.rows_missing", progress.missing)
        self._log_keys("flush.rows_rejected", progress.rejected, error=str(progress.rejection))
        self._log_keys("flush.rows_locked", progress.locked)

    def _log_keys(self, event: str, keys: Collection[Key], **more: str) -> None:
        """Log the outcome of some keys and name a few of them, once a minute at most."""
        if keys and (times := self._throttles[event].due()):
            first = [str(key) for key in islice(keys, self._logged_keys)]
            target = self.buffer.target.name
            log.warning(event, target=target, keys=len(keys), first_keys=first, times=times, **more)
