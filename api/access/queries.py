"""Queries by key that requests share: one at a time, each for all keys that wait.

- However many requests ask for a key, it is queried once.
- Keys that are cached are queried before those that are not. After a query for something that does
  not exist, the keys that are not cached pause. So a flood of wrong keys costs the database a few
  statements a second, and does not delay the refresh of a valid key that is revoked.
- While the database is unavailable, a query fails at once, and it is retried twice a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from itertools import islice
from typing import Final, Generic, TypeAlias, TypeVar

import structlog

from tracker import StoreError, StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")
_Result: TypeAlias = "asyncio.Future[V | None]"

_MAX_KEYS_PER_QUERY: Final = 1000
_RETRY_S: Final = 0.5
PAUSE_S: Final = 0.05
"""How long keys that are not cached wait after one of them turned out not to exist."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class SharedQueries(Generic[K, V]):
    """Queries of the rows of keys.

    Args:
        name: what is queried, for logs.
        load: returns the rows that exist among the given keys; raises StoreError.
        receive: called with each key of a query that succeeded, its row or None, when the query
            was sent, by `monotonic`, and the generation then; not with keys that were forgotten
            meanwhile.
        max_waiting: how many keys that are not cached may wait.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        receive: Callable[[K, V | None, float, int], None],
        *,
        max_waiting: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.generation = 0
        """How often all rows were invalidated; later requests do not use a query in flight."""
        self.unavailable = False
        """Whether the last query failed, and no statement has succeeded since then."""
        self._name = name
        self._load = load
        self._receive = receive
        self._max_waiting = max_waiting
        self._monotonic = monotonic
        self._cached: dict[K, _Result[V]] = {}
        self._uncached: dict[K, _Result[V]] = {}
        self._pause: asyncio.TimerHandle | None = None  # of the keys that are not cached
        self._in_flight: dict[K, _Result[V]] = {}
        self._in_flight_generation = 0  # the generation when the query in flight was sent
        self._worker: asyncio.Task[None] | None = None
        self._failure: StoreError | None = None
        self._retry_at = 0.0

    async def query(self, key: K, *, is_cached: bool) -> V | None:
        """Return the row of a key, or None when there is none.

        Args:
            key: of the row.
            is_cached: whether this refreshes a row that is cached.

        Raises:
            StoreError: the database is unavailable, or too many keys wait.
        """
        if self._failure is not None and self._monotonic() < self._retry_at:
            # A new exception: one that is raised again and again collects tracebacks.
            raise StoreUnavailable(str(self._failure))
        # Shielded: requests share the future, and one that is cancelled must not cancel it.
        return await asyncio.shield(self._enqueue(key, is_cached=is_cached))

    def refresh(self, key: K) -> None:
        """Query a cached key in the background, unless the database has just failed."""
        if self._monotonic() >= self._retry_at:
            self._enqueue(key, is_cached=True)

    def forget(self, key: K) -> None:
        """Ignore what the query in flight finds for a key: it may have read it before a change."""
        self._in_flight.pop(key, None)

    def note_available(self) -> None:
        """Note that the database has just responded to another statement, so it is queried again.

        Otherwise a key that is seldom used would be served stale because of an old failure.
        """
        if self._monotonic() >= self._retry_at:
            self.unavailable = False

    async def close(self) -> None:
        """Cancel all queries."""
        if self._pause is not None:
            self._pause.cancel()
        for future in self._uncached.values():
            future.cancel()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait((self._worker,))

    def _enqueue(self, key: K, *, is_cached: bool) -> "_Result[V]":
        future = self._cached.get(key) or self._uncached.get(key)
        if self._in_flight_generation == self.generation:
            future = self._in_flight.get(key) or future
        if future is None:
            if not is_cached and len(self._uncached) >= self._max_waiting:
                raise StoreUnavailable(f"{self._max_waiting} {self._name} wait for a lookup")
            queue = self._cached if is_cached else self._uncached
            future = queue[key] = asyncio.get_running_loop().create_future()
            # If no request waits for a refresh, its error must not be logged as never retrieved.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._start()
        return future

    def _start(self) -> None:
        if self._worker is None or self._worker.done():
            # In a context of its own: it works for many requests, not only the one that starts it.
            self._worker = asyncio.create_task(
                self._run(), name=f"lookup-{self._name}", context=Context()
            )

    def _next_batch(self) -> "dict[K, _Result[V]]":
        batch: dict[K, _Result[V]] = {}
        for queue in (self._cached, self._uncached if self._pause is None else {}):
            for key in list(islice(queue, _MAX_KEYS_PER_QUERY - len(batch))):
                batch[key] = queue.pop(key)
        return batch

    async def _run(self) -> None:
        while batch := self._next_batch():
            self._in_flight, self._in_flight_generation = dict(batch), self.generation
            sent_at = self._monotonic()
            try:
                found = await self._load(list(batch))
            except StoreError as error:
                self._fail(batch, error)
            except Exception as error:
                self._fail(batch, StoreUnavailable(f"{type(error).__name__}: {error}"))
                log.exception("lookup.crashed", what=self._name)
            except BaseException:
                for future in (*batch.values(), *self._cached.values()):
                    future.cancel()
                raise
            else:
                self._succeed(batch, found, sent_at)
            finally:
                self._in_flight = {}

    def _resume(self) -> None:
        self._pause = None
        if self._uncached:
            self._start()

    def _succeed(
        self, batch: Mapping[K, "_Result[V]"], found: Mapping[K, V], sent_at: float
    ) -> None:
        for key, future in batch.items():
            value = found.get(key)
            # Not if the key was forgotten during the query: the result may be older.
            if self._in_flight.get(key) is future:
                self._receive(key, value, sent_at, self._in_flight_generation)
            if not future.done():
                future.set_result(value)
        if len(found) < len(batch) and self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(PAUSE_S, self._resume)
        self.unavailable = False
        if self._failure is not None:
            self._failure = None
            log.info("lookup.healthy", what=self._name)

    def _fail(self, batch: Mapping[K, "_Result[V]"], error: StoreError) -> None:
        first = self._failure is None
        self._failure = error
        self.unavailable = True
        self._retry_at = self._monotonic() + _RETRY_S
        failed = [*batch.values(), *self._cached.values(), *self._uncached.values()]
        self._cached.clear()
        self._uncached.clear()
        for future in failed:
            if not future.done():
                future.set_exception(error)
        if first:
            log.error("lookup.failed", what=self._name, error=str(error))
