"""The part of the composition root that opens connections to the database."""

from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from api.config import Settings
from api.postgres.database import Database, open_database

ACCESS_CONNECTIONS: Final = 9
"""One each for lookups of API keys, of devices and of devices by group, for revocations, for
readiness, for known devices and API keys, for presence and for events."""


class Databases(NamedTuple):
    """Pools of connections: what one kind of work needs does not have to wait for another."""

    requests: Database
    """Uploads may use all of its connections."""
    access: Database
    live: Database


async def open_databases(stack: AsyncExitStack, settings: Settings, dsn: str) -> Databases:
    """Open all pools.

    Args:
        stack: closes them.
        settings: all settings.
        dsn: of the database.
    """

    async def pool(connections: int, deadline_s: float | None = None) -> Database:
        return await stack.enter_async_context(
            open_database(dsn, settings.database, connections=connections, deadline_s=deadline_s)
        )

    return Databases(
        requests=await pool(settings.database.pool_size),
        access=await pool(ACCESS_CONNECTIONS, settings.auth.lookup_timeout_s),
        live=await pool(1),
    )
