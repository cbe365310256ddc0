"""Presence: the states and events that are stored as devices come online and go offline."""

import asyncio
import uuid

import pytest

from api.presence.wheel import Wheel
from tests.support.presence import (
    LISTENED,
    PATIENCE_S,
    device,
    events,
    forget_touches,
    seen_ago,
    until_event,
)
from tests.support.service import running


@pytest.fixture
async def service(dsn, db):
    """A service on a database whose processes have listened for long."""
    await db.execute(LISTENED)
    async with running(dsn) as service:
        yield service


async def test_a_device_is_online_idle_offline_and_online_again(service, db):
    """Each change of what is stored is one event, numbered without gaps."""
    device_id = await service.register()
    await forget_touches(service)
    shown = await device(service, device_id)
    assert (shown["presence"], shown["presence_since"]) == ("online", shown["last_seen_at"])

    await seen_ago(db, device_id, 200, offline_after_s=900)
    shown = await device(service, device_id)
    assert shown["presence"] == "idle"

    await seen_ago(db, device_id, 200)
    told = await until_event(service, device_id, "device.offline")
    shown = await device(service, device_id)
    assert shown["presence"] == "offline"
    assert told["last_seen_at"] == shown["last_seen_at"]
    assert told["at"] == shown["presence_since"]
    assert told["last_location"] is None

    assert (await service.heartbeat(device_id)).status == 204
    assert (await device(service, device_id))["presence"] == "online"  # before it is written
    await service.tracker.flush()
    back = await until_event(service, device_id, "device.online")
    assert back["offline_for_s"] == pytest.approx(140, abs=20)
    story = await events(service, device_id=device_id)
    assert [(one["seq"], one["type"]) for one in story] == [
        (1, "device.registered"),
        (2, "device.offline"),
        (3, "device.online"),
    ]


async def test_events_have_the_last_location_of_the_device(service, db):
    """With its newest position."""
    device_id = await service.register()
    assert (await service.upload(device_id)).status == 200
    await forget_touches(service)
    await seen_ago(db, device_id, 100)
    told = await until_event(service, device_id, "device.offline")
    shown = await device(service, device_id)
    assert told["last_location"]["latitude"] == shown["last_location"]["latitude"]
    assert told["last_location"]["timestamp"] == shown["last_location"]["timestamp"]


async def test_downtime_makes_no_device_offline(dsn, db):
    """An hour without a running process counts for no device; it is stored and counted."""
    await db.execute("UPDATE presence_clock SET listened_until = now()")
    async with running(dsn) as service:
        for name in ("silent", "unlucky"):
            await service.register(name=name)
        await forget_touches(service)
    rows = await db.fetch("SELECT device_id::text FROM devices ORDER BY display_name")
    silent, unlucky = (row[0] for row in rows)
    await seen_ago(db, silent, 7200, offline_after_s=3000)
    await seen_ago(db, unlucky, 7200, offline_after_s=3700)
    await db.execute(
        "UPDATE presence_clock SET listened_until = now() - interval '1 h';"
        "DELETE FROM listening_gaps"
    )
    async with running(dsn) as service:
        await until_event(service, silent, "device.offline")
        # Of two hours, one counts: less than the time that it has.
        assert (await device(service, unlucky))["presence"] == "idle"
        assert await db.fetchval(
            "SELECT is_online FROM devices WHERE device_id = $1", uuid.UUID(unlucky)
        )
        gap = await db.fetchval("SELECT ended_at - began_at FROM listening_gaps")
        assert gap.total_seconds() == pytest.approx(3600, abs=60)
        metrics = await service.metrics()
        assert metrics.total("presence_listening_gaps_total") == 1
        assert metrics.total("presence_listening_gap_seconds_total") == pytest.approx(3600, abs=60)


async def test_a_first_start_on_an_old_database_stores_no_event(dsn, db):
    """Existing rows get their state without an event, also a device that is seen now."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) SELECT "
        "gen_random_uuid(), 'old ' || n, 'family', 'android' FROM generate_series(1, 3) AS n"
    )
    await db.execute(
        "UPDATE devices SET last_seen_at = now() - interval '1 day', is_online = NULL "
        "WHERE display_name <> 'old 3'"
    )
    async with running(dsn) as service:
        listed = {one["display_name"]: one for one in await service.listing()}
        states = {name: one["presence"] for name, one in listed.items()}
        assert states == {"old 1": "offline", "old 2": "offline", "old 3": "never"}
        assert (await service.heartbeat(listed["old 1"]["device_id"])).status == 204
        await service.tracker.flush()
        assert (await device(service, listed["old 1"]["device_id"]))["presence"] == "online"
        assert await events(service) == []
        # One that had never been seen is told of.
        assert (await service.heartbeat(listed["old 3"]["device_id"])).status == 204
        await service.tracker.flush()
        await until_event(service, listed["old 3"]["device_id"], "device.online")


async def test_a_device_with_a_pending_touch_is_not_declared_offline(service, db):
    """The row may be old while this process knows better; another device shows that it looked."""
    lively, silent = await service.register(), await service.register()
    await forget_touches(service)
    assert (await service.heartbeat(lively)).status == 204  # and not flushed
    for device_id in (lively, silent):
        await seen_ago(db, device_id, 100)
    await until_event(service, silent, "device.offline")
    assert await events(service, device_id=lively, type="device.offline") == []
    assert (await device(service, lively))["presence"] == "online"


async def test_several_processes_store_one_event_for_each_offline_device(dsn, db):
    """All of them watch all devices; `seq` has no gap, and each device has its event."""
    await db.execute(LISTENED)
    async with running(dsn) as service, running(dsn, key=service.key) as other:
        ids = [await service.register(name=f"d{n}") for n in range(40)]
        await forget_touches(service)
        await forget_touches(other)
        for _ in range(2):
            for device_id in ids:
                await seen_ago(db, device_id, 100)
            async with asyncio.timeout(PATIENCE_S):
                while await db.fetchval("SELECT count(*) FROM devices WHERE is_online"):
                    await asyncio.sleep(0.05)
            for device_id in ids:
                assert (await other.heartbeat(device_id)).status == 204
            await other.tracker.flush()
        async with asyncio.timeout(PATIENCE_S):
            while len(await events(service, limit="1000")) < 5 * len(ids):
                await asyncio.sleep(0.05)
        story = await events(service, limit="1000")
    for device_id in ids:
        own = [(one["seq"], one["type"]) for one in story if one["device_id"] == device_id]
        changes = ["device.registered", *2 * ["device.offline", "device.online"]]
        assert own == list(enumerate(changes, start=1))
    assert [int(one["event_id"]) for one in story] == list(range(1, len(story) + 1))


async def test_a_touch_from_before_the_timeout_does_not_end_offline(service, db):
    """As one from a journal that was recovered late."""
    device_id = await service.register()
    await forget_touches(service)
    await seen_ago(db, device_id, 500)
    await until_event(service, device_id, "device.offline")
    await db.execute("UPDATE devices SET last_seen_at = last_seen_at + interval '200 s'")
    assert not await db.fetchval("SELECT is_online FROM devices")
    await db.execute("UPDATE devices SET last_seen_at = now()")
    assert await db.fetchval("SELECT is_online FROM devices")


async def test_a_group_has_its_own_timeout(service, db):
    """It holds for its devices at once, and null gives the default back."""
    device_id = await service.register()
    await forget_touches(service)
    await db.execute("UPDATE devices SET last_seen_at = now() - interval '100 s'")
    path = "/api/v1/groups/family"
    async with await service.call("PUT", path, json={"offline_after_s": 60}) as answer:
        assert answer.status == 200
        assert await answer.json() == {"group_id": "family", "offline_after_s": 60}
    await until_event(service, device_id, "device.offline")
    async with await service.call("PUT", path, json={"offline_after_s": None}) as answer:
        assert (await answer.json())["offline_after_s"] is None
    async with await service.call("PUT", path, json={"offline_after_s": 60.0}) as answer:
        assert (await answer.json())["offline_after_s"] == 60
    for wrong in (29, 604_801, "60", 60.5):
        async with await service.call("PUT", path, json={"offline_after_s": wrong}) as answer:
            assert answer.status == 400
    other = await service.make_key("work")
    async with await service.call("PUT", path, json={"offline_after_s": 60}, key=other) as answer:
        assert answer.status == 403
    async with await service.call("PUT", "/api/v1/groups/a%20b", json={"offline_after_s": 60}) as a:
        assert a.status in (400, 404)


async def test_a_device_that_is_deactivated_or_moved_gets_no_offline_event(service, db):
    """Its event is that of the deactivation or the move; it keeps its state when it moves."""
    gone, moved = await service.register(), await service.register()
    await forget_touches(service)
    assert (await service.call("DELETE", f"/api/v1/devices/{gone}")).status == 204
    body = {"device_id": moved, "display_name": "Phone", "group_id": "work"}
    assert (await service.call("POST", "/api/v1/devices/register", json=body)).status == 200
    await until_event(service, gone, "device.deactivated")
    told = await until_event(service, moved, "device.moved")
    assert (told["group_id"], told["from_group_id"]) == ("work", "family")
    assert (await device(service, moved))["presence"] == "online"
    await forget_touches(service)
    await seen_ago(db, gone, 1000)
    await seen_ago(db, moved, 1000)
    await until_event(service, moved, "device.offline")
    assert await events(service, device_id=gone, type="device.offline") == []
    body = {"device_id": gone, "display_name": "Phone", "group_id": "family"}
    assert (await service.call("POST", "/api/v1/devices/register", json=body)).status == 200
    async with asyncio.timeout(PATIENCE_S):
        while len(await events(service, device_id=gone)) < 3:
            await asyncio.sleep(0.05)
    assert [one["seq"] for one in await events(service, device_id=gone)] == [1, 2, 3]


def test_a_wheel_returns_what_is_due_once():
    """In any order of adding; a device that has two timers is due once."""
    wheel = Wheel()
    ids = [uuid.uuid4().bytes for _ in range(100)]
    for number, device_id in enumerate(ids):
        wheel.add(1000 + number % 10, device_id)
    wheel.add(1000, ids[0])
    assert len(wheel) == 101
    assert wheel.take_due(999) == set()
    assert wheel.take_due(1004) == {one for n, one in enumerate(ids) if n % 10 <= 4}
    wheel.add(900, ids[0])
    assert wheel.take_due(2000) == {ids[0], *(one for n, one in enumerate(ids) if n % 10 > 4)}
    assert len(wheel) == 0
