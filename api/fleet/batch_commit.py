"""Batch commit: uploads that arrive while a write is in progress share the next one.

The response to an upload is sent when its batch is committed. An idle service writes each upload
at once; under load batches grow to what arrives during a write, so no upload is delayed to fill a
batch.

A batch is first written by the fast path. If a row is rejected or locked, the SKIP LOCKED path
writes the batch again: an upload whose device has no row fails alone, an upload whose device is
locked waits alone, and a rejected report is found by bisection. Writing a report twice has
no effect: its device and capture time identify it.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Final

import structlog

from api.config import IngestSettings
from api.fleet.batch_metrics import BatchStats
from api.fleet.locations import Locations, NoSuchDevice, Report
from tracker import RowRejected, StoreError, StoreMisconfigured, StoreUnavailable
from tracker.instrumentation import LogThrottle

_FAST_PATH_SHARE: Final = 0.1
"""Share of the deadline after which the fast path counts as blocked by a lock."""
_SKIP_LOCKED_FOR_S: Final = 10.0
"""How long batches take the SKIP LOCKED path after one was blocked: the lock may still be held."""
_LOCKED_RETRY_S: Final = 0.05
_EXPIRE_EVERY_S: Final = 0.1
"""How often expired uploads are searched for among all that wait; a 503 may be so much late."""
_LOG_EVERY_S: Final = 10.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Upload:
    """An upload whose client waits for the response."""

    device_id: str
    reports: Sequence[Report]
    size_bytes: int
    due: float
    answer: "asyncio.Future[int]"


class BatchCommit:
    """Commits uploads in batches.

    Args:
        locations: where they are stored.
        settings: sizes and limits.
        deadline_s: how long an upload may wait for its commit, in seconds.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        locations: Locations,
        settings: IngestSettings,
        *,
        deadline_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._locations = locations
        self._settings = settings
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._waiting: deque[_Upload] = deque()
        self._locked: list[_Upload] = []  # their devices' rows are locked by other transactions
        self.stats = BatchStats(settings)
        self._in_flight: list[list[_Upload]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers = 0  # writers that have not found the queue empty yet
        self._closed = False
        self._starting = False  # a writer that has not taken its first batch yet
        self._skip_locked_until = float("-inf")
        self._crashes = LogThrottle(_LOG_EVERY_S, monotonic)
        self._expiry: asyncio.TimerHandle | None = None

    async def store(self, device_id: str, reports: Sequence[Report], *, size_bytes: int) -> int:
        """See `Uploads.store`."""
        return await self.submit(device_id, reports, size_bytes=size_bytes)

    def submit(
        self, device_id: str, reports: Sequence[Report], *, size_bytes: int
    ) -> "asyncio.Future[int]":
        """Do the same as `store`, and return its result as a future.

        Raises:
            StoreUnavailable: too many uploads wait, or the service is stopping.
        """
        settings = self._settings
        if self._closed:
            raise StoreUnavailable("the service is stopping")
        if self.stats.waiting_rows and (  # one alone is accepted, however large
            self.stats.waiting_rows + len(reports) > settings.waiting_rows
            or self.stats.waiting_bytes + size_bytes > settings.waiting_bytes
        ):
            self.stats.outcomes["shed"] += 1
            raise StoreUnavailable("too many uploads are waiting to be committed")
        loop = asyncio.get_running_loop()
        due = self._monotonic() + self._deadline_s
        upload = _Upload(device_id, reports, size_bytes, due, loop.create_future())
        self._count(upload, 1)
        self._waiting.append(upload)
        self._start_writer()
        if self._expiry is None:
            self._expiry = loop.call_later(self._deadline_s, self._expire)
        return upload.answer

    async def close(self) -> None:
        """Cancel what is being written; its clients get 503."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._expiry is not None:
            self._expiry.cancel()
        self._fail([*self._waiting, *self._locked], StoreUnavailable("the service is stopping"))

    def _count(self, upload: _Upload, sign: int) -> None:
        self.stats.waiting_rows += sign * len(upload.reports)
        self.stats.waiting_bytes += sign * upload.size_bytes

    def _start_writer(self) -> None:
        # At most one writer that has not begun: it takes all uploads of this turn of the loop.
        # A further one starts only for a full batch: small writes side by side cost more.
        full = self.stats.waiting_rows >= self._settings.batch_rows
        most = self._settings.batches_in_flight if full else 1
        if not self._closed and not self._starting and self._writers < most:
            self._starting = True
            # In a context of its own, because it writes for other requests, too.
            task = asyncio.create_task(self._write(), name="ingest-writer", context=Context())
            self._writers += 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _write(self) -> None:
        self._starting = False
        while batch := self._take():
            self._in_flight.append(batch)
            started = self._monotonic()
            try:
                await self._commit(batch)
            except asyncio.CancelledError:
                self._fail(batch, StoreUnavailable("the service is stopping"))
                raise
            except Exception as error:
                self._fail(batch, StoreUnavailable(f"{type(error).__name__}: {error}"))
                if times := self._crashes.due():
                    with suppress(Exception):  # a log that cannot be written stops no writer
                        log.exception("ingest.crashed", times=times)
            finally:
                self._in_flight.remove(batch)
                self.stats.write_s.observe(self._monotonic() - started)
        self._writers -= 1

    def _take(self) -> list[_Upload]:
        """Return the uploads that waited longest, as many as go into one batch."""
        batch: list[_Upload] = []
        rows_left, bytes_left = self._settings.batch_rows, self._settings.batch_bytes
        while self._waiting:
            upload = self._waiting[0]
            rows_left -= len(upload.reports)
            bytes_left -= upload.size_bytes
            if batch and (rows_left < 0 or bytes_left < 0):
                break
            self._count(self._waiting.popleft(), -1)
            if not upload.answer.done():
                batch.append(upload)
        return batch

    async def _commit(self, batch: list[_Upload]) -> None:
        self.stats.batch_rows.observe(sum(len(upload.reports) for upload in batch))
        if self._monotonic() >= self._skip_locked_until:
            try:
                duplicates = await self._locations.insert(
                    _rows(batch), deadline_s=_FAST_PATH_SHARE * self._deadline_s
                )
            except RowRejected:
                pass
            except StoreUnavailable:
                self._skip_locked_until = self._monotonic() + _SKIP_LOCKED_FOR_S
            except StoreMisconfigured as error:
                self._fail(batch, error)
                return
            else:
                self._succeed(batch, _counted(batch, duplicates))
                return
        await self._commit_skipping_locked(batch)

    async def _commit_skipping_locked(self, batch: list[_Upload]) -> None:
        parts = [batch]
        while parts:
            part = [upload for upload in parts.pop() if not upload.answer.done()]
            if not part:
                continue
            try:
                left, duplicates = await self._locations.insert_reachable(
                    _rows(part), deadline_s=self._deadline_s
                )
            except RowRejected as error:
                middle = len(part) // 2
                if middle:
                    parts += [part[middle:], part[:middle]]
                else:
                    self._fail(part, error)
            except StoreError as error:
                for one in (part, *parts):
                    self._fail(one, error)
                return
            else:
                self._settle(part, left, _counted(part, duplicates))

    def _settle(
        self, part: list[_Upload], left: dict[str, bool], duplicates: Counter[_Upload]
    ) -> None:
        self._succeed([upload for upload in part if upload.device_id not in left], duplicates)
        if not left:
            return
        gone = [upload for upload in part if left.get(upload.device_id) is False]
        self._fail(gone, NoSuchDevice("the device has no row"))
        locked = [upload for upload in part if left.get(upload.device_id) is True]
        if locked:
            self._skip_locked_until = self._monotonic() + _SKIP_LOCKED_FOR_S
            if not self._locked:
                loop = asyncio.get_running_loop()
                loop.call_later(_LOCKED_RETRY_S, self._retry_locked)
            self._locked += locked
            for upload in locked:
                self._count(upload, 1)

    def _retry_locked(self) -> None:
        self._waiting.extendleft(reversed(self._locked))
        self._locked = []
        self._start_writer()

    def _succeed(self, uploads: list[_Upload], duplicates: Counter[_Upload]) -> None:
        for upload in uploads:
            if not upload.answer.done():  # its client may have disconnected, or have got 503
                self.stats.outcomes["stored"] += 1
                upload.answer.set_result(duplicates[upload])

    def _fail(self, uploads: Sequence[_Upload], error: StoreError) -> None:
        outcome = "rejected" if isinstance(error, RowRejected) else "unavailable"
        for upload in uploads:
            if not upload.answer.done():
                self.stats.outcomes[outcome] += 1
                # One exception for each: a shared one would collect all tracebacks.
                upload.answer.set_exception(type(error)(str(error)))

    def _expire(self) -> None:
        """Fail the uploads that have waited too long, and schedule the next check."""
        self._expiry = None
        now = self._monotonic()
        unanswered = [
            upload
            for uploads in (self._waiting, self._locked, *self._in_flight)
            for upload in uploads
            if not upload.answer.done()
        ]
        self._fail(
            [upload for upload in unanswered if upload.due <= now],
            StoreUnavailable("not committed in time"),
        )
        while self._waiting and self._waiting[0].answer.done():  # they make room
            self._count(self._waiting.popleft(), -1)
        left_s = [upload.due - now for upload in unanswered if upload.due > now]
        if left_s:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(max(min(left_s), _EXPIRE_EVERY_S), self._expire)


def _rows(uploads: list[_Upload]) -> list[tuple[str, Sequence[Report]]]:
    return [(upload.device_id, upload.reports) for upload in uploads]


def _counted(uploads: list[_Upload], duplicates: list[int]) -> Counter[_Upload]:
    """Return how many duplicates each upload has, from their places among all reports."""
    counts: Counter[_Upload] = Counter()
    if duplicates:
        of_report = [upload for upload in uploads for _ in upload.reports]
        counts.update(of_report[place] for place in duplicates)
    return counts
