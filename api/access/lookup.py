"""Cached lookups of API keys and devices, which every request needs.

- A fresh entry is returned from memory, without an await.
- An entry past `refresh_s` is returned at once and refreshed in the background. Past twice that
  time the request waits for the refresh, but not for long; past three times that time, or if the
  entry may have been revoked, until the lookup succeeds or fails. So slow lookups extend the use of
  an entry by no more than that. Its age counts from when its query was sent.
- While the database is unavailable, entries are returned until `stale_limit_s`, and a miss fails at
  once.
- Keys that do not exist are kept briefly in a negative cache of their own, so that wrong keys
  evict no valid ones.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cachetools import TTLCache

from api.access.fair_cache import FairCache
from api.access.queries import SharedQueries
from api.config import AuthSettings
from tracker import StoreError

K = TypeVar("K")
V = TypeVar("V")

_REFRESH_WAIT_S: Final = 0.1
"""How long a request with an old entry waits for the refresh."""


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
        """How often the cache had no entry, so that a query was needed."""
        self._lookups = 0
        self._refresh_s = settings.refresh_s
        self._stale_limit_s = settings.stale_limit_s
        self._monotonic = monotonic
        self._entries: FairCache[K, _Entry[V]] = FairCache(
            settings.cache_size, lambda entry: owner_of(entry.value)
        )
        self._negative: TTLCache[K, None] = TTLCache(
            settings.negative_cache_size, settings.negative_ttl_s, timer=monotonic
        )
        self._queries = SharedQueries(
            name, load, self._receive, max_waiting=settings.max_waiting, monotonic=monotonic
        )

    @property
    def hits(self) -> int:
        """How often the cache had an entry: a row, fresh or stale, or that there is none."""
        return self._lookups - self.misses

    def cached(self, key: K) -> V | None:
        """Return the row if it is cached and fresh; None otherwise, then await `get`."""
        entry = self._entries.get(key)
        if (
            entry is None
            or entry.generation != self._queries.generation
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
        invalidated = entry.generation != self._queries.generation
        if age_s < self._refresh_s and not invalidated:
            return entry.value
        if self._queries.unavailable or (age_s < 2 * self._refresh_s and not invalidated):
            self._queries.refresh(key)
            return entry.value
        must_be_new = invalidated or age_s >= 3 * self._refresh_s
        try:
            async with asyncio.timeout(None if must_be_new else _REFRESH_WAIT_S):
                return await self._query(key)
        except (StoreError, TimeoutError):
            return entry.value

    def put(self, key: K, value: V) -> None:
        """Cache a row that has just been written."""
        self._queries.forget(key)
        self._negative.pop(key, None)
        self._entries.put(key, _Entry(value, self._monotonic(), self._queries.generation))

    @property
    def generation(self) -> int:
        """How often all entries were invalidated."""
        return self._queries.generation

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
        self._queries.forget(key)
        self._entries.pop(key)
        self._negative.pop(key, None)

    def invalidate(self) -> None:
        """Invalidate all entries: each is queried again before use if the database is available."""
        self._queries.generation += 1
        self._negative.clear()
        self.note_available()

    def note_available(self) -> None:
        """Note that the database has just responded to another statement, so it is queried again.

        Otherwise a key that is seldom used would be served stale because of an old failure.
        """
        self._queries.note_available()

    async def close(self) -> None:
        """Cancel all lookups."""
        await self._queries.close()

    async def _query(self, key: K) -> V | None:
        self.misses += 1
        return await self._queries.query(key, is_cached=key in self._entries)

    def _receive(self, key: K, value: V | None, sent_at: float, generation: int) -> None:
        # If all entries were invalidated during the query, this one is cached as invalidated.
        if value is not None:
            self._negative.pop(key, None)
            self._entries.put(key, _Entry(value, sent_at, generation))
        else:
            self._entries.pop(key)
            if generation == self._queries.generation:
                self._negative[key] = None
