"""A table of things that are seen, and what tests of the write want to do with it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg

from tracker import Target
from tracker._flush.store import Chunk
from tracker.keys import Key

AT = 1_700_000_000
"""A second in the past that touches are made at."""
THINGS = Target(name="things", table="things", key_column="id", column="seen_at", key_type="bigint")


def chunk(entries: Iterable[tuple[Key, int]]) -> Chunk:
    """Return a chunk of (key, second) pairs."""
    keys, seconds = zip(*entries, strict=True)
    return Chunk(list(keys), list(seconds))


def when(at: int) -> datetime:
    """Return a second as it comes out of the table."""
    return datetime.fromtimestamp(at, UTC)


async def seen(db: asyncpg.Connection) -> dict[int, datetime]:
    """Return when each thing was seen, of those that were."""
    rows = await db.fetch("SELECT id, seen_at FROM things WHERE seen_at IS NOT NULL")
    return {row[0]: row[1] for row in rows}


def partitions(table: str, count: int, options: str = "") -> str:
    """Return the statements that make the partitions of a table by hash.

    Args:
        table: made with PARTITION BY HASH.
        count: how many.
        options: what follows in CREATE TABLE.
    """
    return ";".join(
        f"CREATE TABLE {table}_{part} PARTITION OF {table} "
        f"FOR VALUES WITH (MODULUS {count}, REMAINDER {part}) {options}"
        for part in range(count)
    )


@asynccontextmanager
async def locking(dsn: str, statement: str) -> AsyncIterator[None]:
    """Hold the locks of a statement in another session while the block runs."""
    other = await asyncpg.connect(dsn)
    try:
        async with other.transaction():
            await other.execute(statement)
            yield
    finally:
        await other.close()
