"""Runs Alembic on a database. It is imported only if a migration is due: that takes a second."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from api.postgres.revisions import VERSION_TABLE

_LOCK: Final = 0x6163_7469_7669_7479
"""The key of the advisory lock: "activity" in ASCII."""

_LOCK_TIMEOUT_S: Final = 60
"""How long to wait for another process that migrates, or for transactions that use the tables."""

_MOVE_REVISION: Final = f"""
DO $$
BEGIN
    IF to_regclass('{VERSION_TABLE}') IS NULL AND to_regclass('key_revision') IS NOT NULL
       AND to_regclass('alembic_version') IS NOT NULL THEN
        CREATE TABLE {VERSION_TABLE} (version_num varchar(32) PRIMARY KEY);
        WITH moved AS (
            DELETE FROM alembic_version WHERE version_num IN ('0001', '0002', '0003')
            RETURNING version_num
        )
        INSERT INTO {VERSION_TABLE} SELECT version_num FROM moved;
        IF NOT EXISTS (SELECT FROM alembic_version) THEN
            DROP TABLE alembic_version;
        END IF;
    END IF;
END
$$
"""  # noqa: S608 - of constants
"""Before 0003 the revision was in Alembic's table, which another application may use, too."""


class UpgradeError(Exception):
    """The database rejects a migration; the message is the database's."""


def alembic_config() -> Config:
    """Return Alembic's configuration, with the folder of the migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


async def upgrade(connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
    """Apply the migrations that a database lacks, in one transaction.

    Args:
        connect: opens a connection to the database.

    Raises:
        UpgradeError: the database rejects a migration.
    """
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)
    except DBAPIError as error:
        raise UpgradeError(str(error.orig)) from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    connection.execute(text(_MOVE_REVISION))
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
