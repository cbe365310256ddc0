"""A store on a pool of one connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.sample_table import THINGS
from tracker import (
    Target,
)
from tracker.postgres import open_pool
from tracker.postgres._store import PostgresStore


@asynccontextmanager
async def store_for(
    dsn: str, target: Target = THINGS, *, statement_timeout_s: float = 30.0, lock_timeout_s=0.05
) -> AsyncIterator[PostgresStore]:
    async with open_pool(dsn, connections=1, deadline_s=5) as pool:
        yield PostgresStore(
            pool, target, statement_timeout_s=statement_timeout_s, lock_timeout_s=lock_timeout_s
        )
