"""The testbed: one Postgres server, with a database and the same fleet for each contender."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from api.access.keys import create_key
from api.config import DatabaseSettings
from api.postgres.database import open_database
from api.postgres.migrate import migrate

API_KEYS: Final = 20
"""Number of a fleet's API keys; with one, writers of `last_used_at` would queue for its row."""

_COUNT_STATEMENTS: Final = """
CREATE SEQUENCE updates_seen;
CREATE FUNCTION count_update() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM nextval('updates_seen'); RETURN NULL; END $$;
CREATE TRIGGER seen AFTER UPDATE ON devices WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION count_update();
CREATE TRIGGER seen AFTER UPDATE ON api_keys WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION count_update();
"""
"""Those of clients alone: a trigger updates a device that has come online."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A database with devices and API keys.

    Args:
        dsn: the database.
        devices: the ids of the devices, in random order.
        keys: API keys, which the devices share.
    """

    dsn: str
    devices: list[str]
    keys: list[str]

    def key_of(self, index: int) -> str:
        """Return the API key that the device at an index sends."""
        return self.keys[index % len(self.keys)]


@dataclass(frozen=True, slots=True)
class Testbed:
    """A Postgres server on which databases may be created.

    Args:
        dsn: any database of it.
    """

    __test__ = False  # pytest would take it for tests

    dsn: str

    @asynccontextmanager
    async def fleet(self, devices: int, *, count_statements: bool = False) -> AsyncIterator[Fleet]:
        """Create a database with a fleet while the block runs.

        Args:
            devices: the number of devices.
            count_statements: count UPDATE statements of the two tracked tables, in a sequence that
                `updates_seen` reads.
        """
        async with self.database() as dsn:
            await migrate(dsn, connect_timeout_s=30)
            fleet = Fleet(dsn, [str(uuid.uuid4()) for _ in range(devices)], [])
            async with open_database(dsn, DatabaseSettings(), connections=1) as database:
                for number in range(API_KEYS):
                    fleet.keys.append(await create_key(database, f"fleet {number}", None))
            async with connected(dsn) as connection:
                await connection.copy_records_to_table(
                    "devices",
                    columns=("device_id", "display_name", "group_id", "platform"),
                    records=[(one, "a phone", "fleet", "android") for one in fleet.devices],
                )
                if count_statements:
                    await connection.execute(_COUNT_STATEMENTS)
                await connection.execute("VACUUM (FREEZE, ANALYZE) devices")
                await connection.execute("VACUUM (FREEZE, ANALYZE) api_keys")
            yield fleet

    @asynccontextmanager
    async def copy(self, fleet: Fleet) -> AsyncIterator[Fleet]:
        """Copy a database for another contender."""
        template = urlsplit(fleet.dsn).path.lstrip("/")
        async with self.database(f"TEMPLATE {template}") as dsn:
            yield Fleet(dsn, fleet.devices, fleet.keys)

    @asynccontextmanager
    async def database(self, options: str = "") -> AsyncIterator[str]:
        """Create a database while the block runs.

        Args:
            options: text after the name in CREATE DATABASE.
        """
        name = f"bench_{uuid.uuid4().hex[:12]}"
        async with connected(self.dsn) as admin:
            await admin.execute(f"CREATE DATABASE {name} {options}")
        try:
            yield urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))
        finally:
            async with connected(self.dsn) as admin:  # the server may have restarted
                await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def connected(dsn: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """Connect to a database while the block runs."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def updates_seen(dsn: str) -> int:
    """Return how many UPDATE statements a fleet's tracked tables have seen."""
    async with connected(dsn) as connection:
        count: int = await connection.fetchval(
            "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM updates_seen"
        )
        return count
