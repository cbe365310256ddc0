"""Uploads of a test: how many wait, and how they ended."""

import asyncio

import asyncpg

from tests.support.service import Service


async def stored_devices(db) -> list[str]:
    rows = await db.fetch("SELECT device_id::text FROM locations ORDER BY received_at, 1")
    return [row[0] for row in rows]


async def batches(service: Service) -> int:
    return int((await service.metrics()).total("ingest_batch_rows_count"))


async def outcomes(service: Service) -> dict[str, int]:
    metrics = await service.metrics()
    return {
        outcome: int(metrics.total("ingest_uploads_total", outcome=outcome))
        for outcome in ("stored", "rejected", "unavailable", "shed")
    }


async def until_waiting(service: Service, rows: int) -> None:
    """Return when so many reports wait for a write."""
    async with asyncio.timeout(30):
        while (await service.metrics()).total("ingest_waiting_rows") < rows:
            await asyncio.sleep(0.01)


async def write_is_blocked(db: asyncpg.Connection) -> None:
    """Return when a write of reports waits for the table: what comes later is another batch."""
    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'locations'::regclass"
    async with asyncio.timeout(30):
        while not await db.fetchval(blocked):
            await asyncio.sleep(0.01)


async def under_way(service: Service, count: int) -> None:
    """Return when so many requests are being answered, the one that asks not counted."""
    async with asyncio.timeout(30):
        while (await service.metrics()).total("http_requests_in_flight") < count + 1:
            await asyncio.sleep(0.01)


async def statuses(uploads) -> list[int]:
    return [response.status for response in await asyncio.gather(*uploads)]
