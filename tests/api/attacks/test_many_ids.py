"""One valid API key that asks for ids and groups without end: memory is bounded, others go on."""

import asyncio
import gc
import uuid

import psutil

from tests.support.raw_client import listening
from tests.support.service import running
from tests.support.sse import live

UNKNOWN_IDS = 8000
CONNECTIONS = 100
GROUPS = 200
MAX_STREAMS = 8
MOST_GROWTH_BYTES = 40 << 20
NEGATIVE_CACHE = 2000


async def test_unknown_device_ids_without_end_cost_bounded_memory(dsn):
    """Only so many are known to be unknown; a device that is known is served all the time."""
    remembered = {"negative_cache_size": NEGATIVE_CACHE, "negative_ttl_s": 3600}
    async with listening(dsn, {"auth": remembered}) as service:
        await service.assert_serves()
        gc.collect()
        before = psutil.Process().memory_info().rss
        largest = 0

        async def ask(count: int) -> set[int]:
            async with service.client() as client:
                found = set()
                for _ in range(count):
                    await client.send(service.heartbeat(device_id=str(uuid.uuid4())))
                    found.add((await client.answer()).status)
                return found

        each = UNKNOWN_IDS // CONNECTIONS
        asking = asyncio.gather(*(ask(each) for _ in range(CONNECTIONS)))
        while not asking.done():
            await service.assert_serves()
            largest = max(largest, psutil.Process().memory_info().rss)
        assert set().union(*await asking) == {404}
        assert largest - before < MOST_GROWTH_BYTES
        access = service.app.layers[-1].__self__
        devices = access.devices._devices
        assert len(devices._negative) == NEGATIVE_CACHE
        assert len(devices._entries) <= 1  # none if the directory knew the device at once
        assert access.devices._directory.copy().keys() == {service.device_id, service.victim_id}
        assert len(service.tracker.buffers["devices"]) == 1


async def test_streams_of_many_groups_in_turn_leave_room_for_other_streams(dsn):
    """Each stream ends before the next begins; another API key's stream continues."""
    async with running(dsn, live={"max_streams": MAX_STREAMS}) as service:
        other = await service.make_key("family")
        async with live(service.client, other, "family") as seen:
            await seen.until(lambda _: seen.ticks)
            for number in range(GROUPS):
                path = f"/api/v1/live?group_id=group-{number}"
                async with service.client.get(path, headers={"X-API-Key": service.key}) as response:
                    assert response.status in (200, 503)
                    await response.content.readany()
                watched = [
                    task for task in asyncio.all_tasks() if task.get_name().startswith("live-group")
                ]
                assert len(watched) <= MAX_STREAMS
            ticks = seen.ticks
            await seen.until(lambda _: seen.ticks > ticks + 2)
            assert not seen.over
