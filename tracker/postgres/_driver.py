"""Connections and transactions through asyncpg, and its errors translated into store errors.

This is the only file of the library that imports the driver.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import asyncpg

from tracker.errors import (
    RowRejected,
    StoreError,
    StoreMisconfigured,
    StoreTimeout,
    StoreUnavailable,
)
from tracker.instrumentation import Log
from tracker.postgres._dsn import read_dsn
from tracker.postgres._sqlstate import error_for

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
else:
    Pool: TypeAlias = asyncpg.Pool
    Connection: TypeAlias = object

_LANGUAGES: Final = ("pl_", "plperl", "plpy", "pltcl", "plv8")
"""How the source files of procedural languages start, in which functions raise errors."""
_OF_A_VALUE: Final = "22"
"""The class of errors that quote the value, and after a colon what is wrong with it."""
_QUOTED: Final = re.compile("[\"'«»„“”].*[\"'«»„“”]", re.DOTALL).sub
_PLACE: Final = re.compile(r"PL/\w+ function [\w.\"]+").search
_CANCEL_WITHIN_S: Final = 2.0
"""How long a statement may take to be cancelled before its connection is cut."""
_CLIENT_SIDE: Final[tuple[tuple[type[Exception], type[StoreError]], ...]] = (
    (TimeoutError, StoreUnavailable),
    (asyncpg.InvalidCachedStatementError, StoreUnavailable),
    (asyncpg.ClientConfigurationError, StoreMisconfigured),
    (asyncpg.DataError, RowRejected),
    (asyncpg.InterfaceError, StoreUnavailable),
    (asyncpg.InternalClientError, StoreUnavailable),
    (OSError, StoreUnavailable),
)
"""What the driver raises without a message from the server; the first match counts."""
_warned: Final[set[str]] = set()
"""Parameters of DSNs that were logged as ignored."""

log: Final = Log(__name__)


def translate(error: BaseException) -> StoreError | None:
    """Return the store error that stands for a driver error.

    Args:
        error: any exception.

    Returns:
        The store error, not raised; None if `error` comes neither from the driver nor the system.
    """
    if isinstance(error, asyncpg.PostgresError) and not isinstance(
        error, asyncpg.InvalidCachedStatementError
    ):
        return error_for(error.sqlstate or "XX000", _message(error))
    if isinstance(error, OSError) and error.filename and not isinstance(error, TimeoutError):
        return StoreMisconfigured(reason(error))  # a certificate or a key, not a socket
    for driver_error, store_error in _CLIENT_SIDE:
        if isinstance(error, driver_error):
            return store_error(reason(error))
    return None


def reason(error: BaseException) -> str:
    """Return why a server could not be reached or a statement failed, as text for a log line.

    Args:
        error: what the driver or the system raised.
    """
    if isinstance(error, TimeoutError):
        return "no response in time"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) and not error.filename:
        return f"no server listens at its address: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror} {error.filename or ''}".rstrip()
    if isinstance(error, asyncpg.PostgresError):
        return _message(error)
    return f"{type(error).__name__}: {error}"


def _message(error: asyncpg.PostgresError) -> str:
    """Return what an error says without the row, which has names and positions.

    DETAIL and HINT quote the row, so does what a trigger raises, and so does a message about a
    value that has the wrong form.
    """
    if not error.args:
        return type(error).__name__
    if (error.server_source_filename or "").startswith(_LANGUAGES):
        place = _PLACE(error.context or "")
        return f"raised by {place[0]}" if place else "raised by a function of the database"
    said = str(error.args[0])
    if (error.sqlstate or "").startswith(_OF_A_VALUE):
        return _QUOTED("…", said.partition(":")[0])
    return said


@asynccontextmanager
async def transaction(pool: Pool, begin: str, *, deadline_s: float) -> AsyncIterator[Connection]:
    """Run the block in a transaction on a borrowed connection, and commit at its end.

    Args:
        pool: where the connection comes from.
        begin: the statements that open the transaction and set its limits.
        deadline_s: how long all of it may take, in seconds.

    Yields:
        The connection.

    Raises:
        StoreError: what the block raised, or what the driver raised, translated; the driver's error
            is its `__cause__`.
    """
    try:
        async with asyncio.timeout(deadline_s), borrowed(pool) as connection:
            try:
                await connection.execute(begin)
                try:
                    yield connection
                except TimeoutError as error:  # the pool's `command_timeout`
                    raise StoreTimeout("a statement took longer than the pool allows") from error
                await connection.execute("COMMIT")
            except asyncpg.PostgresError:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise
    except StoreError:
        raise
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error


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
    """Borrow a connection for the block.

    If the block is cancelled, times out or loses its connection, its statement may still be running
    on the server. The driver then asks the server to cancel it. A background task waits for that
    for a while and then cuts the connection, so the caller waits for nothing. Cutting it at once
    would leave the server to finish a statement whose result is not used, and to hold a backend
    while new connections are opened.

    Args:
        pool: where the connection comes from.

    Yields:
        The connection.
    """
    try:
        connection = await pool.acquire()
    except asyncpg.ClientConfigurationError:
        raise
    except ValueError:  # its message quotes the DSN, password included
        raise asyncpg.ClientConfigurationError("the DSN cannot be read") from None
    try:
        yield connection
    except asyncpg.ReadOnlySQLTransactionError:
        # After a failover the old primary keeps its sessions, and never accepts a write again.
        connection.terminate()
        await pool.release(connection)
        raise
    except asyncpg.PostgresError:  # the server reported it, so the connection is in order
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
    """Open a connection pool for the block and close it afterwards.

    Connections are made when they are first needed, so a server that is away delays no start.

    Args:
        dsn: where the server is.
        connections: the most connections.
        name: what the server's views and logs show as `application_name`.
        statement_cache_size: how many prepared statements a connection keeps. Leave it at 0 if a
            pooler in transaction mode may be in between.
        deadline_s: how long closing may take before connections are cut, in seconds.

    Yields:
        The pool.

    Raises:
        ConfigurationError: the DSN cannot work.
    """

    async def keep_session(_: object) -> None:
        """Send nothing: no session setting is ever changed, so a reset would cost a round trip."""

    options: dict[str, Any] = {}
    if dsn is not None:
        read = read_dsn(dsn)
        dsn, name = read.text, read.application_name or name
        if read.is_pooled:
            statement_cache_size = 0
        if read.timeout_s is not None:
            options["timeout"] = read.timeout_s
        if read.tls is not None:
            options["ssl"] = read.tls
        if set(read.ignored) - _warned:
            _warned.update(read.ignored)
            log.warning("dsn.ignored", parameters=list(read.ignored))
    pool = await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=connections,
        statement_cache_size=statement_cache_size,
        reset=keep_session,
        server_settings={"application_name": name},
        **options,
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(deadline_s):
                await pool.close()
        except TimeoutError:
            pool.terminate()
