"""Schema migrations: brings a database up to date, once however many processes try."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from api.config import SettingsError
from api.postgres.revisions import HEAD, SELECT_REVISIONS, is_newer
from tracker import StoreUnavailable
from tracker.postgres import read_dsn, reason, translate

if TYPE_CHECKING:
    AnyConnection = asyncpg.Connection[asyncpg.Record]


class MigrationError(Exception):
    """The database cannot be reached or rejects a migration; the message is one line."""


class DatabaseUnavailable(MigrationError):
    """The database cannot be reached now."""


async def migrate(dsn: str, *, connect_timeout_s: float) -> None:
    """Bring a database up to date.

    Nearly always it is: then one statement finds that out, without a second's import of Alembic.

    Args:
        dsn: where the database is.
        connect_timeout_s: how long to wait for the server, in seconds.

    Raises:
        MigrationError: the database cannot be reached, rejects a migration, or has a newer schema
            than this code.
        SettingsError: the DSN makes no sense.
    """

    async def connect() -> "AnyConnection":
        return await _connect(dsn, connect_timeout_s)

    connection = await connect()
    try:
        revisions = await _revisions(connection)
    finally:
        await connection.close(timeout=connect_timeout_s)
    if revisions == [HEAD]:
        return
    if any(map(is_newer, revisions)):
        raise MigrationError(
            f"the schema of the database is at revision {max(revisions)}, and this code knows no "
            f"newer one than {HEAD}: run the newer release again, or restore a backup from before "
            "the upgrade"
        )

    from api.postgres.upgrade import UpgradeError, upgrade  # noqa: PLC0415 - it takes a second

    try:
        await upgrade(connect)
    except UpgradeError as error:
        raise MigrationError(f"the database rejects a migration: {error}") from error


def migrate_now(dsn: str, *, connect_timeout_s: float) -> None:
    """Do the same as `migrate` where no event loop runs."""
    asyncio.run(migrate(dsn, connect_timeout_s=connect_timeout_s))


async def _connect(dsn: str, timeout_s: float) -> "AnyConnection":
    """Connect by asyncpg, so that the DSN means the same here as everywhere else."""
    try:
        read = read_dsn(dsn)
        timeout_s = read.timeout_s or timeout_s
        return await asyncpg.connect(
            read.text, timeout=timeout_s, statement_cache_size=0, ssl=read.tls
        )
    except TimeoutError as error:
        raise DatabaseUnavailable(
            f"the database does not respond within {timeout_s:g} s: is database.url "
            "right (ACTIVITY__DATABASE__URL)?"
        ) from error
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise SettingsError(f"database.url cannot be used: {error}") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        temporary = isinstance(translate(error), StoreUnavailable)
        if temporary:
            advice = "is it running, and is database.url right"
        elif isinstance(error, asyncpg.InvalidCatalogNameError):
            advice = "create it, or correct database.url"
        else:
            advice = "correct database.url, or what the server allows"
        raise (DatabaseUnavailable if temporary else MigrationError)(
            f"cannot connect to the database: {reason(error)}; {advice} (ACTIVITY__DATABASE__URL)"
        ) from error


async def _revisions(connection: "AnyConnection") -> list[str]:
    """Return the revisions that a database is at; none if they cannot be read."""
    try:
        rows = await connection.fetch(SELECT_REVISIONS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return []  # an empty database, a missing right, a lost connection: the upgrade reports it
    return [row[0] for row in rows]
