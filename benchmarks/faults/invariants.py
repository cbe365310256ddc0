"""Polls the tracked columns, and reports each time that moves backwards or is in the future."""

import asyncio
from contextlib import suppress
from typing import Final

import asyncpg

KEYS: Final = "all API keys"
"""The name under which the latest use of any API key is kept, beside the devices."""
_EVERY_S: Final = 0.1
_PATIENCE_S: Final = 1.0
TRACKED_TIMES: Final = f"""
SELECT key, extract(epoch FROM at)::bigint, at > clock_timestamp() FROM (
    SELECT device_id::text, last_seen_at::timestamptz FROM devices
    UNION ALL SELECT '{KEYS}', max(last_used_at::timestamptz) FROM api_keys
) AS seen (key, at)
WHERE at IS NOT NULL
"""
"""The time of each device and of the latest use of any API key, and whether it is in the future."""

UNREACHABLE: Final = (
    *(OSError, TimeoutError, asyncpg.PostgresError),
    *(asyncpg.InterfaceError, asyncpg.InternalClientError),
)
"""Errors while the server is unreachable or slow, or the table is locked or altered."""


class InvariantChecker:
    """Polls on a connection of its own, which does not go through the proxy.

    Args:
        dsn: the database, as a role that may read all of it.

    Attributes:
        table: the latest second of each device at the last poll.
        problems: the invariants that were broken.
        polls: how many polls succeeded.
    """

    def __init__(self, dsn: str) -> None:
        self.table: dict[str, int] = {}
        self.problems: list[str] = []
        self.polls = 0
        self._dsn = dsn

    async def watch(self) -> None:
        """Poll until cancelled; polls that fail are retried."""
        while True:
            with suppress(*UNREACHABLE):
                await self._poll_until_it_fails()
            await asyncio.sleep(_EVERY_S)

    async def _poll_until_it_fails(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=_PATIENCE_S, statement_cache_size=0)
        try:
            while True:
                self._compare(await connection.fetch(TRACKED_TIMES, timeout=_PATIENCE_S))
                await asyncio.sleep(_EVERY_S)
        finally:
            connection.terminate()

    def _compare(self, rows: "list[asyncpg.Record]") -> None:
        self.polls += 1
        for key, at, is_future in rows:
            if at < self.table.get(key, 0):
                self.problems.append(f"{key} went back from {self.table[key]} to {at}")
            if is_future:
                self.problems.append(f"{key} is at {at}, in the future")
            self.table[key] = at
