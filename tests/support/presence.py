"""Presence and events as a test sees them."""

import asyncio
import uuid

PATIENCE_S = 30
LISTENED = """
UPDATE presence_clock SET listened_until = now();
DELETE FROM listening_gaps
"""
"""As if some process had listened all the time."""


async def device(service, device_id: str) -> dict:
    async with await service.call("GET", f"/api/v1/devices/{device_id}") as answer:
        assert answer.status == 200
        return await answer.json()


async def events(service, key: str | None = None, **query: str) -> list[dict]:
    async with await service.call("GET", "/api/v1/events", params=query, key=key) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["events"]


async def until_event(service, device_id: str, type_: str) -> dict:
    """Wait for an event of a device, and return it."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await events(service, device_id=device_id, type=type_)):
            await asyncio.sleep(0.05)
    return found[-1]


async def seen_ago(db, device_id: str, seconds: int, offline_after_s: int = 60) -> None:
    """Let a device have been silent, and have a time of its own until it is offline."""
    await db.execute(
        "UPDATE devices SET last_seen_at = date_trunc('second', now()) "
        "- make_interval(secs => $2), offline_after_s = $3 WHERE device_id = $1",
        *(uuid.UUID(device_id), seconds, offline_after_s),
    )


async def forget_touches(service) -> None:
    """Write what is pending, so that only the table says when devices were seen."""
    await service.tracker.flush()
