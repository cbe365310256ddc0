"""When to flush: at the interval with jitter, at the high-water mark, after a backoff, at shutdown.

The loop survives every error. It waits for no request, and no request waits for it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Final

from tracker._flush.backoff import Backoff
from tracker._flush.flusher import Flusher
from tracker.errors import FlushError, StoreError, StoreMisconfigured
from tracker.instrumentation import Log, LogThrottle

_JITTER: Final = 0.1
"""Share of the interval by which a wait may be longer or shorter, so that processes drift apart."""
_SPREAD: Final = 0.5
"""Share of the interval over which a flush may spread its chunks, to leave room for requests."""
_FINAL_BACKOFF: Final = Backoff(initial_s=0.1, max_s=1.0)
"""At shutdown there is a deadline, so retries come faster."""
_CANCEL_GRACE_S: Final = 1.0
"""How long cancelled tasks may take to end after the deadline of the shutdown."""
_LOG_EVERY_S: Final = 60.0

log: Final = Log(__name__)


class FlushLoop:
    """A running task that flushes one buffer until it is stopped.

    To create one starts the task, so it needs a running event loop.

    Args:
        flusher: writes what is pending, once per call.
        interval_s: time between flushes, in seconds.
        deadline_s: how long the last flush may take, retries included, in seconds.
        backoff: delays after failures.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        flusher: Flusher,
        *,
        interval_s: float,
        deadline_s: float,
        backoff: Backoff,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0
        """How many flushes in a row have failed."""
        self.error: StoreError | None = None
        """The error of the last flush, None after a success."""
        self._flusher = flusher
        self._buffer = flusher.buffer
        self._interval_s = interval_s
        self._deadline_s = deadline_s
        self._backoff = backoff
        self._monotonic = monotonic
        self._not_before = 0.0  # the end of the backoff, by the monotonic clock
        self._dropped_throttle = LogThrottle(_LOG_EVERY_S, monotonic)
        self._logged_dropped = dict(self._buffer.dropped)
        self._wake = asyncio.Event()
        self._stopping = False
        self._buffer.on_high_water = self._on_high_water
        if self._buffer.journal is not None:
            self._buffer.journal.on_filling_up = self._on_high_water
        name = f"tracker-flusher-{self._buffer.target.name}"
        self._task = asyncio.create_task(self._run(), name=name)
        self._stop_task: asyncio.Task[int] | None = None

    @property
    def permanent_error(self) -> StoreMisconfigured | None:
        """The error that persists until the table or the configuration is changed, if any."""
        return self.error if isinstance(self.error, StoreMisconfigured) else None

    async def flush(self) -> int:
        """Flush now, regardless of the interval and of a backoff.

        Returns:
            How many keys are still pending because their rows are locked.

        Raises:
            StoreError: the store failed; nothing is lost.
        """
        self._flusher.hurry()
        return await self._flush(within_s=0.0)

    async def stop(self) -> int:
        """Flush what is pending, end the loop, and count what could not be written as dropped.

        It may be called more than once and from several tasks; each call returns when the loop has
        ended. Cancelling a caller does not interrupt it.

        Returns:
            The number of keys that were lost.
        """
        if self._stop_task is None:
            name = f"{self._task.get_name()}-stop"
            self._stop_task = asyncio.create_task(self._finish(), name=name)
        return await asyncio.shield(self._stop_task)

    async def _flush(self, *, within_s: float) -> int:
        """Flush once, and record whether it succeeded."""
        if not len(self._buffer):  # a success without a query would say that the store is healthy
            return 0
        try:
            locked = await self._flusher.flush(within_s=within_s)
        except StoreError as error:
            self._failed(error)
            raise
        except Exception as error:
            self._failed(StoreError(f"{type(error).__name__}: {error}"))
            raise
        if self.failures:
            self._healthy_again()
        return locked

    async def _flush_once(self) -> None:
        """Flush once and survive every error."""
        # It need not be fast, unless it is the last flush or the buffer is filling up.
        hurried = self._stopping or len(self._buffer) >= self._buffer.target.high_water
        try:
            await self._flush(within_s=0.0 if hurried else self._interval_s * _SPREAD)
        except StoreError:
            pass  # logged and counted in _failed
        except Exception:
            log.exception("flush.crashed", target=self._buffer.target.name)

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        self.error = error
        self._wake.clear()  # a wake-up during the flush must not cut the backoff short
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

    def _healthy_again(self) -> None:
        attempts, self.failures = self.failures, 0
        self.error = None
        self._not_before = 0.0
        self._wake.set()  # the loop may be waiting out a long backoff
        log.info("flush.healthy", target=self._buffer.target.name, attempts=attempts)

    def _on_high_water(self) -> None:
        self._flusher.hurry()
        if self._monotonic() >= self._not_before:  # a full buffer does not cut the backoff short
            self._wake.set()

    async def _run(self) -> None:
        try:
            await self._flush_until_stopped()
        except asyncio.CancelledError:
            # All tasks are cancelled, as at the end of asyncio.run, which waits for this task:
            # write what is pending here.
            if not self._stopping:
                await self._finish()
            raise

    async def _flush_until_stopped(self) -> None:
        # The first wait is random within the interval, so that processes that are started together
        # do not flush together.
        wait_s = self._interval_s * random.uniform(0.1, 1)
        while not self._stopping:
            await self._wait(wait_s)
            if self._stopping:
                return
            started = self._monotonic()
            await self._flush_once()
            self._log_dropped()
            backoff_s = self._not_before - self._monotonic()
            jittered_s = self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)
            spent_s = min(self._monotonic() - started, _SPREAD * self._interval_s)
            wait_s = backoff_s if backoff_s > 0 else jittered_s - spent_s

    async def _wait(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()  # before the drain: a wake-up during the flush is for the next one

    def _log_dropped(self) -> None:
        """Log the touches dropped since this was logged last, once a minute at most."""
        dropped = dict(self._buffer.dropped)
        if dropped != self._logged_dropped and self._dropped_throttle.due():
            log.error(
                "touches.dropped",
                target=self._buffer.target.name,
                **{
                    reason: count - self._logged_dropped[reason]
                    for reason, count in dropped.items()
                },
            )
            self._logged_dropped = dropped

    async def _finish(self) -> int:
        self._stopping = True
        self._wake.set()
        self._flusher.hurry()
        last = asyncio.create_task(self._flush_all(), name=f"{self._task.get_name()}-last")
        tasks = {last, self._task} - {asyncio.current_task()}
        lost = 0
        try:
            _, late = await asyncio.wait(tasks, timeout=self._deadline_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_GRACE_S)
        finally:  # even if this is cancelled, what is lost is counted and logged
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
                return  # it will not go away before the deadline, and nothing is lost
            backoff_s = self._not_before - self._monotonic()
            if backoff_s > 0 or len(self._buffer) >= before:  # it failed, or rows are locked
                await asyncio.sleep(max(backoff_s, _FINAL_BACKOFF.initial_s))


async def flush_all(loops: Mapping[str, FlushLoop]) -> None:
    """Flush several buffers at once, regardless of intervals and backoffs.

    Args:
        loops: the flush loop of each target, by name.

    Raises:
        FlushError: some of it could not be written; it is still pending.
    """
    outcomes = await asyncio.gather(
        *(loop.flush() for loop in loops.values()), return_exceptions=True
    )
    problems: list[str] = []
    cause: BaseException | None = None
    for name, outcome in zip(loops, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            cause = outcome
            problems.append(f"{name}: {outcome}")
        elif outcome:
            problems.append(f"{name}: the rows of {outcome} keys are locked")
    if problems:
        raise FlushError("; ".join(problems)) from cause
