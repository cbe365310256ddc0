"""A cached lookup on a table in memory, whose answers a test can delay."""

import asyncio
from collections.abc import Iterable

from api.access.lookup import CachedLookup
from api.config import AuthSettings
from tests.support.stores import Clock
from tracker import StoreUnavailable

SETTINGS = AuthSettings(
    refresh_s=30,
    stale_limit_s=900,
    negative_ttl_s=2,
    cache_size=100,
    negative_cache_size=5,
    max_waiting=50,
)


class Table:
    """What is looked up: rows, how often it was asked, and whether it answers."""

    def __init__(self) -> None:
        self.rows = {key: f"row {key}" for key in range(1000)}
        self.queries: list[list[int]] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, keys: Iterable[int]) -> dict[int, str]:
        self.queries.append(list(keys))
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("away")
        return {key: self.rows[key] for key in keys if key in self.rows}


class Rig:
    """A cache in front of a table, and the time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.table = Table()
        self.cache: CachedLookup[int, str] = CachedLookup(
            "rows", self.table.load, SETTINGS, monotonic=self.clock
        )


def counts(rig) -> tuple[int, int]:
    """Return how many lookups were hits, and how many misses."""
    return rig.cache.hits, rig.cache.misses


async def turn(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)
