"""When to flush: at the interval with jitter, at the high-water mark, after a backoff, at the end.

The loop outlives every error. It never waits for a request and no request waits for it.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from tracker._flush.backoff import Backoff
from tracker._flush.flusher import Flusher
from tracker.errors import StoreError, StoreMisconfigured
from tracker.instrumentation._log import Log
from tracker.instrumentation._throttle import LogThrottle

_JITTER: Final = 0.1
"""Share of the interval by which a wait may be longer or shorter, so that writers drift apart."""
_SPREAD: Final = 0.5
"""Share of the interval over which a flush may be spread, so that requests hardly notice it."""
_FINAL_BACKOFF: Final = Backoff(first_s=0.1, most_s=1.0)
"""At shutdown there is a deadline and nobody else to wait for, so retries come faster."""
_CANCEL_GRACE_S: Final = 1.0
_LOG_EVERY_S: Final = 60.0

log: Final = Log(__name__)


class FlushLoop:
    """A live task that flushes one buffer until it is stopped; made by `start_flush_loop`.

    Args:
        flush: writes what is pending, once.
        interval_s: time between flushes, in seconds.
        deadline_s: how long the last flush may take, retries included, in seconds.
        backoff: delays after failures.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        flush: Flusher,
        *,
        interval_s: float,
        deadline_s: float,
        backoff: Backoff,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0
        self.error: StoreError | None = None
        """The error of the last flush, None after a success."""
        self._flush = flush
        self._buffer = flush.buffer
        self._interval_s = interval_s
        self._deadline_s = deadline_s
        self._backoff = backoff
        self._monotonic = monotonic
        self._not_before = 0.0  # no flush of the loop's own before this, by the monotonic clock
        self._drops = LogThrottle(_LOG_EVERY_S, monotonic)
        self._dropped = dict(self._buffer.dropped)
        self._wake = asyncio.Event()
        self._stopping = False
        self._buffer.on_high_water = self._on_high_water
        if self._buffer.journal is not None:
            self._buffer.journal.on_filling_up = self._on_high_water
        name = f"tracker-flusher-{self._buffer.target.name}"
        self._loop = asyncio.create_task(self._run(), name=name)
        self._stop: asyncio.Task[int] | None = None

    @property
    def permanent_error(self) -> StoreMisconfigured | None:
        """The error that keeps flushes failing until somebody changes something, if any."""
        return self.error if isinstance(self.error, StoreMisconfigured) else None

    async def flush(self) -> int:
        """Flush now, whatever the interval or a backoff says.

        Returns:
            How many keys are still pending because their rows are locked.

        Raises:
            StoreError: the store failed; nothing is lost.
        """
        self._flush.hurry()
        return await self._write(within_s=0.0)

    async def _write(self, *, within_s: float) -> int:
        if not len(self._buffer):  # success would say that the store is well, unasked
            return 0
        try:
            locked = await self._flush(within_s=within_s)
        except StoreError as error:
            self._failed(error)
            raise
        except Exception as error:
            self._failed(StoreError(f"{type(error).__name__}: {error}"))
            raise
        if self.failures:
            self._recovered()
        return locked

    async def stop(self) -> int:
        """Flush what is pending, end the loop, and count what could not be written as dropped.

        May be called more than once and from several tasks; each call returns when it is done. A
        cancelled caller does not interrupt it.

        Returns:
            The number of keys that were lost.
        """
        if self._stop is None:
            self._stop = asyncio.create_task(self._finish(), name=f"{self._loop.get_name()}-stop")
        return await asyncio.shield(self._stop)

    def _on_high_water(self) -> None:
        self._flush.hurry()
        if self._monotonic() >= self._not_before:  # full or not, a failing store is given its rest
            self._wake.set()

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        self.error = error
        self._wake.clear()  # set during the flush, it would make light of the backoff
        permanent = isinstance(error, StoreMisconfigured)
        backoff = _FINAL_BACKOFF if self._stopping else self._backoff
        delay_s = backoff.delay_s(self.failures, permanent=permanent)
        self._not_before = self._monotonic() + delay_s
        log.error(
            "flush.failed",
            target=self._buffer.target.name,
            error=str(error),
            permanent=permanent,
            attempt=self.failures,
            retry_in_s=round(delay_s, 3),
            pending_keys=len(self._buffer),
        )

    def _recovered(self) -> None:
        attempts, self.failures = self.failures, 0
        self.error = None
        self._not_before = 0.0
        self._wake.set()  # the loop may be sleeping out a long backoff
        log.info("flush.healthy", target=self._buffer.target.name, attempts=attempts)

    async def _run(self) -> None:
        try:
            await self._flush_until_stopped()
        except asyncio.CancelledError:
            # Somebody cancels every task, as asyncio.run does at its end: still write what is
            # pending, in this task, which that somebody waits for.
            if not self._stopping:
                await self._finish()
            raise

    async def _flush_until_stopped(self) -> None:
        # The first wait is anywhere within the interval: a fleet of processes that is started
        # together does not flush together.
        wait_s = self._interval_s * random.uniform(0.1, 1)
        while not self._stopping:
            await self._wait(wait_s)
            if self._stopping:
                return
            started = self._monotonic()
            await self._flush_once()
            self._say_dropped()
            rest_s = self._not_before - self._monotonic()
            jittered_s = self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)
            spent_s = min(self._monotonic() - started, _SPREAD * self._interval_s)
            wait_s = rest_s if rest_s > 0 else jittered_s - spent_s

    async def _wait(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()  # before the drain: a wake-up during the flush is one for the next

    async def _flush_once(self) -> None:
        """Flush and survive whatever happens."""
        # Nobody waits for it, unless it is the last one, or the buffer is filling up.
        hurried = self._stopping or len(self._buffer) >= self._buffer.target.high_water
        try:
            await self._write(within_s=0.0 if hurried else self._interval_s * _SPREAD)
        except StoreError:
            pass  # logged and counted where it happened
        except Exception:
            log.exception("flush.crashed", target=self._buffer.target.name)

    def _say_dropped(self) -> None:
        """Log what was not kept since this was logged last, once a minute at most."""
        dropped = dict(self._buffer.dropped)
        if dropped != self._dropped and self._drops.due():
            log.error(
                "touches.dropped",
                target=self._buffer.target.name,
                **{reason: count - self._dropped[reason] for reason, count in dropped.items()},
            )
            self._dropped = dropped

    async def _finish(self) -> int:
        self._stopping = True
        self._wake.set()
        self._flush.hurry()
        last = asyncio.create_task(self._flush_all(), name=f"{self._loop.get_name()}-last")
        tasks = {last, self._loop} - {asyncio.current_task()}
        lost = 0
        try:
            _, late = await asyncio.wait(tasks, timeout=self._deadline_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_GRACE_S)
        finally:  # whoever cancels even this gets no silent loss
            for task in tasks:
                task.cancel()
            lost = self._buffer.close()
            target = self._buffer.target.name
            if lost:
                log.error("flush.lost_at_shutdown", target=target, keys=lost)
            elif left := len(self._buffer):
                log.warning("flush.left_in_journal", target=target, keys=left)
        return lost

    async def _flush_all(self) -> None:
        """Flush until nothing is pending; the caller sets the deadline."""
        while before := len(self._buffer):
            await self._flush_once()
            if self.permanent_error is not None and self._buffer.is_journaled:
                return  # nobody will have mended it before the deadline, and nothing is lost
            rest_s = self._not_before - self._monotonic()
            if rest_s > 0 or len(self._buffer) >= before:  # it failed, or rows are locked
                await asyncio.sleep(max(rest_s, _FINAL_BACKOFF.first_s))


def start_flush_loop(
    flush: Flusher, *, interval_s: float, deadline_s: float, backoff: Backoff | None = None
) -> FlushLoop:
    """Start flushing a buffer in a task of its own; needs a running event loop.

    Args:
        flush: writes what is pending, once.
        interval_s: time between flushes, in seconds.
        deadline_s: how long the last flush may take, retries included, in seconds.
        backoff: delays after failures.
    """
    return FlushLoop(
        flush, interval_s=interval_s, deadline_s=deadline_s, backoff=backoff or Backoff()
    )
