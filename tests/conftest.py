"""A real Postgres for the tests: embedded, or the one that TEST_DATABASE_URL names.

Each test that needs a database gets a fresh one, copied from a migrated template.
"""

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from api.config import PREFIX
from api.postgres.embedded import embedded_server
from api.postgres.migrate import migrate_now
from tests.support.leaks import Leaks
from tests.support.service import Service, running


def pytest_configure(config: pytest.Config) -> None:
    """Let no key get out unnoticed."""
    config.pluginmanager.register(Leaks())


def with_database(dsn: str, name: str) -> str:
    """Return a DSN for another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def with_user(dsn: str, user: str, password: str) -> str:
    """Return a DSN for another user of the same database."""
    parts = urlsplit(dsn)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{server}"))


def execute(dsn: str, *statements: str) -> None:
    """Run statements where no event loop runs, each in a transaction of its own."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> None:
    """Settings are what a test says, not what whoever runs it has set."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def journal_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test takes over no other's journal, and leaves none in the checkout."""
    folder = tmp_path / "journal"
    monkeypatch.setenv(f"{PREFIX}JOURNAL__DIR", str(folder))
    return folder


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """Where a test's own server may live; other runs of pytest shut its user out of `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="activity-test-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A server to make databases on; tests may load it, but not break it."""
    if named := os.environ.get("TEST_DATABASE_URL"):
        yield named
        return
    with (
        tempfile.TemporaryDirectory(prefix="activity-test-") as folder,
        embedded_server(Path(folder) / "postgres") as dsn,
    ):
        # A crash of this machine may cost this server its data, which is made for one run.
        execute(dsn, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield dsn


@pytest.fixture(scope="session")
def template_dsn(server_dsn: str) -> Iterator[str]:
    """A database with the service's schema, to be copied."""
    name = f"activity_template_{uuid.uuid4().hex[:12]}"
    execute(server_dsn, f"CREATE DATABASE {name}")
    dsn = with_database(server_dsn, name)
    migrate_now(dsn, connect_timeout_s=30)
    yield dsn
    execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def dsn(server_dsn: str, template_dsn: str) -> AsyncIterator[str]:
    """A database of the test's own, with the service's schema."""
    name = f"activity_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(server_dsn)
    try:
        template = urlsplit(template_dsn).path.lstrip("/")
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield with_database(server_dsn, name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def service(dsn: str) -> AsyncIterator[Service]:
    """The service on a database of its own, with default settings, flushing only when told to."""
    async with running(dsn) as service:
        yield service


@pytest.fixture
async def things(db: asyncpg.Connection) -> asyncpg.Connection:
    """A table with the keys 1 to 10, never seen."""
    await db.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, label text, seen_at timestamptz);"
        "INSERT INTO things SELECT n, 'thing' FROM generate_series(1, 10) n"
    )
    return db
