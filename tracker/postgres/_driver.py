"""How chunks get to Postgres: connections, deadlines, and the driver's errors in our words.

The only file of the library that knows the driver; what it sends is in `sql.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import asyncpg

from tracker._flush.store import Chunk, ChunkResult
from tracker.errors import (
    RowRejected,
    StoreContended,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)
from tracker.keys import Key
from tracker.postgres._sqlstate import error_for
from tracker.postgres._statements import arguments, begin, statements
from tracker.target import Target

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
else:
    Pool: TypeAlias = asyncpg.Pool
    Connection: TypeAlias = object

_Left: TypeAlias = dict[str, list[Key]]
"""Keys that were not written, by what is the matter with them."""

_CANCEL_WITHIN_S: Final = 2.0
_CLIENT_SIDE: Final[tuple[tuple[type[Exception], type[StoreError]], ...]] = (
    (TimeoutError, StoreUnavailable),
    (asyncpg.InvalidCachedStatementError, StoreUnavailable),
    (asyncpg.ClientConfigurationError, StoreMisconfigured),
    (asyncpg.DataError, RowRejected),
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
            return store_error(reason(error))
    return None


def reason(error: BaseException) -> str:
    """Return in words why a server could not be asked.

    Args:
        error: what the driver or the system raised.
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) and not error.filename:
        return f"no server listens at its address: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror} {error.filename or ''}".rstrip()
    if isinstance(error, asyncpg.PostgresError):
        return str(error)
    return f"{type(error).__name__}: {error}"


class PostgresStore:
    """Writes the touches of one target through a pool; at most one connection at a time.

    Args:
        pool: where connections come from.
        target: the column to advance.
        statement_timeout_s: how long one statement may take, in seconds; with a connection to
            get, two statements and a commit to wait for, a transaction may take three times that.
        lock_timeout_s: how long the straight statement waits for one lock, in seconds. Keep it
            below the server's `deadlock_timeout` (1 s by default), so that it gives way before
            the server ends somebody's transaction.
    """

    def __init__(
        self, pool: Pool, target: Target, *, statement_timeout_s: float, lock_timeout_s: float
    ) -> None:
        self._pool = pool
        self._target = target
        self._statements = statements(target)
        self._begin = begin(statement_timeout_s=statement_timeout_s, lock_timeout_s=lock_timeout_s)
        self._deadline_s = 3 * statement_timeout_s

    async def write(self, chunk: Chunk) -> ChunkResult:
        """See `Store.write`."""
        try:
            written, left = await self._in_transaction(self._write_fast, chunk)
        except StoreContended:
            _, left = await self._in_transaction(self._write_skip_locked, chunk)
            unchanged = len(left.get("unchanged", ()))
        else:
            stale = left.pop("stale", ())
            unchanged = max(0, len(chunk) - written - len(left.get("missing", ())) - len(stale))
            if stale:
                # Out of date, and not written: the row was replaced meanwhile, or something keeps
                # it as it is. A new snapshot tells.
                at = dict(chunk.entries())
                again = Chunk(list(stale), [at[key] for key in stale])
                _, more = await self._in_transaction(self._write_skip_locked, again)
                unchanged += len(more.pop("unchanged", ()))
                for state, keys in more.items():
                    left[state] = [*left.get(state, ()), *keys]
        return ChunkResult(
            unchanged=unchanged,
            missing=left.get("missing", ()),
            refused=left.get("refused", ()),
            locked=left.get("locked", ()),
        )

    async def _write_fast(self, connection: Connection, chunk: Chunk) -> tuple[int, _Left]:
        given = arguments(self._target, chunk)
        tag = await connection.execute(self._statements.straight, *given)
        written = int(tag.removeprefix("UPDATE "))
        if written == len(chunk):
            return written, {}
        return written, _by_state(await connection.fetch(self._statements.left, *given))

    async def _write_skip_locked(self, connection: Connection, chunk: Chunk) -> tuple[int, _Left]:
        given = arguments(self._target, chunk)
        left = _by_state(await connection.fetch(self._statements.careful, *given))
        return len(chunk) - sum(map(len, left.values())), left

    async def _in_transaction(
        self, write: Callable[[Connection, Chunk], Awaitable[tuple[int, _Left]]], chunk: Chunk
    ) -> tuple[int, _Left]:
        """Return how many keys were written, and the others by what they are."""
        try:
            async with asyncio.timeout(self._deadline_s), self._transaction() as connection:
                return await write(connection, chunk)
        except Exception as error:
            translated = translate(error)
            if translated is None:
                raise
            raise translated from error

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


def _by_state(rows: Iterable[Iterable[Any]]) -> _Left:
    left: _Left = {}
    for key, state in rows:
        left.setdefault(state, []).append(key)
    return left


class Connections(NamedTuple):
    """How many connections a pool has, at one moment."""

    in_use: int
    open: int
    most: int


def connections(pool: Pool) -> Connections:
    """Return how many connections a pool has."""
    size = pool.get_size()
    return Connections(size - pool.get_idle_size(), size, pool.get_max_size())


_releasing: Final[set[asyncio.Task[None]]] = set()
"""Keeps the tasks that return connections alive; the event loop itself does not."""


@asynccontextmanager
async def borrowed(pool: Pool) -> AsyncIterator[Connection]:
    """Borrow a connection; one that is left in an unknown state holds up nobody.

    Whoever is cancelled, out of time or cut off leaves a statement behind that may still be
    running. The driver asks the server to cancel it. That is awaited in the background, for a
    while, and then the connection is cut: cut at once, it would leave the server to finish a
    statement that nobody waits for, holding a backend while new ones are opened.
    """
    try:
        connection = await pool.acquire()
    except asyncpg.ClientConfigurationError:
        raise
    except ValueError:  # which quotes the DSN, password included
        raise asyncpg.ClientConfigurationError("the DSN cannot be read") from None
    try:
        yield connection
    except asyncpg.ReadOnlySQLTransactionError:
        # A server that was failed over from keeps its sessions, and takes no write ever again.
        connection.terminate()
        await pool.release(connection)
        raise
    except asyncpg.PostgresError:  # the server's own word: the connection is in order
        await pool.release(connection)
        raise
    except BaseException:
        task = asyncio.create_task(_release(pool, connection), name="release-connection")
        _releasing.add(task)
        task.add_done_callback(_releasing.discard)
        raise
    else:
        await pool.release(connection)


async def _release(pool: Pool, connection: Connection) -> None:
    try:
        async with asyncio.timeout(_CANCEL_WITHIN_S):
            await connection.execute("ROLLBACK")  # waits for the cancellation first
        await pool.release(connection)
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - whatever it is, cut the connection
        with suppress(asyncpg.InterfaceError):
            connection.terminate()
            await pool.release(connection)


@asynccontextmanager
async def open_pool(
    dsn: str | None,
    *,
    connections: int,
    name: str = "activity-tracker",
    statement_cache_size: int = 0,
    deadline_s: float = 1.0,
) -> AsyncIterator[Pool]:
    """Make a pool, for one kind of user only, who then waits for no other.

    No connection is made before it is needed, so a server that is away stops nobody's start.

    Args:
        dsn: where the server is.
        connections: the most connections.
        name: what the server's views and logs show as `application_name`.
        statement_cache_size: statements that a connection keeps prepared by name; none where a
            pooler in transaction mode may be in between.
        deadline_s: how long closing may take before connections are cut, in seconds.
    """

    async def keep_session(_: object) -> None:
        """Nothing in a session is ever changed, so resetting it would be a round trip in vain."""

    pool = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=connections,
        statement_cache_size=statement_cache_size,
        reset=keep_session,
        server_settings={"application_name": name},
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(deadline_s):
                await pool.close()
        except TimeoutError:
            pool.terminate()
