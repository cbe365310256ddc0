"""A fleet that vanishes and returns is a few requests to a receiver, and nothing is lost."""

from collections import Counter

from api.webhooks import sizes
from api.webhooks.sizes import GroupSizes
from tests.support.webhooks import (
    a_database,
    delivering,
    emit,
    make,
    receiving,
    until,
    until_column,
)

DEVICES = """
INSERT INTO devices (device_id, display_name, group_id, platform)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'van ' || n, 'vans', 'android'
FROM generate_series(0, $1::integer - 1) AS n
"""
A_MINUTE_LATER = """
UPDATE webhook_groups SET look_at = now(), state = state || '{"recent": []}'
WHERE state ? 'outage'
"""
ONE_BY_ONE = 500 // 20


async def test_a_group_of_500_devices_that_vanishes_and_returns(dsn, db):
    """Even if a process that has ended filtered half of it; the other group is not held up."""
    async with receiving() as receiver:
        await make(dsn, receiver.url)
        await db.execute(DEVICES, 500)
        await emit(db, 200, devices=500)
        async with delivering(dsn):
            await until_column(db, "filtered_to = 200 AND batch_id IS NULL")
        await emit(db, 300, devices=500)
        await emit(db, 1, group="bikes")
        async with delivering(dsn) as deliverer:
            await until_column(db, "filtered_to = 501 AND batch_id IS NULL")
            await db.execute("UPDATE event_position SET last = last + 499")
            await emit(db, 500, devices=500, kind="device.online")
            await until_column(db, "filtered_to = 1500 AND batch_id IS NULL")
            await db.execute(A_MINUTE_LATER)
            await until(lambda: receiver.delivered[-1]["type"] == "group.online")
            await until_column(db, "batch_id IS NULL")
            dropped = deliverer.events["dropped"]
    kinds = Counter(event["type"] for event in receiver.delivered)
    assert kinds == {
        "device.offline": ONE_BY_ONE + 1,
        "group.offline": 1,
        "device.online": ONE_BY_ONE,
        "group.online": 1,
    }
    (outage,) = (event for event in receiver.delivered if event["type"] == "group.offline")
    assert (outage["group_id"], outage["devices"]) == ("vans", 500)
    assert 250 < outage["offline"] <= 500  # there were more when it was sent
    assert receiver.delivered[-1]["offline"] == 0
    assert dropped == 1000 - 2 * ONE_BY_ONE
    assert len(receiver.requests) <= 6


async def test_events_of_which_few_are_sent_are_a_few_requests(dsn, db):
    """Pages grow until the events to send fill a batch; as many are filtered at once as needed."""
    async with receiving() as receiver:
        await make(dsn, receiver.url, None, ["device.offline"])
        await emit(db, 4000)
        await db.execute("UPDATE device_events SET type = 'device.online' WHERE position % 10 <> 0")
        async with delivering(dsn):
            await until_column(db, "filtered_to = 4000 AND batch_id IS NULL")
    sent = [int(event["event_id"]) for event in receiver.delivered]
    assert sent == list(range(10, 4001, 10))
    assert len(receiver.requests) <= 8


async def test_the_devices_of_a_group_are_counted_again_after_some_seconds(dsn, db, monkeypatch):
    """And not for each page of its events; a group without devices has no size."""
    await db.execute(DEVICES, 3)
    async with a_database(dsn) as database:
        counted = GroupSizes(database)
        assert await counted.of(["vans", "bikes"]) == {"vans": 3}
        await db.execute("UPDATE devices SET is_active = display_name <> 'van 0'")
        await db.execute("UPDATE devices SET group_id = 'bikes' WHERE display_name = 'van 1'")
        assert await counted.of(["vans", "bikes"]) == {"vans": 3}
        monkeypatch.setattr(sizes, "_KEPT_S", 0.0)
        assert await counted.of(["vans", "bikes"]) == {"vans": 1, "bikes": 1}
