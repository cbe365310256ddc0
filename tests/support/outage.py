"""Databases on a server that a test may stop."""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from api.postgres.migrate import migrate
from benchmarks.harness.server import BreakableServer, breakable_server
from tests.conftest import with_database

GENEROUS_S = 20.0
"""For all heartbeats of a test. Were each to wait for the database, they would take minutes."""
SOON = {"shutdown_deadline_s": 0.5}
"""Settings of a tracker that stops soon while the database is away."""


async def new_database(server: BreakableServer) -> str:
    """Return the DSN of a database with the service's schema."""
    name = f"activity_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(server.dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    dsn = with_database(server.dsn, name)
    await migrate(dsn, connect_timeout_s=30)
    return dsn


@contextmanager
def stoppable_server() -> Iterator[BreakableServer]:
    """Run a server that a test may stop, kill and pause."""
    with (
        tempfile.TemporaryDirectory(prefix="activity-break-") as folder,
        breakable_server(Path(folder)) as server,
    ):
        yield server
