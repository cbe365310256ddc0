"""Looking rows up by key through a cache, for keys and devices on the path of every request.

- Fresh entries are answered from memory, without an await.
- An entry past its refresh time is still answered at once, and looked up again behind the
  request's back; past twice that time the request waits a moment for the look-up.
- All keys that wait share one query at a time, however many requests miss.
- What is not cached is looked up after what is, and not for a moment after a query in which
  something did not exist. So a flood of wrong keys costs the database a few statements a second,
  and keeps no valid key from being looked up again when it is revoked.
- While the database is away, entries are answered up to the stale limit; what is not cached fails
  at once, and the database is tried again twice a second.
- What does not exist is remembered briefly, in a cache of its own, so that wrong keys push no
  right ones out.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
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
_Answer: TypeAlias = "asyncio.Future[V | None]"

_MOST_KEYS_PER_QUERY: Final = 1000
_RETRY_S: Final = 0.5
_REST_S: Final = 0.05
"""How long strangers wait after one of them turned out not to exist."""
_PATIENCE_S: Final = 0.1
"""How long a request with an old entry waits for a newer one."""
_PATIENCE_IN_DOUBT_S: Final = 0.5
"""How long if the old one may have been revoked."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    loaded_at: float
    generation: int


class CachedLookup(Generic[K, V]):
    """Rows by key, from memory when they are there.

    Args:
        name: what is looked up, for logs and metrics.
        load: returns the rows that exist among the keys it is given; raises StoreError.
        settings: times and sizes.
        owner_of: whose a row is; a cache that is full takes from the owner with the most rows.
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
        """How often memory did not tell, so that the database had to be asked."""
        self._lookups = 0
        self._load = load
        self._refresh_s = settings.refresh_s
        self._stale_limit_s = settings.stale_limit_s
        self._max_waiting = settings.max_waiting
        self._monotonic = monotonic
        self._known: FairCache[K, _Entry[V]] = FairCache(
            settings.cache_size, lambda entry: owner_of(entry.value)
        )
        self._unknown: TTLCache[K, None] = TTLCache(
            settings.negative_cache_size, settings.negative_ttl_s, timer=monotonic
        )
        self._generation = 0  # entries of an earlier one are to be looked up again
        self._waiting: dict[K, _Answer[V]] = {}  # what is known already, and is to be refreshed
        self._strangers: dict[K, _Answer[V]] = {}
        self._rest: asyncio.TimerHandle | None = None  # until strangers are looked up again
        self._under_way: dict[K, _Answer[V]] = {}
        self._asked_in = 0  # the generation in which the query under way was sent
        self._worker: asyncio.Task[None] | None = None
        self._failure: StoreError | None = None
        self._away = False  # the last query failed, and nothing was heard of the database since
        self._retry_at = 0.0

    @property
    def hits(self) -> int:
        """How often memory told: the row, however old, or that there is none."""
        return self._lookups - self.misses

    def cached(self, key: K) -> V | None:
        """Return the row if it is cached and fresh, without waiting; else None: ask `get`."""
        entry = self._known.get(key)
        if (
            entry is None
            or entry.generation != self._generation
            or self._monotonic() - entry.loaded_at >= self._refresh_s
        ):
            return None
        self._lookups += 1
        return entry.value

    def peek(self, key: K) -> V | None:
        """Return the row if it is cached, however old, without waiting and without counting."""
        entry = self._known.peek(key)
        return None if entry is None else entry.value

    async def get(self, key: K) -> V | None:
        """Return the row, or None when there is none.

        Raises:
            StoreError: it is not cached, or for too long, and the database cannot tell.
        """
        self._lookups += 1
        entry = self._known.get(key)
        if entry is None:
            return None if key in self._unknown else await self._ask(key)
        age_s = self._monotonic() - entry.loaded_at
        if age_s >= self._stale_limit_s:
            return await self._ask(key)
        doubtful = entry.generation != self._generation
        if age_s < self._refresh_s and not doubtful:
            return entry.value
        if self._away or (age_s < 2 * self._refresh_s and not doubtful):
            self._refresh(key)
            return entry.value
        try:
            async with asyncio.timeout(_PATIENCE_IN_DOUBT_S if doubtful else _PATIENCE_S):
                return await self._ask(key)
        except (StoreError, TimeoutError):
            return entry.value

    def put(self, key: K, value: V) -> None:
        """Cache a row that has just been written."""
        self._under_way.pop(key, None)  # it may have been asked for before the write
        self._unknown.pop(key, None)
        self._known.put(key, _Entry(value, self._monotonic(), self._generation))

    def discard(self, key: K) -> None:
        """Forget a row that has just been removed, or that there was none."""
        self._under_way.pop(key, None)
        self._known.pop(key)
        self._unknown.pop(key, None)

    def doubt(self) -> None:
        """Believe nothing before it has been looked up again, unless the database is away."""
        self._generation += 1
        self._unknown.clear()
        self.reached()

    def reached(self) -> None:
        """Take note that the database has just answered somebody: it is asked again, not bridged.

        A key that is seldom used would be believed by a failure of long ago.
        """
        if self._monotonic() >= self._retry_at:
            self._away = False

    async def close(self) -> None:
        """Give up on look-ups that are under way."""
        if self._rest is not None:
            self._rest.cancel()
        for future in self._strangers.values():
            future.cancel()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait((self._worker,))

    def _refresh(self, key: K) -> None:
        if self._monotonic() >= self._retry_at:
            self._enqueue(key)

    async def _ask(self, key: K) -> V | None:
        self.misses += 1
        if self._failure is not None and self._monotonic() < self._retry_at:
            # A new one: tracebacks would pile up on the old one.
            raise StoreUnavailable(str(self._failure))
        # Shielded: the future is shared, and a client that leaves must not end it for the others.
        return await asyncio.shield(self._enqueue(key))

    def _enqueue(self, key: K) -> "_Answer[V]":
        future = self._waiting.get(key) or self._strangers.get(key)
        if self._asked_in == self._generation:
            future = self._under_way.get(key) or future
        if future is None:
            queue = self._waiting if key in self._known else self._strangers
            if queue is self._strangers and len(queue) >= self._max_waiting:
                raise StoreUnavailable(f"{self._max_waiting} {self.name} wait to be looked up")
            future = queue[key] = asyncio.get_running_loop().create_future()
            # Nobody may be waiting for a refresh; its error is not a forgotten one.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._start()
        return future

    def _start(self) -> None:
        if self._worker is None or self._worker.done():
            # In a context of its own: it works for more requests than the one that starts it.
            self._worker = asyncio.create_task(
                self._work(), name=f"lookup-{self.name}", context=Context()
            )

    def _next_batch(self) -> "dict[K, _Answer[V]]":
        batch: dict[K, _Answer[V]] = {}
        for queue in (self._waiting, self._strangers if self._rest is None else {}):
            for key in list(islice(queue, _MOST_KEYS_PER_QUERY - len(batch))):
                batch[key] = queue.pop(key)
        return batch

    async def _work(self) -> None:
        while batch := self._next_batch():
            self._under_way, self._asked_in = dict(batch), self._generation
            try:
                found = await self._load(list(batch))
            except StoreError as error:
                self._fail(batch, error)
            except Exception as error:
                self._fail(batch, StoreUnavailable(f"{type(error).__name__}: {error}"))
                log.exception("lookup.crashed", what=self.name)
            except BaseException:
                for future in (*batch.values(), *self._waiting.values()):
                    future.cancel()
                raise
            else:
                self._succeed(batch, found)
            finally:
                self._under_way = {}

    def _rested(self) -> None:
        self._rest = None
        if self._strangers:
            self._start()

    def _succeed(self, batch: Mapping[K, "_Answer[V]"], found: Mapping[K, V]) -> None:
        for key, future in batch.items():
            value = found.get(key)
            # Not remembered if it was put or discarded while the query was under way: the answer
            # may be from before that. If all was doubted meanwhile it is remembered as doubtful.
            if self._under_way.get(key) is future:
                if value is not None:
                    self._unknown.pop(key, None)
                    self._known.put(key, _Entry(value, self._monotonic(), self._asked_in))
                else:
                    self._known.pop(key)
                    if self._asked_in == self._generation:
                        self._unknown[key] = None
            if not future.done():
                future.set_result(value)
        if len(found) < len(batch) and self._rest is None:
            self._rest = asyncio.get_running_loop().call_later(_REST_S, self._rested)
        self._away = False
        if self._failure is not None:
            self._failure = None
            log.info("lookup.healthy", what=self.name)

    def _fail(self, batch: Mapping[K, "_Answer[V]"], error: StoreError) -> None:
        first = self._failure is None
        self._failure = error
        self._away = True
        self._retry_at = self._monotonic() + _RETRY_S
        failed = [*batch.values(), *self._waiting.values(), *self._strangers.values()]
        self._waiting.clear()
        self._strangers.clear()
        for future in failed:
            if not future.done():
                future.set_exception(error)
        if first:
            log.error("lookup.failed", what=self.name, error=str(error))
