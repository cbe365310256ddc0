"""Looks at the tracked columns over and over, to see whether anything ever goes backwards."""

import asyncio
from contextlib import suppress
from typing import Final

import asyncpg

KEYS: Final = "all API keys"
"""Under what name the latest use of any key is kept, beside the devices."""
_EVERY_S: Final = 0.1
_PATIENCE_S: Final = 1.0
LOOK: Final = f"""
SELECT key, extract(epoch FROM at)::bigint, at > clock_timestamp() FROM (
    SELECT device_id::text, last_seen_at::timestamptz FROM devices
    UNION ALL SELECT '{KEYS}', max(last_used_at::timestamptz) FROM api_keys
) AS seen (key, at)
WHERE at IS NOT NULL
"""
"""Each device, and the latest use of any key: when, and whether that is in the future."""

_UNSEEN: Final = (
    *(OSError, TimeoutError, asyncpg.PostgresError),
    *(asyncpg.InterfaceError, asyncpg.InternalClientError),
)
"""The server is away, slow or cut off, the table is locked, renamed or changed."""


class InvariantChecker:
    """Looks by a connection of its own, past whatever is between the service and the server.

    Args:
        dsn: the database, as a user who may see everything.

    Attributes:
        table: the latest second of each device, when it was last looked.
        problems: what should never have been seen.
        looks: how often it could be looked.
    """

    def __init__(self, dsn: str) -> None:
        self.table: dict[str, int] = {}
        self.problems: list[str] = []
        self.looks = 0
        self._dsn = dsn

    async def watch(self) -> None:
        """Look until cancelled; where the table cannot be seen, there is nothing to say."""
        while True:
            with suppress(*_UNSEEN):
                await self._look_until_it_fails()
            await asyncio.sleep(_EVERY_S)

    async def _look_until_it_fails(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=_PATIENCE_S, statement_cache_size=0)
        try:
            while True:
                self._compare(await connection.fetch(LOOK, timeout=_PATIENCE_S))
                await asyncio.sleep(_EVERY_S)
        finally:
            connection.terminate()

    def _compare(self, rows: "list[asyncpg.Record]") -> None:
        self.looks += 1
        for key, at, is_future in rows:
            if at < self.table.get(key, 0):
                self.problems.append(f"{key} went back from {self.table[key]} to {at}")
            if is_future:
                self.problems.append(f"{key} is at {at}, in the future")
            self.table[key] = at
