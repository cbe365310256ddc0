"""Which database a pool is connected to, as the server says: whatever its address or its name."""

from typing import Final

from tracker.errors import StoreMisconfigured
from tracker.postgres._driver import Pool, borrowed, translate

_DATABASE: Final = "SELECT oid::text FROM pg_database WHERE datname = current_database()"
_CLUSTER: Final = "SELECT system_identifier::text FROM pg_control_system()"


async def identity(pool: Pool) -> str:
    """Return what identifies a database: the identifiers of its cluster and of the database in it.

    A standby that is promoted, a cluster that moves to another address, and a database that is
    renamed keep theirs. A database that is restored from a dump has another one.

    Args:
        pool: connections to the database.

    Raises:
        StoreError: the server cannot be asked now.
    """
    try:
        async with borrowed(pool) as connection:
            database = await connection.fetchval(_DATABASE)
            try:
                cluster = await connection.fetchval(_CLUSTER)
            except Exception as error:
                if not isinstance(translate(error), StoreMisconfigured):
                    raise
                cluster = "unknown"  # this right of all roles was revoked
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error
    return f"{cluster}/{database}"
