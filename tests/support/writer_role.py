"""A role that may write the sample table, and one flush as it."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.conftest import with_user
from tests.support.sample_table import AT, THINGS
from tracker import FlushError, Tracker


@asynccontextmanager
async def writer_role(dsn: str, things: asyncpg.Connection) -> AsyncIterator[tuple[str, str]]:
    """Add 190 rows, and create a login role that may write all 200; give its name and its DSN."""
    name = f"writer_{uuid.uuid4().hex[:8]}"
    await things.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD 'x'; GRANT SELECT, UPDATE ON things TO {name};"
        "INSERT INTO things SELECT generate_series(11, 200)"
    )
    yield name, with_user(dsn, name, "x")
    await things.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def flushed(dsn: str, keys, **options) -> tuple[Tracker, FlushError | None]:
    """Touch keys, flush once, and stop without a second try."""
    tracker = Tracker(
        [THINGS], dsn=dsn, flush_interval_s=1000, shutdown_deadline_s=0.001, **options
    )
    error = None
    async with tracker.running():
        for key in keys:
            tracker.touch("things", key, AT)
        try:
            await tracker.flush()
        except FlushError as failed:
            error = failed
        tracker.pending_at_flush = len(tracker.buffers["things"])
    return tracker, error
