"""`webhooks create --after`: only devices that stay offline are sent, across restarts, too."""

from tests.support.webhooks import delivering, emit, make, receiving, until, until_column

TIME_PASSES = """
UPDATE webhooks SET after_s = 60; UPDATE webhook_devices SET look_at = now() WHERE state ? 'held'
"""
"""As if the time were over that was waited for."""


async def test_a_device_that_stays_offline_is_sent_once_by_another_process(dsn, db):
    """What was held back by a process that has ended is sent in its time, with its end."""
    async with receiving() as receiver:
        await make(dsn, receiver.url, after_s=3600)
        await emit(db, 3, devices=3, ago_s=70)
        await emit(db, 1, kind="device.registered")
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 1)  # it waits for no other device
            await until_column(db, "batch_id IS NULL")
        assert await db.fetchval("SELECT count(*) FROM webhook_devices") == 3
        await db.execute("UPDATE event_position SET last = last + 2")
        await emit(db, 1, kind="device.online", devices=3)  # the device of the first event
        async with delivering(dsn) as deliverer:
            await until(lambda: deliverer.events["dropped"] == 2)
        await db.execute(TIME_PASSES)
        async with delivering(dsn), delivering(dsn), delivering(dsn):
            await until(lambda: len(receiver.delivered) == 3)
            await emit(db, 1, kind="device.online", devices=3)  # of the second event
            await until(lambda: len(receiver.delivered) == 4)
            await until_column(db, "batch_id IS NULL")
    ids = [one["event_id"] for one in receiver.delivered]
    assert (ids[0], sorted(ids[1:3]), ids[3]) == ("4", ["2", "3"], "8")
    assert [one["type"] for one in receiver.delivered[1:]] == [
        *2 * ["device.offline"],
        "device.online",
    ]


async def test_a_device_that_has_returned_is_not_sent_although_the_event_has_no_position(dsn, db):
    """The row of the device shows that there is another event: that one is waited for."""
    async with receiving() as receiver:
        await make(dsn, receiver.url, after_s=3600)
        await emit(db, 1, devices=1, ago_s=70)
        await db.execute(
            "INSERT INTO devices (device_id, display_name, group_id, platform, event_seq) "
            "VALUES (lpad('0', 32, '0')::uuid, 'Van', 'vans', 'android', 3)"
        )
        async with delivering(dsn):
            await until_column(db, "filtered_to = 1")
            await db.execute(TIME_PASSES)
            # It was filtered, and is filtered again a second later.
            await until_column(
                db, "(SELECT look_at > now() + interval '0.1 s' FROM webhook_devices)"
            )
            assert receiver.delivered == []
            await db.execute("UPDATE devices SET event_seq = 2")
            await until(lambda: len(receiver.delivered) == 1)


async def test_events_that_were_removed_leave_no_state(dsn, db):
    """The state of a device meanwhile is not known, so its silence is not sent."""
    async with receiving() as receiver:
        await make(dsn, receiver.url, after_s=3600)
        await emit(db, 2)
        async with delivering(dsn):
            await until_column(db, "filtered_to = 2")
        await emit(db, 1, kind="device.online")
        await db.execute("DELETE FROM device_events; UPDATE event_position SET removed = 3")
        async with delivering(dsn) as deliverer:
            await until(lambda: deliverer.events["expired"] == 1)
    assert await db.fetchval("SELECT count(*) FROM webhook_devices") == 0
