"""A service sends what happens to its devices to webhooks, from the touch to the request."""

from tests.support.presence import LISTENED, forget_touches, seen_ago
from tests.support.service import running
from tests.support.webhooks import make, receiving, until

ALLOW = {"allow_private": True, "allow_http": True}


async def test_a_device_that_goes_offline_and_returns_is_sent(dsn, db):
    """With the same fields as in the response of the API, in order, each once."""
    await db.execute(LISTENED)
    async with receiving() as receiver, running(dsn, webhooks=ALLOW) as service:
        await make(dsn, receiver.url)
        device_id = await service.register()
        await forget_touches(service)
        await until(lambda: len(receiver.delivered) == 1)
        await seen_ago(db, device_id, 100)
        await until(lambda: len(receiver.delivered) == 2)
        assert (await service.heartbeat(device_id)).status == 204
        await service.tracker.flush()
        await until(lambda: len(receiver.delivered) == 3)
        async with await service.call("GET", "/api/v1/events") as answer:
            assert receiver.delivered == (await answer.json())["events"]
        metrics = await service.metrics()
        assert metrics.total("webhooks_events_total", outcome="delivered") == 3
    assert [one["type"] for one in receiver.delivered] == [
        "device.registered",
        "device.offline",
        "device.online",
    ]
