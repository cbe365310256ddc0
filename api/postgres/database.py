"""The requests' way to Postgres: one statement, one deadline, and errors in the tracker's words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from api.config import DatabaseSettings
from tracker.postgres import Connections, Pool, borrowed, connections, open_pool, translate

if TYPE_CHECKING:
    Records: TypeAlias = list[asyncpg.Record]
else:
    Records: TypeAlias = list


class Database:
    """Runs single statements, each in a transaction of its own.

    Args:
        pool: connections for requests; the tracker has its own.
        deadline_s: how long a statement may take, waiting for a connection included, in seconds.
    """

    def __init__(self, pool: Pool, *, deadline_s: float) -> None:
        self._pool = pool
        self._deadline_s = deadline_s

    @property
    def connections(self) -> Connections:
        """How many connections there are."""
        return connections(self._pool)

    async def fetch(
        self, statement: str, *arguments: object, deadline_s: float | None = None
    ) -> Records:
        """Run a statement and return its rows.

        Args:
            statement: SQL with $1, $2, ... for the arguments.
            arguments: the values.
            deadline_s: how long it may take, when not as long as any other, in seconds.

        Raises:
            StoreUnavailable: the database is away, busy or too slow.
            StoreMisconfigured: a table, a column or a permission is missing.
            RowRejected: the database rejects the values.
        """
        try:
            async with (
                asyncio.timeout(deadline_s or self._deadline_s),
                borrowed(self._pool) as connection,
            ):
                return await connection.fetch(statement, *arguments)
        except Exception as error:
            translated = translate(error)
            if translated is None:
                raise
            raise translated from error


@asynccontextmanager
async def open_database(
    dsn: str,
    settings: DatabaseSettings,
    *,
    connections: int,
    deadline_s: float | None = None,
) -> AsyncIterator[Database]:
    """Open a pool; connections are made as they are needed.

    Args:
        dsn: where the server is.
        settings: timeouts and such.
        connections: the most connections.
        deadline_s: how long a statement may take, when not as long as the settings say, in seconds.
    """
    async with open_pool(
        dsn,
        connections=connections,
        name="activity-api",
        statement_cache_size=settings.statement_cache_size,
    ) as pool:
        yield Database(pool, deadline_s=deadline_s or settings.statement_timeout_s)
