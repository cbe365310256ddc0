"""A store in memory that fails on command, a clock that stands still, and a flush on both."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from tracker import RowRejected, StoreTimeout, Target
from tracker._buffer.buffer import Buffer
from tracker._flush.flusher import Flusher
from tracker._flush.store import Chunk, ChunkResult

TARGET = Target(name="things", table="things", key_column="id", column="seen_at", key_type="bigint")


class Clock:
    """A clock that a test advances."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class MemoryStore:
    """Keeps the latest second of each key, and does as Postgres would.

    `before` and `after` run before and after the commit of each chunk and may raise.
    """

    def __init__(self) -> None:
        self.rows: dict[object, int] = {}
        self.known: set[object] | None = None
        self.rejected: set[object] = set()
        self.suppressed: set[object] = set()
        self.refused: dict[object, Exception] = {}
        self.table_error: Exception | None = None
        self.hidden: str | None = None
        self.at_most: int | None = None
        self.locked: set[object] = set()
        self.chunks: list[list[object]] = []
        self.tried: list[int] = []
        self.written = asyncio.Event()
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    async def write(self, chunk: Chunk) -> ChunkResult:
        await asyncio.sleep(0)
        self.tried.append(len(chunk))
        self.before()
        if self.at_most is not None and len(chunk) > self.at_most:
            raise StoreTimeout("too many")
        for key in chunk.keys:
            if error := self.refused.get(key) or self.table_error:
                raise error
        if self.rejected & set(chunk.keys):
            raise RowRejected("rejected")
        missing = [key for key in chunk.keys if self.known is not None and key not in self.known]
        locked = [key for key in chunk.keys if key in self.locked and key not in missing]
        rejected = [key for key in chunk.keys if key in self.suppressed]
        unchanged = 0
        for key, at in chunk.entries():
            if key in missing or key in locked or key in rejected:
                continue
            if self.rows.get(key, -1) >= at:
                unchanged += 1
            else:
                self.rows[key] = at
        self.chunks.append(list(chunk.keys))
        self.written.set()
        self.after()
        await asyncio.sleep(0)
        return ChunkResult(unchanged=unchanged, missing=missing, rejected=rejected, locked=locked)

    async def check(self) -> None:
        await asyncio.sleep(0)
        if self.table_error is not None:
            raise self.table_error

    async def hides_rows(self) -> str | None:
        await asyncio.sleep(0)
        return self.hidden


def raising(*errors: Exception | None):
    """Return a function that raises the errors one after the other, and then no more."""
    left = iter(errors)

    def step() -> None:
        if error := next(left, None):
            raise error

    return step


def always_raising(error: Exception):
    """Return a function that raises an error each time."""

    def step() -> None:
        raise error

    return step


@contextmanager
def unwritable_logs() -> Iterator[None]:
    """Let every line of the log raise while the block runs, as a closed pipe does."""

    def broken(*_: object) -> None:
        raise BrokenPipeError

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[broken])
    try:
        yield
    finally:
        structlog.configure(processors=before)


class FlushRig:
    """A buffer, a store and the flush between them."""

    def __init__(self, chunk_keys: int = 10, *, log_keys: bool = True) -> None:
        self.clock = Clock()
        self.buffer = Buffer(TARGET, clock=self.clock, monotonic=self.clock)
        self.store = MemoryStore()
        self.flusher = Flusher(
            self.buffer,
            self.store,
            chunk_keys=chunk_keys,
            log_keys=log_keys,
            clock=self.clock,
            monotonic=self.clock,
        )

    async def flush(self, *, within_s: float = 0.0) -> int:
        return await self.flusher.flush(within_s=within_s)

    def touch(self, *keys: int) -> None:
        for key in keys:
            self.buffer.touch(key)

    def assert_books_balance(self) -> None:
        counts = self.flusher.counts
        ended = counts.written + counts.unchanged + counts.missing + counts.rejected
        dropped = sum(self.buffer.dropped.values())
        assert self.buffer.touches == self.buffer.coalesced + dropped + ended + len(self.buffer)
