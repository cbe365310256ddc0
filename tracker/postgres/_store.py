"""Writes one chunk to Postgres: on the fast path, or on the SKIP LOCKED path if rows are locked.

The SQL is in `_statements.py`, connections and the driver's errors are in `_driver.py`.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from tracker._flush.store import Chunk, ChunkResult
from tracker.errors import StoreContended
from tracker.keys import Key
from tracker.postgres._driver import Connection, Pool, transaction
from tracker.postgres._statements import arguments, begin, statements
from tracker.postgres._table import TableCheck
from tracker.target import Target

_Unwritten: TypeAlias = dict[str, list[Key]]
"""Keys whose rows were not updated, by the reason that the statement gives."""


class PostgresStore:
    """Writes the touches of one target through a pool; at most one connection at a time.

    Args:
        pool: where connections come from.
        target: the column to advance.
        statement_timeout_s: how long one statement may take, in seconds. A whole transaction may
            take three times as long: it waits for a connection, two statements and a commit.
        lock_timeout_s: how long the fast path waits for one lock, in seconds. Keep it below the
            server's `deadlock_timeout` (1 s by default), so that the fast path gives up before
            the server aborts another session's transaction.
    """

    def __init__(
        self, pool: Pool, target: Target, *, statement_timeout_s: float, lock_timeout_s: float
    ) -> None:
        self._pool = pool
        self._target = target
        self._statements = statements(target)
        self._begin = begin(statement_timeout_s=statement_timeout_s, lock_timeout_s=lock_timeout_s)
        self._deadline_s = 3 * statement_timeout_s
        self._table = TableCheck(target)

    async def write(self, chunk: Chunk) -> ChunkResult:
        """See `Store.write`."""
        try:
            written, unwritten = await self._in_transaction(self._write_fast, chunk)
        except StoreContended:
            _, unwritten = await self._in_transaction(self._write_skip_locked, chunk)
            unchanged = len(unwritten.get("unchanged", ()))
        else:
            stale = unwritten.pop("stale", ())
            unchanged = max(0, len(chunk) - written - len(stale) - _total(unwritten))
            if stale:
                # The rows are out of date and were not updated: they were replaced meanwhile, or
                # a trigger or a policy skips them. A new snapshot shows which.
                _, more = await self._in_transaction(self._write_skip_locked, _part(chunk, stale))
                unchanged += len(more.pop("unchanged", ()))
                for state, keys in more.items():
                    unwritten[state] = [*unwritten.get(state, ()), *keys]
        corrected: Sequence[Key] = ()
        if future := unwritten.pop("future", ()):
            corrected = await self._correct(_part(chunk, future))
            still = set(future) - set(corrected)  # locked, or corrected by another writer
            unwritten["locked"] = [*unwritten.get("locked", ()), *still]
        return ChunkResult(
            unchanged=unchanged,
            missing=unwritten.get("missing", ()),
            rejected=unwritten.get("rejected", ()),
            locked=unwritten.get("locked", ()),
            corrected=corrected,
        )

    async def check(self) -> None:
        """See `Store.check`."""
        await self._in_transaction(self._write_fast, Chunk([], []))

    async def hides_rows(self) -> str | None:
        """See `Store.hides_rows`."""
        async with self._transaction() as connection:
            return await self._table.hides_rows(connection)

    async def _correct(self, chunk: Chunk) -> Sequence[Key]:
        async with self._transaction() as connection:
            given = arguments(self._target, chunk)
            return [key for (key,) in await connection.fetch(self._statements.correct, *given)]

    async def _write_fast(self, connection: Connection, chunk: Chunk) -> tuple[int, _Unwritten]:
        given = arguments(self._target, chunk)
        tag = await connection.execute(self._statements.fast, *given)
        written = int(tag.removeprefix("UPDATE "))
        if written == len(chunk):
            return written, {}
        return written, _by_state(await connection.fetch(self._statements.unwritten, *given))

    async def _write_skip_locked(
        self, connection: Connection, chunk: Chunk
    ) -> tuple[int, _Unwritten]:
        given = arguments(self._target, chunk)
        unwritten = _by_state(await connection.fetch(self._statements.skip_locked, *given))
        return len(chunk) - _total(unwritten), unwritten

    async def _in_transaction(
        self,
        write: Callable[[Connection, Chunk], Awaitable[tuple[int, _Unwritten]]],
        chunk: Chunk,
    ) -> tuple[int, _Unwritten]:
        """Return how many rows were written, and the other keys by reason."""
        async with self._transaction() as connection:
            await self._table.check(connection)
            return await write(connection, chunk)

    def _transaction(self) -> AbstractAsyncContextManager[Connection]:
        return transaction(self._pool, self._begin, deadline_s=self._deadline_s)


def _part(chunk: Chunk, keys: Sequence[Key]) -> Chunk:
    at = dict(chunk.entries())
    return Chunk(list(keys), [at[key] for key in keys])


def _total(unwritten: _Unwritten) -> int:
    return sum(map(len, unwritten.values()))


def _by_state(rows: Iterable[Iterable[Any]]) -> _Unwritten:
    unwritten: _Unwritten = {}
    for key, state in rows:
        unwritten.setdefault(state, []).append(key)
    return unwritten
