"""Migrations: what decides whether one is due. `test_cli.py` and `test_keys.py` run them."""

import secrets
import subprocess
import sys

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from api.postgres.migrate import MigrationError, migrate
from api.postgres.revisions import HEAD, REVISIONS
from api.postgres.upgrade import alembic_config
from tests.conftest import with_user
from tests.support.command_line import assert_one_line, run

MIGRATE = """
import sys
from api.postgres.migrate import migrate_now
migrate_now(sys.argv[1], connect_timeout_s=30)
print("alembic" in sys.modules)
"""


def imports_alembic(dsn: str) -> bool:
    """Migrate a database in a process of its own, and return whether it needed Alembic."""
    done = subprocess.run(
        [sys.executable, "-c", MIGRATE, dsn], capture_output=True, text=True, check=True
    )
    return done.stdout == "True\n"


def test_head_is_the_newest_migration():
    """Readiness and commands compare with it. It is written down so they need no Alembic."""
    scripts = ScriptDirectory.from_config(alembic_config())
    assert scripts.get_current_head() == HEAD
    assert tuple(one.revision for one in reversed(list(scripts.walk_revisions()))) == REVISIONS


async def test_alembic_is_imported_only_for_a_migration(dsn, db):
    """Its import takes a second, and nearly every command finds the schema up to date."""
    assert not imports_alembic(dsn)
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert imports_alembic(dsn)
    assert await db.fetchval("SELECT version_num FROM activity_schema_version") == HEAD
    assert not imports_alembic(dsn)


async def test_a_role_that_may_not_read_the_revision_gets_the_database_s_reason(dsn, db):
    """The upgrade says what is missing, as if there were no shorter way."""
    role = f"no_rights_{secrets.token_hex(6)}"
    await db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        with pytest.raises(MigrationError, match="permission denied"):
            await migrate(with_user(dsn, role, "x"), connect_timeout_s=30)
    finally:
        await db.execute(f"DROP ROLE {role}")


async def at(db: asyncpg.Connection, table: str) -> list[str]:
    return [row[0] for row in await db.fetch(f"SELECT version_num FROM {table}")]


async def to_the_time_of_alembic_s_table(db: asyncpg.Connection, revision: str) -> None:
    """Take a database back to an older release, which had its revision in `alembic_version`."""
    await db.execute(
        "DROP FUNCTION note_device_change CASCADE; DROP TABLE device_changes;"
        "DROP TABLE presence_snoozes, webhook_groups, webhook_devices;"
        "DROP TABLE device_counts, webhook_deliveries, webhooks;"
        "DROP FUNCTION note_presence CASCADE; DROP FUNCTION begin_presence CASCADE;"
        "DROP TABLE event_position, device_events, event_outbox, listening_gaps, presence_clock,"
        " group_settings; ALTER TABLE devices DROP COLUMN is_online, DROP COLUMN presence_since,"
        " DROP COLUMN event_seq, DROP COLUMN offline_after_s;"
        "ALTER TABLE locations ALTER COLUMN accuracy SET NOT NULL;"
        "DROP TABLE activity_schema_version;"
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"
    )
    await db.execute("INSERT INTO alembic_version VALUES ($1)", revision)


async def test_the_revision_moves_out_of_alembic_s_own_table(dsn, db):
    """An upgrade from an older release finds where it was, and leaves nothing behind."""
    await to_the_time_of_alembic_s_table(db, "0003")
    await migrate(dsn, connect_timeout_s=30)
    assert await at(db, "activity_schema_version") == [HEAD]
    assert await db.fetchval("SELECT to_regclass('alembic_version')") is None


async def test_the_revision_of_another_application_in_the_database_is_kept(dsn, db):
    """Another application that uses Alembic keeps its table and its revision."""
    await to_the_time_of_alembic_s_table(db, "0003")
    await db.execute("INSERT INTO alembic_version VALUES ('1f2e3d4c5b6a')")
    await migrate(dsn, connect_timeout_s=30)
    assert await at(db, "alembic_version") == ["1f2e3d4c5b6a"]
    assert await at(db, "activity_schema_version") == [HEAD]
    await migrate(dsn, connect_timeout_s=30)
    assert await at(db, "alembic_version") == ["1f2e3d4c5b6a"]


async def test_the_revision_table_of_another_application_is_not_read(dsn, db):
    """Not even if its revisions have the same names."""
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await db.execute(
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);"
        "INSERT INTO alembic_version VALUES ('0002')"
    )
    await migrate(dsn, connect_timeout_s=30)
    assert await at(db, "alembic_version") == ["0002"]
    assert await at(db, "activity_schema_version") == [HEAD]


async def test_a_schema_that_is_newer_than_the_code_is_one_line(dsn, db):
    """After a rollback of the code: what is wrong and what to do, no traceback, nothing changed."""
    await db.execute("UPDATE activity_schema_version SET version_num = '9999'")
    assert_one_line(run("migrate", dsn=dsn), 1, "9999", HEAD, "newer release")
    assert_one_line(run("keys", "list", dsn=dsn), 1, "9999", HEAD)
    assert await at(db, "activity_schema_version") == ["9999"]


async def test_a_process_stays_ready_beside_a_newer_one(service, db):
    """While an upgrade is rolled out the old processes go on; behind the code nothing is ready."""
    await db.execute("UPDATE activity_schema_version SET version_num = '9999'")
    assert (await service.call("GET", "/api/health/ready")).status == 200
