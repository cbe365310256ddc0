"""Gives tests a real Postgres: an embedded one, or the one that TEST_DATABASE_URL names.

Each test that needs a database gets a new one, copied from a migrated template.
"""

import asyncio
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from api.config import PREFIX
from api.postgres.embedded import embedded_server
from api.postgres.migrate import migrate_now
from tests.support.leaks import Leaks
from tests.support.selection import Selection

if TYPE_CHECKING:
    from tests.support.service import Service


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a developer leave out what is slow: `make test-fast`."""
    parser.addoption("--fast", action="store_true", help="leave out tests that are slow")


def pytest_configure(config: pytest.Config) -> None:
    """Fail a run that leaks an API key, and report what a run left out."""
    config.pluginmanager.register(Leaks())
    config.pluginmanager.register(Selection(fast=config.getoption("--fast")))


def with_database(dsn: str, name: str) -> str:
    """Return a DSN for another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def with_user(dsn: str, user: str, password: str) -> str:
    """Return a DSN for another user of the same database."""
    parts = urlsplit(dsn)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{server}"))


def execute(dsn: str, *statements: str) -> None:
    """Run statements outside an event loop, each in a transaction of its own."""

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
    """A test sets its own settings; those of the shell that runs it do not count."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def journal_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a journal of its own, outside the checkout."""
    folder = tmp_path / "journal"
    monkeypatch.setenv(f"{PREFIX}JOURNAL__DIR", str(folder))
    monkeypatch.setenv(f"{PREFIX}AUTH__KNOWN_FILE", str(tmp_path / "known"))
    return folder


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """Start a server on which tests create databases; they must not stop or reconfigure it."""
    if named := os.environ.get("TEST_DATABASE_URL"):
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="activity-test-") as folder, ExitStack() as stack:
        # The connection pooler of some tests runs as the server's user, who has to reach it.
        Path(folder).chmod(0o711)
        dsn = stack.enter_context(embedded_server(Path(folder) / "postgres"))
        # Its data is made for one run: losing it when the machine crashes costs nothing.
        execute(dsn, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield dsn


@pytest.fixture(scope="session")
def template_dsn(server_dsn: str) -> Iterator[str]:
    """Create a database with the service's schema, which tests copy."""
    name = f"activity_template_{uuid.uuid4().hex[:12]}"
    execute(server_dsn, f"CREATE DATABASE {name}")
    dsn = with_database(server_dsn, name)
    migrate_now(dsn, connect_timeout_s=30)
    yield dsn
    execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def new_database(server_dsn: str, template_dsn: str) -> AsyncIterator[str]:
    """Create a database with the service's schema while the block runs."""
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
async def dsn(server_dsn: str, template_dsn: str) -> AsyncIterator[str]:
    """Create a database for the test alone, with the service's schema."""
    async with new_database(server_dsn, template_dsn) as dsn:
        yield dsn


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the test's database."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def service(dsn: str) -> AsyncIterator["Service"]:
    """Run the service on the test's database with default settings; it flushes only on request."""
    # Imported late: the library is also tested with an aiohttp that is too old for the service.
    from tests.support.service import running  # noqa: PLC0415

    async with running(dsn) as service:
        yield service


@pytest.fixture
async def things(db: asyncpg.Connection) -> asyncpg.Connection:
    """Create a table with the row keys 1 to 10, none of which has been active."""
    await db.execute(
        "CREATE TABLE things (id bigint PRIMARY KEY, label text, seen_at timestamptz)"
        " WITH (fillfactor = 50);"
        "INSERT INTO things SELECT n, 'thing' FROM generate_series(1, 10) n"
    )
    return db
