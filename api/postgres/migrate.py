"""Schema migrations: brings a database up to date with Alembic, once however many processes try."""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from api.config import SettingsError
from tracker.postgres import reason

HEAD: Final = "0003"
"""The newest revision in migrations/versions; a test keeps it so."""

_LOCK: Final = 0x6163_7469_7669_7479
"""Advisory lock: "activity" in ASCII."""


_LOCK_TIMEOUT_S: Final = 60
"""How long to wait for another process that is migrating, or for users of the tables."""


class MigrationError(Exception):
    """The database cannot be reached or refuses a migration; the message is one line."""


def alembic_config() -> Config:
    """Return Alembic's configuration: where the migrations are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


async def migrate(dsn: str, *, connect_timeout_s: float) -> None:
    """Bring a database up to date.

    Args:
        dsn: where the database is.
        connect_timeout_s: how long to wait for the server, in seconds.

    Raises:
        MigrationError: the database cannot be reached or refuses a migration.
        SettingsError: the DSN makes no sense.
    """

    async def connect() -> Any:
        # asyncpg reads the DSN, so that it means the same here as everywhere else.
        try:
            return await asyncpg.connect(dsn, timeout=connect_timeout_s, statement_cache_size=0)
        except TimeoutError as error:
            raise MigrationError(
                f"the database does not answer within {connect_timeout_s:g} s: is database.url "
                "right (ACTIVITY__DATABASE__URL)?"
            ) from error
        except (asyncpg.ClientConfigurationError, ValueError) as error:
            raise SettingsError(f"database.url cannot be used: {error}") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise MigrationError(
                f"cannot connect to the database: {reason(error)}; is it running, and is "
                "database.url right (ACTIVITY__DATABASE__URL)?"
            ) from error

    def upgrade(connection: Connection) -> None:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    except DBAPIError as error:
        raise MigrationError(f"the database refuses a migration: {error.orig}") from error
    finally:
        await engine.dispose()


def migrate_now(dsn: str, *, connect_timeout_s: float) -> None:
    """Do the same as `migrate` where no event loop runs."""
    asyncio.run(migrate(dsn, connect_timeout_s=connect_timeout_s))
