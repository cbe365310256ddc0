"""Empties the cache of keys soon after a key was revoked, by whatever process or hand.

A trigger counts changes of `api_keys` in `key_revision`, in the same transaction, and this polls
that one row. Polling works through a pooler in transaction mode, where LISTEN does not, and has no
connection whose silent end would go unnoticed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog

from api.database import Database
from api.lookup import CachedLookup
from tracker import StoreError

_MOST_PATIENCE_S: Final = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@asynccontextmanager
async def watching_revocations(
    database: Database, keys: CachedLookup[bytes, Any], *, every_s: float
) -> AsyncIterator[None]:
    """Empty a cache of keys whenever keys have changed, while the block runs.

    Args:
        database: where keys are stored.
        keys: the cache.
        every_s: time between looks, in seconds.
    """
    task = asyncio.create_task(_watch(database, keys, every_s), name="revocations")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(database: Database, keys: CachedLookup[bytes, Any], every_s: float) -> None:
    seen: object = None
    # A connection that says nothing is given up fast; a slow network gets its time after a while.
    patience_s = 2 * every_s
    while True:
        try:
            rows = await database.fetch("SELECT revision FROM key_revision", deadline_s=patience_s)
        except StoreError:
            # Look-ups say that the database is away; while it is, nobody can revoke a key.
            patience_s = min(2 * patience_s, _MOST_PATIENCE_S)
        except Exception:
            log.exception("revocations.crashed")
        else:
            patience_s = 2 * every_s
            revision = [tuple(row) for row in rows]
            if revision != seen:
                seen = revision
                keys.clear()
        await asyncio.sleep(every_s)
