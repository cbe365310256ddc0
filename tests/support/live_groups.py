"""Devices that live streams show, and a wait for the end of all streams."""

import asyncio

from tests.support.sse import PATIENCE_S

LONG_AGO = 1000


async def stored(db, *names: str, group_id: str = "family") -> list[str]:
    """Store devices that were seen long ago, and return their ids."""
    return [
        await db.fetchval(
            "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
            "VALUES (gen_random_uuid(), $1, $2, 'android', to_timestamp($3)) "
            "RETURNING device_id::text",
            *(name, group_id, LONG_AGO),
        )
        for name in names
    ]


async def no_streams_left(service) -> None:
    """Wait until it has been noticed that all have left."""
    async with asyncio.timeout(PATIENCE_S):
        while (await service.metrics()).total("live_streams"):
            await asyncio.sleep(0.05)
