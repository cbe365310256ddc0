"""The live stream: what a subscriber of a group receives, and what it costs."""

import time
import uuid

import pytest

from api.live import group
from tests.support.live_groups import LONG_AGO, no_streams_left, stored
from tests.support.service import REPORT, T0_MS, running
from tests.support.sse import live


@pytest.fixture(autouse=True)
def fast_ticks(request, monkeypatch):
    """Ticks come ten times a second, except in the one test of the real interval."""
    if "real_pace" not in request.fixturenames:
        monkeypatch.setattr(group, "TICK_S", 0.1)
        monkeypatch.setattr(group, "_REFRESH_EVERY_S", 0.2)


@pytest.fixture
def real_pace() -> None:
    """As shipped."""


async def test_a_heartbeat_is_in_the_next_tick(service, db, real_pace):
    """Watchers have all devices at once, and see one that is active with one of the next ticks."""
    (device_id,) = await stored(db, "Phone")
    async with live(service.client, service.key) as seen:
        assert seen.hello["devices"] == seen.hello["of"] == 1
        assert seen.named(device_id) == {
            "n": 0,
            "device_id": device_id,
            "display_name": "Phone",
            "platform": "android",
            "seen": LONG_AGO,
            "presence": "idle",
            "presence_since": LONG_AGO + 120,
            "location": None,
        }
        await service.heartbeat(device_id)
        await seen.until(lambda _: seen.named(device_id)["seen"] >= time.time() - 5)


async def test_a_touch_that_is_written_between_two_ticks_is_sent(service, db, monkeypatch):
    """However short it was pending: one flush is seen in memory, more of them in the table."""
    monkeypatch.setattr(group, "_REFRESH_EVERY_S", 3600)
    ids = await stored(db, "one", "two", "three")
    async with live(service.client, service.key) as seen:
        for flushes, device_id in enumerate(ids):
            ticks = seen.ticks
            for _ in range(flushes + 1):
                service.tracker.touch("devices", str(uuid.uuid4()))
                service.tracker.touch("devices", device_id)
                await service.tracker.flush()
            await seen.until(lambda _: seen.named(device_id)["seen"] > LONG_AGO)  # noqa: B023
            assert seen.ticks - ticks <= 4


async def test_a_pending_touch_is_sent_before_it_is_written(service, db, monkeypatch):
    """Without a look at the database: it comes by the next tick, though a flush came before it."""
    monkeypatch.setattr(group, "_REFRESH_EVERY_S", 3600)
    (device_id,) = await stored(db, "Phone")
    async with live(service.client, service.key) as seen:
        ticks = seen.ticks
        await seen.until(lambda _: seen.ticks > ticks)
        service.tracker.touch("devices", device_id)
        await service.tracker.flush()
        assert service.tracker.pending("devices").get(device_id) is None
        await seen.until(lambda _: seen.named(device_id)["seen"] > LONG_AGO)


async def test_touches_of_other_processes_are_sent(service, db):
    """Touches, registrations, renames, positions and deactivations; a device keeps its number."""
    ann, bob = await stored(db, "Ann", "Bob")
    async with live(service.client, service.key) as seen:
        number = seen.named(bob)["n"]
        await db.execute(
            "UPDATE devices SET last_seen_at = to_timestamp(2000) WHERE device_id=$1", bob
        )
        await seen.until(lambda _: seen.named(bob)["seen"] == 2000)
        assert seen.named(ann)["seen"] == LONG_AGO
        (cid,) = await stored(db, "Aaron")
        await seen.until(lambda _: seen.named(cid))
        await db.execute("UPDATE devices SET display_name = 'Zoe' WHERE device_id = $1", ann)
        await seen.until(lambda _: seen.named(ann)["display_name"] == "Zoe")
        await db.execute("UPDATE devices SET is_active = false WHERE device_id = $1", bob)
        await seen.until(lambda _: not seen.named(bob))
        await db.execute("UPDATE devices SET is_active = true WHERE device_id = $1", bob)
        await seen.until(lambda _: seen.named(bob))
        assert seen.named(bob) == {
            "n": number,
            "device_id": bob,
            "display_name": "Bob",
            "platform": "android",
            "seen": 2000,
            "presence": "idle",
            "presence_since": 2120,
            "location": None,
        }
        await db.execute(
            "UPDATE devices SET last_seen_at = to_timestamp(3000) WHERE device_id=$1", ann
        )
        await seen.until(lambda _: seen.named(ann)["seen"] == 3000)  # whose place has changed
        await db.execute("UPDATE devices SET group_id = 'others' WHERE device_id = $1", cid)
        await seen.until(lambda _: not seen.named(cid))
        assert seen.hellos == 1


async def test_positions_are_in_the_snapshot_and_in_ticks(service, db):
    """The newest by capture time, in degrees, metres and milliseconds."""
    (device_id,) = await stored(db, "Phone")
    await service.upload(device_id, timestamp=T0_MS + 5000, latitude=1.5)
    async with live(service.client, service.key) as seen:
        assert seen.named(device_id)["location"] == [1.5, REPORT["longitude"], 10, T0_MS + 5000]
        await db.execute(
            "INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy) "
            "VALUES ($1, to_timestamp(946684807), 7, 8, 9), ($1, to_timestamp(946684806), 1, 2, 3)",
            device_id,
        )
        await db.execute("UPDATE devices SET last_seen_at = now() + interval '1 s'")
        await seen.until(lambda _: seen.named(device_id)["location"] == [7, 8, 9, T0_MS + 7000])


@pytest.mark.parametrize("how", [{"device_resolution_s": 600}, {"enabled": False}], ids=str)
async def test_a_new_position_without_a_later_touch_is_sent(dsn, how):
    """Its touches are rounded down to the same time, or there are none."""
    async with running(dsn, tracker=how) as service:
        device_id = await service.register()
        async with live(service.client, service.key) as seen:
            for second in (1, 2, 3):
                await service.upload(device_id, timestamp=T0_MS + second * 1000, latitude=second)
                here = [second, REPORT["longitude"], 10, T0_MS + second * 1000]
                await seen.until(lambda _: seen.named(device_id)["location"] == here)  # noqa: B023


async def test_the_resolution_of_touches_makes_no_device_idle(dsn, db):
    """A device that was seen just now may be said to have been seen so long ago."""
    async with running(dsn, tracker={"device_resolution_s": 600}) as service:
        device_id = await service.register()
        await service.tracker.flush()
        await db.execute("UPDATE devices SET last_seen_at = now() - interval '11 min'")
        async with live(service.client, service.key) as seen:
            assert seen.named(device_id)["presence"] == "online"
        (listed,) = await service.listing("family")
        assert listed["presence"] == "online"


async def test_a_stream_has_the_devices_of_its_group_alone(service, db):
    """Nothing of another group is sent, whatever happens there."""
    (mine,), (theirs,) = await stored(db, "A"), await stored(db, "B", group_id="others")
    async with live(service.client, service.key) as seen:
        service.tracker.touch("devices", theirs)
        service.tracker.touch("devices", mine)
        await db.execute("UPDATE devices SET display_name = 'C' WHERE device_id = $1", theirs)
        await seen.until(lambda _: seen.named(mine)["seen"] > LONG_AGO)
        ticks = seen.ticks
        await seen.until(lambda _: seen.ticks > ticks + 3)
        assert [one["device_id"] for one in seen.devices.values()] == [mine]
        assert seen.hello["all_groups"] is True
        await seen.until(lambda _: seen.service)
        assert seen.service["devices"]["touches"] == 2
        assert seen.service["api_keys"]["failures"] == 0


async def test_an_api_key_of_one_group_receives_no_tracker_stats(service, db):
    """Another group is an empty one to it, and how many others are active is not its business."""
    (mine,) = await stored(db, "A", group_id="mine")
    await stored(db, "B")
    key = await service.make_key("mine")
    async with live(service.client, key, "mine") as seen:
        assert list(seen.devices) == [seen.named(mine)["n"]]
        assert seen.hello["all_groups"] is False
        await seen.until(lambda _: seen.ticks > 2)
        assert seen.service is None
    async with (
        live(service.client, key, "family") as refused,
        live(service.client, key, "nowhere") as empty,
    ):
        for seen in (refused, empty):
            await seen.until(lambda seen: seen.ticks > 1)
            assert seen.devices == {}
            assert seen.service is None
        told = {k: v for k, v in refused.hello.items() if k != "now"}
        assert told == {k: v for k, v in empty.hello.items() if k != "now"} | {"group_id": "family"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("revoked_at = now()", "unauthorized"),
        ("expires_at = now() + interval '1 second'", "unauthorized"),
        ("group_id = 'others'", "unavailable"),
    ],
)
async def test_a_key_that_is_no_longer_valid_ends_the_stream(service, db, change, reason):
    """The last event has the reason; a stream of another key continues."""
    key = await service.make_key(name="short")
    async with live(service.client, key) as seen, live(service.client, service.key) as other:
        await db.execute(f"UPDATE api_keys SET {change} WHERE name = 'short'")
        assert await seen.ends() == reason
        ticks = other.ticks
        await other.until(lambda _: other.ticks > ticks + 2)


async def test_opening_a_stream_touches_the_api_key_and_no_device(service, db):
    """At the opening, once, and not when it ends; nor is it a request that takes that long."""
    await stored(db, "A")
    async with live(service.client, service.key) as seen:
        assert service.touches() == {"devices": 0, "api_keys": 1}
        await seen.until(lambda _: seen.ticks > 1)
        metrics = await service.metrics()
        labels = {"method": "GET", "route": "/api/v1/live", "status": "200"}
        assert metrics.total("http_request_duration_seconds_count", **labels) == 1
        assert metrics.total("http_requests_in_flight") == 1  # the scrape itself
        assert metrics.total("live_streams") == 1
        assert metrics.total("live_capacity_streams") == 200
        assert metrics.total("live_sent_bytes_total") > 100
    await no_streams_left(service)
    assert service.touches() == {"devices": 0, "api_keys": 1}


async def test_an_open_stream_touches_its_api_key_again(service, db, monkeypatch):
    """It may stay open for days, or end with the process."""
    monkeypatch.setattr("api.handlers.live._TOUCH_EVERY_S", 0.0)
    await stored(db, "A")
    async with live(service.client, service.key) as seen:
        await seen.until(lambda _: service.touches()["api_keys"] > 2)
        assert service.touches()["devices"] == 0


async def test_without_tracking_the_times_of_the_database_are_sent(dsn, db):
    """This process records no touch; other processes may."""
    (device_id,) = await stored(db, "A")
    async with (
        running(dsn, tracker={"enabled": False}) as service,
        live(service.client, service.key) as seen,
    ):
        await db.execute("UPDATE devices SET last_seen_at = to_timestamp(2000)")
        await seen.until(lambda _: seen.named(device_id)["seen"] == 2000)
        await seen.until(lambda _: seen.service == {})


async def test_a_clock_that_runs_ahead_shows_no_future(service, db, monkeypatch):
    """What would not be stored is not shown: the database's clock has the last word."""
    (device_id,) = await stored(db, "A")
    buffer = service.tracker.buffers["devices"]
    buffer._clock = lambda: time.time() + 1000
    async with live(service.client, service.key) as seen:
        service.tracker.touch("devices", device_id)
        await seen.until(lambda _: seen.named(device_id)["seen"] > LONG_AGO)
        assert seen.named(device_id)["seen"] <= seen.now
