"""The activity tracker of the Matrix Authentication Service, re-implemented from its description.

The original is written in Rust, so results are labelled as re-implemented. It has a bounded channel
that handlers await, one task that keeps the latest time of each key in a hash map of at most 10,000
keys, and a flush every 60 s with one UPDATE from a sorted `unnest` with GREATEST. It drops keys
beyond 10,000, and a batch whose flush fails.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

from tracker.postgres import Pool

MOST_KEYS: Final = 10_000
_CHANNEL: Final = 1000
_UPDATE: Final = """
UPDATE devices SET last_seen_at = GREATEST(last_seen_at, given.at)
FROM (SELECT * FROM unnest($1::uuid[], $2::timestamptz[]) AS u(key, at) ORDER BY key) AS given
WHERE device_id = given.key
"""


class MasTracker:
    """Keeps the latest time of each key until it is flushed.

    Args:
        pool: connections to the database.
    """

    def __init__(self, pool: Pool) -> None:
        self.dropped = 0
        self._pool = pool
        self._channel: asyncio.Queue[tuple[str, float]] = asyncio.Queue(_CHANNEL)
        self._pending: dict[str, float] = {}
        self._worker = asyncio.create_task(self._receive())

    async def record(self, key: str, at: float) -> None:
        """Send a touch to the task, and wait while the channel is full."""
        await self._channel.put((key, at))

    async def _receive(self) -> None:
        while True:
            key, at = await self._channel.get()
            if key in self._pending or len(self._pending) < MOST_KEYS:
                self._pending[key] = max(at, self._pending.get(key, 0.0))
            else:
                self.dropped += 1
            self._channel.task_done()

    async def received(self) -> int:
        """Wait until the channel is empty; return the number of pending keys."""
        await self._channel.join()
        return len(self._pending)

    async def flush(self) -> None:
        """Write the pending keys in one statement."""
        pending, self._pending = self._pending, {}
        keys = sorted(pending)
        times = [datetime.fromtimestamp(pending[key], UTC) for key in keys]
        await self._pool.execute(_UPDATE, keys, times)

    async def close(self) -> None:
        """End the task."""
        self._worker.cancel()
        await asyncio.wait((self._worker,))
