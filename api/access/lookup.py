"""Cached lookups of API keys and devices, which every request needs.

- A fresh entry is returned from memory, without an await.
- An entry past `refresh_s` is returned at once and refreshed in the background. Past twice that
  time the request waits for the refresh, but not for long; past three times that time, or if the
  entry may have been revoked, until the lookup succeeds or fails. So slow lookups extend the use of
  an entry by no more than that. Its age counts from when its query was sent.
- All keys that wait share one query at a time, however many requests miss.
- Keys that are cached are queried before those that are not. After a query for something that does
  not exist, the keys that are not cached pause. So a flood of wrong keys costs the database a few
  statements a second, and does not delay the refresh of a valid key that is revoked.
- While the database is unavailable, entries are returned until `stale_limit_s`; a miss fails at
  once, and the database is retried twice a second.
- Keys that do not exist are kept briefly in a negative cache of their own, so that wrong keys
  evict no valid ones.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Hashable, Mapping
from contextvars import Context
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeAlias, TypeVar

import structlog
from cachetools import TTLCache

from api.access.fair_cache import FairCache
from api.config import AuthSettings
from tracker import StoreError, StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")
_Result: TypeAlias = "asyncio.Future[V | None]"

_MAX_KEYS_PER_QUERY: Final = 1000
_RETRY_S: Final = 0.5
_PAUSE_S: Final = 0.05
"""How long keys that are not cached wait after one of them turned out not to exist."""
_REFRESH_WAIT_S: Final = 0.1
"""How long a request with an old entry waits for the refresh."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    loaded_at: float
    generation: int


class CachedLookup(Generic[K, V]):
    """A cache of rows by key that loads what it does not have.

    Args:
        name: what is looked up, for logs and metrics.
        load: returns the rows that exist among the given keys; raises StoreError.
        settings: times and sizes.
        owner_of: returns the owner of a row; see `FairCache`.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        settings: AuthSettings,
        *,
        owner_of: Callable[[V], Hashable] = lambda _value: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.misses = 0
        """How often the cache had no answer, so that a query was needed."""
        self._lookups = 0
        self._load = load
        self._refresh_s = settings.refresh_s
        self._stale_limit_s = settings.stale_limit_s
        self._max_waiting = settings.max_waiting
        self._monotonic = monotonic
        self._entries: FairCache[K, _Entry[V]] = FairCache(
            settings.cache_size, lambda entry: owner_of(entry.value)
        )
        self._negative: TTLCache[K, None] = TTLCache(
            settings.negative_cache_size, settings.negative_ttl_s, timer=monotonic
        )
        self._generation = 0  # entries of an earlier generation have to be queried again
        self._refresh_queue: dict[K, _Result[V]] = {}  # cached keys
        self._uncached_queue: dict[K, _Result[V]] = {}
        self._pause: asyncio.TimerHandle | None = None  # of the keys that are not cached
        self._in_flight: dict[K, _Result[V]] = {}
        self._in_flight_generation = 0  # the generation when the query in flight was sent
        self._worker: asyncio.Task[None] | None = None
        self._failure: StoreError | None = None
        self._unavailable = False  # since the last query failed, no statement has succeeded
        self._retry_at = 0.0

    @property
    def hits(self) -> int:
        """How often the cache answered: with a row, fresh or stale, or that there is none."""
        return self._lookups - self.misses

    def cached(self, key: K) -> V | None:
        """Return the row if it is cached and fresh; None otherwise, then await `get`."""
        entry = self._entries.get(key)
        if (
            entry is None
            or entry.generation != self._generation
            or self._monotonic() - entry.loaded_at >= self._refresh_s
        ):
            return None
        self._lookups += 1
        return entry.value

    def peek(self, key: K) -> V | None:
        """Return the row if it is cached, fresh or stale; this does not count as a lookup."""
        entry = self._entries.peek(key)
        return None if entry is None else entry.value

    async def get(self, key: K) -> V | None:
        """Return the row, or None when there is none.

        Raises:
            StoreError: it is not cached or past the stale limit, and the database is unavailable.
        """
        self._lookups += 1
        entry = self._entries.get(key)
        if entry is None:
            return None if key in self._negative else await self._query(key)
        age_s = self._monotonic() - entry.loaded_at
        if age_s >= self._stale_limit_s:
            return await self._query(key)
        invalidated = entry.generation != self._generation
        if age_s < self._refresh_s and not invalidated:
            return entry.value
        if self._unavailable or (age_s < 2 * self._refresh_s and not invalidated):
            self._refresh(key)
            return entry.value
        must_be_new = invalidated or age_s >= 3 * self._refresh_s
        try:
            async with asyncio.timeout(None if must_be_new else _REFRESH_WAIT_S):
                return await self._query(key)
        except (StoreError, TimeoutError):
            return entry.value

    def put(self, key: K, value: V) -> None:
        """Cache a row that has just been written."""
        self._in_flight.pop(key, None)  # a query in flight may have read the row before the write
        self._negative.pop(key, None)
        self._entries.put(key, _Entry(value, self._monotonic(), self._generation))

    @property
    def generation(self) -> int:
        """How often all entries were invalidated."""
        return self._generation

    def put_read(self, key: K, value: V, *, generation: int, age_s: float = 0.0) -> None:
        """Cache a row that another query has read, unless the cache has a newer one.

        Args:
            key: of the row.
            value: the row.
            generation: that of the cache before the query was sent. If entries were invalidated
                since, this one is invalid, too.
            age_s: how long ago the query was sent, in seconds.
        """
        entry = _Entry(value, self._monotonic() - age_s, generation)
        there = self._entries.peek(key)
        if there is None or (there.generation, there.loaded_at) < (generation, entry.loaded_at):
            self._negative.pop(key, None)
            self._entries.put(key, entry)

    def discard_unread(self, found: Container[K], *, older_than_s: float) -> None:
        """Remove the entries that a query of all rows did not find.

        Args:
            found: the keys that it found.
            older_than_s: how long ago it was sent, in seconds; what was cached since then stays.
        """
        sent_at = self._monotonic() - older_than_s
        gone = [
            key
            for key, entry in self._entries.items()
            if entry.loaded_at < sent_at and key not in found
        ]
        for key in gone:
            self.discard(key)

    def rows(self) -> dict[K, V]:
        """Return all cached rows, fresh or stale."""
        return {key: entry.value for key, entry in self._entries.items()}

    def discard(self, key: K) -> None:
        """Remove a key from the cache and the negative cache: its row has just changed."""
        self._in_flight.pop(key, None)
        self._entries.pop(key)
        self._negative.pop(key, None)

    def invalidate(self) -> None:
        """Invalidate all entries: each is queried again before use if the database is available."""
        self._generation += 1
        self._negative.clear()
        self.note_available()

    def note_available(self) -> None:
        """Note that the database has just answered another statement, so it is queried again.

        Otherwise a key that is seldom used would be served stale because of an old failure.
        """
        if self._monotonic() >= self._retry_at:
            self._unavailable = False

    async def close(self) -> None:
        """Cancel all lookups."""
        if self._pause is not None:
            self._pause.cancel()
        for future in self._uncached_queue.values():
            future.cancel()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait((self._worker,))

    def _refresh(self, key: K) -> None:
        if self._monotonic() >= self._retry_at:
            self._enqueue(key)

    async def _query(self, key: K) -> V | None:
        self.misses += 1
        if self._failure is not None and self._monotonic() < self._retry_at:
            # A new exception: one that is raised again and again collects tracebacks.
            raise StoreUnavailable(str(self._failure))
        # Shielded: requests share the future, and one that is cancelled must not cancel it.
        return await asyncio.shield(self._enqueue(key))

    def _enqueue(self, key: K) -> "_Result[V]":
        future = self._refresh_queue.get(key) or self._uncached_queue.get(key)
        if self._in_flight_generation == self._generation:
            future = self._in_flight.get(key) or future
        if future is None:
            queue = self._refresh_queue if key in self._entries else self._uncached_queue
            if queue is self._uncached_queue and len(queue) >= self._max_waiting:
                raise StoreUnavailable(f"{self._max_waiting} {self.name} wait for a lookup")
            future = queue[key] = asyncio.get_running_loop().create_future()
            # If no request waits for a refresh, its error must not be logged as never retrieved.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._start()
        return future

    def _start(self) -> None:
        if self._worker is None or self._worker.done():
            # In a context of its own: it works for many requests, not only the one that starts it.
            self._worker = asyncio.create_task(
                self._run(), name=f"lookup-{self.name}", context=Context()
            )

    def _next_batch(self) -> "dict[K, _Result[V]]":
        batch: dict[K, _Result[V]] = {}
        for queue in (self._refresh_queue, self._uncached_queue if self._pause is None else {}):
            for key in list(islice(queue, _MAX_KEYS_PER_QUERY - len(batch))):
                batch[key] = queue.pop(key)
        return batch

    async def _run(self) -> None:
        while batch := self._next_batch():
            self._in_flight, self._in_flight_generation = dict(batch), self._generation
            sent_at = self._monotonic()
            try:
                found = await self._load(list(batch))
            except StoreError as error:
                self._fail(batch, error)
            except Exception as error:
                self._fail(batch, StoreUnavailable(f"{type(error).__name__}: {error}"))
                log.exception("lookup.crashed", what=self.name)
            except BaseException:
                for future in (*batch.values(), *self._refresh_queue.values()):
                    future.cancel()
                raise
            else:
                self._succeed(batch, found, sent_at)
            finally:
                self._in_flight = {}

    def _resume(self) -> None:
        self._pause = None
        if self._uncached_queue:
            self._start()

    def _succeed(
        self, batch: Mapping[K, "_Result[V]"], found: Mapping[K, V], sent_at: float
    ) -> None:
        for key, future in batch.items():
            value = found.get(key)
            # Not cached if the key was put or discarded during the query: the result may be older.
            # If all entries were invalidated during the query, this one is cached as invalidated.
            if self._in_flight.get(key) is future:
                if value is not None:
                    self._negative.pop(key, None)
                    self._entries.put(key, _Entry(value, sent_at, self._in_flight_generation))
                else:
                    self._entries.pop(key)
                    if self._in_flight_generation == self._generation:
                        self._negative[key] = None
            if not future.done():
                future.set_result(value)
        if len(found) < len(batch) and self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(_PAUSE_S, self._resume)
        self._unavailable = False
        if self._failure is not None:
            self._failure = None
            log.info("lookup.healthy", what=self.name)

    def _fail(self, batch: Mapping[K, "_Result[V]"], error: StoreError) -> None:
        first = self._failure is None
        self._failure = error
        self._unavailable = True
        self._retry_at = self._monotonic() + _RETRY_S
        failed = [*batch.values(), *self._refresh_queue.values(), *self._uncached_queue.values()]
        self._refresh_queue.clear()
        self._uncached_queue.clear()
        for future in failed:
            if not future.done():
                future.set_exception(error)
        if first:
            log.error("lookup.failed", what=self.name, error=str(error))
