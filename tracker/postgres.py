"""How touches are written to Postgres: one bulk UPDATE per chunk, in a short transaction.

Two statements do the same work:

- The *straight* one updates in one pass. It must lock rows in key order, or two writers deadlock.
  An UPDATE has no ORDER BY, so the order is that of the plan: a nested loop that walks the sorted
  input and finds each row by index. Hash and merge joins and scans of the table, which would lock
  in an order of their own, are switched off for the transaction. It is also the faster plan: a
  hash join reads the whole table for every chunk.
- The *careful* one follows when the straight one meets a lock it may not wait for. It locks
  what it can get at once (SKIP LOCKED, so it never waits while it holds a lock and can be part of
  no deadlock), updates that, and reports the rest as locked. Locked rows are joined back by key:
  by ctid they would miss every row that moved meanwhile.

Both answer only with the keys that were *not* written, usually none. The transaction sets all it
needs with SET LOCAL, so it works through a pooler in transaction mode.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from tracker.errors import (
    RowRefused,
    StoreContended,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
)
from tracker.sqlstate import error_for
from tracker.store import Chunk, Written
from tracker.target import Target

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
else:
    Pool: TypeAlias = asyncpg.Pool
    Connection: TypeAlias = object

_PENDING: Final = """
WITH pending AS MATERIALIZED (
    SELECT given.key, to_timestamp(least(given.at, server.second)) AS at
    FROM unnest($1::{key_type}[], $2::bigint[]) AS given(key, at),
         (SELECT floor(extract(epoch FROM now()))::bigint) AS server(second)
)"""
_STRAIGHT: Final = (
    _PENDING
    + """, written AS (
    UPDATE {table} AS t SET {column} = pending.at
    FROM pending
    WHERE t.{key_column} = pending.key AND (t.{column} IS NULL OR t.{column} < pending.at)
    RETURNING pending.key
)
SELECT pending.key,
       EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key) AS found,
       false AS stale
FROM pending WHERE pending.key NOT IN (SELECT key FROM written)
"""
)
_CAREFUL: Final = (
    _PENDING
    + """, locked AS MATERIALIZED (
    SELECT pending.key, pending.at
    FROM {table} AS t JOIN pending ON t.{key_column} = pending.key
    WHERE t.{column} IS NULL OR t.{column} < pending.at
    ORDER BY pending.key
    FOR NO KEY UPDATE OF t SKIP LOCKED
), written AS (
    UPDATE {table} AS t SET {column} = locked.at
    FROM locked
    WHERE t.{key_column} = locked.key AND (t.{column} IS NULL OR t.{column} < locked.at)
    RETURNING locked.key
)
SELECT pending.key,
       EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key) AS found,
       EXISTS (SELECT FROM {table} AS t WHERE t.{key_column} = pending.key
               AND (t.{column} IS NULL OR t.{column} < pending.at)) AS stale
FROM pending WHERE pending.key NOT IN (SELECT key FROM written)
"""
)
_BEGIN: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = {statement_timeout_ms};
SET LOCAL lock_timeout = {lock_timeout_ms};
SET LOCAL idle_in_transaction_session_timeout = {statement_timeout_ms};
SET LOCAL enable_nestloop = on;
SET LOCAL enable_indexscan = on;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL jit_above_cost = -1
"""

_CLIENT_SIDE: Final[tuple[tuple[type[Exception], type[StoreError]], ...]] = (
    (TimeoutError, StoreTimeout),
    (asyncpg.InvalidCachedStatementError, StoreUnavailable),
    (asyncpg.ClientConfigurationError, StoreMisconfigured),
    (asyncpg.DataError, RowRefused),
    (asyncpg.InterfaceError, StoreUnavailable),
    (asyncpg.InternalClientError, StoreUnavailable),
    (OSError, StoreUnavailable),
)
"""What the driver raises without the server's word; the first match counts."""


def translate(error: BaseException) -> StoreError | None:
    """Return the store error that a driver error stands for; None if it is no driver error."""
    if isinstance(error, asyncpg.PostgresError) and not isinstance(
        error, asyncpg.InvalidCachedStatementError
    ):
        return error_for(error.sqlstate or "XX000", str(error))
    for driver_error, store_error in _CLIENT_SIDE:
        if isinstance(error, driver_error):
            return store_error(f"{type(error).__name__}: {error}".rstrip(": "))
    return None


def _quoted(*identifiers: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in identifiers)


class PostgresStore:
    """Writes the touches of one target through a pool; at most one connection at a time.

    Args:
        pool: where connections come from.
        target: the column to advance.
        statement_timeout_s: how long one UPDATE may take, in seconds; a chunk as a whole, with
            getting a connection and the commit, may take twice that.
        lock_timeout_s: how long the straight statement waits for one lock, in seconds. Keep it
            below the server's `deadlock_timeout` (1 s by default), so that it gives way before
            the server ends somebody's transaction.
    """

    def __init__(
        self, pool: Pool, target: Target, *, statement_timeout_s: float, lock_timeout_s: float
    ) -> None:
        names = MappingProxyType(
            {
                "table": _quoted(*target.table.split(".")),
                "key_column": _quoted(target.key_column),
                "column": _quoted(target.column),
                "key_type": target.key_type,
            }
        )
        self._pool = pool
        self._straight = _STRAIGHT.format_map(names)
        self._careful = _CAREFUL.format_map(names)
        self._begin = _BEGIN.format(
            statement_timeout_ms=max(1, int(statement_timeout_s * 1000)),
            lock_timeout_ms=max(1, int(lock_timeout_s * 1000)),
        )
        self._deadline_s = 2 * statement_timeout_s

    async def write(self, chunk: Chunk) -> Written:
        """See `Store.write`."""
        try:
            return await self._update(self._straight, chunk)
        except StoreContended:
            return await self._update(self._careful, chunk)

    async def _update(self, statement: str, chunk: Chunk) -> Written:
        keys = [key for key, _ in chunk]
        seconds = [at for _, at in chunk]
        try:
            async with asyncio.timeout(self._deadline_s), self._transaction() as connection:
                left = await connection.fetch(statement, keys, seconds)
        except Exception as error:
            translated = translate(error)
            if translated is None:
                raise
            raise translated from error
        canonical = type(keys[0])  # a uuid comes back as a UUID and is buffered as a str
        missing = [canonical(key) for key, found, _ in left if not found]
        locked = [canonical(key) for key, _, stale in left if stale]
        return Written(len(left) - len(missing) - len(locked), missing, locked)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with borrowed(self._pool) as connection:
            try:
                await connection.execute(self._begin)
                yield connection
                await connection.execute("COMMIT")
            except asyncpg.PostgresError:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise


@asynccontextmanager
async def borrowed(pool: Pool) -> AsyncIterator[Connection]:
    """Borrow a connection, and cut it if it is left in an unknown state.

    Whoever is cancelled, out of time or cut off does not know what the server does now, and
    waiting for it to say so could take for ever. An error that the server reports is none of these.
    """
    connection = await pool.acquire()
    try:
        yield connection
    except asyncpg.PostgresError:
        raise
    except BaseException:
        connection.terminate()
        raise
    finally:
        await pool.release(connection)


@asynccontextmanager
async def open_pool(dsn: str | None, *, connections: int, deadline_s: float) -> AsyncIterator[Pool]:
    """Make a pool of the tracker's own: no request waits for its connections.

    No connection is made before the first flush, so a server that is away stops nobody's start.
    Statements are not cached by name, which poolers in transaction mode need.

    Args:
        dsn: where the server is.
        connections: the most connections, one for each target.
        deadline_s: how long closing may take before connections are cut, in seconds.
    """

    async def keep_session(_: object) -> None:
        """All settings are local to a transaction, so there is nothing to reset."""

    pool = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=connections,
        statement_cache_size=0,
        reset=keep_session,
        server_settings={"application_name": "activity-tracker"},
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(deadline_s):
                await pool.close()
        except TimeoutError:
            pool.terminate()
