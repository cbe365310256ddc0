"""Migrations: what decides whether one is due. `test_cli.py` and `test_keys.py` run them."""

import secrets
import subprocess
import sys

import pytest
from alembic.script import ScriptDirectory

from api.postgres.migrate import HEAD, MigrationError, migrate
from api.postgres.upgrade import alembic_config
from tests.conftest import with_user

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
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


async def test_alembic_is_imported_only_for_a_migration(dsn, db):
    """Its import takes a second, and nearly every command finds the schema up to date."""
    assert not imports_alembic(dsn)
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert imports_alembic(dsn)
    assert await db.fetchval("SELECT version_num FROM alembic_version") == HEAD
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
