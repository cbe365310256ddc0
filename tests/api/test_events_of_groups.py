"""Events of one group: the newest, those of devices that left it, and those in its live stream."""

import asyncio
import uuid

import pytest

from api.live import group
from tests.api.test_events import PATIENCE_S, messages, page
from tests.support.sse import live


@pytest.fixture(autouse=True)
def fast_ticks(monkeypatch):
    """Ticks come ten times a second."""
    monkeypatch.setattr(group, "TICK_S", 0.1)


async def move(service, device_id: str, group_id: str) -> None:
    body = {"device_id": device_id, "display_name": "Phone", "group_id": group_id}
    assert (await service.call("POST", "/api/v1/devices/register", json=body)).status == 200


async def until_position(service, position: int) -> None:
    """Wait until so many events have their position."""
    async with asyncio.timeout(PATIENCE_S):
        while int((await page(service))[1]) < position:
            await asyncio.sleep(0.02)


async def test_both_groups_read_the_event_of_a_device_that_moves(service):
    """The group that it left, too, once, in pages and in the stream; no third one."""
    device_id = await service.register("old-group")
    await service.register("third-group")
    old, new, third = [await service.make_key(f"{one}-group") for one in ("old", "new", "third")]
    await until_position(service, 2)
    waiting = asyncio.create_task(page(service, old, after="2", wait_s=30))
    async with asyncio.timeout(PATIENCE_S):
        while (await service.metrics()).total("http_requests_in_flight") < 2:  # beside the scrape
            await asyncio.sleep(0.01)
    await move(service, device_id, "new-group")
    async with asyncio.timeout(PATIENCE_S / 2):  # well before it would end by itself
        ((moved,), cursor) = await waiting
    assert (moved["type"], moved["device_id"], moved["seq"]) == ("device.moved", device_id, 2)
    assert (moved["group_id"], moved["from_group_id"]) == ("new-group", "old-group")
    await move(service, device_id, "new-group")  # it is there already
    await service.register("old-group", name="another")
    await until_position(service, 4)
    assert [one["type"] for one in (await page(service, old, after=cursor))[0]] == [
        "device.registered"
    ]
    for key, query in (
        (old, {}),
        (old, {"device_id": device_id}),
        (None, {"group_id": "old-group", "type": "device.moved"}),
        (new, {}),
        (new, {"type": "device.moved"}),
    ):
        found = [one for one in (await page(service, key, **query))[0] if one == moved]
        assert found == [moved]
    assert moved not in (await page(service, third))[0]
    headers = {"X-API-Key": old}
    async with service.client.get("/api/v1/events/stream?after=2", headers=headers) as response:
        ((_, name, data),) = await messages(response, 1)
    assert (name, data) == ("device.moved", moved)


async def test_the_newest_events_are_a_page(service):
    """Oldest first as always, and the cursor continues after them."""
    ids = [await service.register("g1", name=f"d{n}") for n in range(3)]
    other = await service.register("g2")
    await move(service, ids[0], "g2")
    await until_position(service, 5)
    for query, expected in (
        ({"limit": 2}, [4, 5]),
        ({"limit": 2, "group_id": "g1"}, [3, 5]),
        ({"limit": 9, "group_id": "g1"}, [1, 2, 3, 5]),
        ({"limit": 1, "group_id": "g1", "type": "device.registered"}, [3]),
        ({"limit": 2, "device_id": other}, [4]),
        ({"limit": 9, "after": "4"}, [5]),
    ):
        found, cursor = await page(service, take="newest", **query)
        assert [int(one["event_id"]) for one in found] == expected
        assert cursor == "5"
    async with await service.call("GET", "/api/v1/events?take=some") as response:
        assert response.status == 400


async def test_new_events_are_in_the_live_stream_of_their_groups(service):
    """As the page of events has them; of no other group, and not those from before."""
    device_id = await service.register("old-group")
    await until_position(service, 1)
    streams = [live(service.client, service.key, name) for name in ("old-group", "new-group")]
    async with streams[0] as old, streams[1] as new:
        await service.register("third-group")
        await move(service, device_id, "new-group")
        for seen in (old, new):
            await seen.until(lambda seen: seen.events)
            assert seen.events == (await page(service, type="device.moved"))[0]
            assert seen.counts == {"device.moved": 1}


async def test_many_events_at_once_are_counted_and_the_newest_sent(service, db):
    """A group that vanishes within a second does not make a tick of a megabyte."""
    async with live(service.client, service.key) as seen:
        await db.execute(
            "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
            "SELECT gen_random_uuid(), 'Phone', 'family', 'android', now() "
            "FROM generate_series(1, 300)"
        )
        await seen.until(lambda _: seen.counts.get("device.registered") == 300)
        assert 50 <= len(seen.events) < 300
        assert seen.events[-1]["event_id"] == "300"
        uuid.UUID(seen.events[-1]["device_id"])
