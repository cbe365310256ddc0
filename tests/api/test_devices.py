"""Devices over HTTP: registered, listed, shown, deactivated."""

import time
import uuid

import pytest

from tests.support.service import REPORT, T0_MS, Service, seconds


def a_device(**fields: object) -> dict[str, object]:
    return {
        "device_id": str(uuid.uuid4()),
        "display_name": "Phone",
        "group_id": "family",
        **fields,
    }


async def register(service: Service, body: object):
    return await service.call("POST", "/api/v1/devices/register", json=body)


async def test_registration_returns_the_device(service):
    """A new device is answered as it will be listed."""
    body = a_device(display_name="Jürgens Handy 📱")
    response = await register(service, body)
    assert response.status == 200
    device = await response.json()
    assert time.time() - seconds(device.pop("last_seen_at")) < 60
    assert device == {
        "device_id": body["device_id"],
        "display_name": "Jürgens Handy 📱",
        "platform": "android",
        "last_location": None,
        "presence": "online",
        "presence_since": (await response.json())["last_seen_at"],
    }
    (listed,) = await service.listing()
    # The request itself is a touch, which may fall into the next second.
    assert (
        seconds(listed.pop("last_seen_at")) - seconds((await response.json())["last_seen_at"]) >= 0
    )
    assert listed == device


async def test_registering_again_updates_the_device(service, db):
    """Registration is an upsert: names, groups and tokens change, the device stays one."""
    body = a_device(fcm_token="old")
    await register(service, body)
    changed = {**body, "display_name": "Tablet", "group_id": "work", "platform": "ios"}
    await register(service, {**changed, "fcm_token": "new"})
    assert await service.listing("family") == []
    (device,) = await service.listing("work")
    assert (device["display_name"], device["platform"]) == ("Tablet", "ios")
    assert await db.fetchval("SELECT fcm_token FROM devices") == "new"


async def test_registering_again_never_moves_last_seen_at_back(service, db):
    """Another process may have seen the device later than this registration's clock."""
    body = a_device()
    await register(service, body)
    await db.execute("UPDATE devices SET last_seen_at = now() + interval '1 hour'")
    later = await db.fetchval("SELECT last_seen_at FROM devices")
    await register(service, body)
    assert await db.fetchval("SELECT last_seen_at FROM devices") == later


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device_id": "no uuid"}, "`device_id`"),
        ({"device_id": None}, "`device_id`"),
        ({"display_name": "x"}, "`display_name`"),
        ({"display_name": "x" * 51}, "`display_name`"),
        ({"display_name": "a\0b"}, "`display_name`"),
        ({"group_id": "no spaces"}, "`group_id`"),
        ({"group_id": "newline\n"}, "`group_id`"),
        ({"group_id": "ü" * 5}, "`group_id`"),
        ({"platform": ""}, "`platform`"),
        ({"fcm_token": "a\0b"}, "`fcm_token`"),
        ({"fcm_token": 5}, "`fcm_token`"),
    ],
)
async def test_a_bad_registration_names_the_field(service, fields, message):
    """What is wrong, and where, is in the message."""
    response = await register(service, a_device(**fields))
    assert response.status == 400
    body = await response.json()
    assert body["error"] == "invalid_body"
    assert message in body["message"]


async def test_the_listing_is_ordered_limited_and_of_one_group(service):
    """Active devices of the group by display name, at most `limit`."""
    for name in ("cc", "aa", "bb"):
        await service.register("family", name)
    await service.register("others", "dd")
    assert [device["display_name"] for device in await service.listing()] == ["aa", "bb", "cc"]
    assert [d["display_name"] for d in await service.listing("family&limit=2")] == ["aa", "bb"]
    assert await service.listing("nobody") == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?group_id=",
        "?group_id=x",
        "?group_id=a%20b",
        "?group_id=family&limit=0",
        "?group_id=family&limit=10001",
        "?group_id=family&limit=-1",
        "?group_id=family&limit=ten",
        "?group_id=family&limit=",
        "?group_id=family&limit=1e3",
        "?group_id=family&limit=99999999999999999999",
    ],
)
async def test_a_bad_query_is_400(service, query):
    """A listing says what it needs."""
    response = await service.call("GET", f"/api/v1/devices{query}")
    assert response.status == 400
    assert (await response.json())["error"] == "invalid_query"


async def test_the_listing_has_the_newest_position_by_capture_time(service):
    """A report that arrives late does not hide a newer one."""
    device_id = await service.register()
    await service.upload(device_id, timestamp=T0_MS + 2_000, latitude=1)
    await service.upload(device_id, timestamp=T0_MS + 3_500, latitude=2)
    await service.upload(device_id, timestamp=T0_MS + 1_000, latitude=3)
    (device,) = await service.listing()
    assert device["last_location"] == {
        "latitude": 2.0,
        "longitude": REPORT["longitude"],
        "accuracy": 10.0,
        "timestamp": "2000-01-01T00:00:03.500000Z",
    }
    shown = await (await service.call("GET", f"/api/v1/devices/{device_id}")).json()
    assert shown["last_location"] == device["last_location"]


async def test_a_deactivated_device_is_404_until_it_registers_again(service):
    """It leaves the listing and answers 404 everywhere."""
    body = a_device()
    await register(service, body)
    path = f"/api/v1/devices/{body['device_id']}"
    assert (await service.call("DELETE", path)).status == 204
    assert await service.listing() == []
    assert (await service.call("GET", path)).status == 404
    assert (await service.call("DELETE", path)).status == 404
    assert (await service.heartbeat(body["device_id"])).status == 404
    assert (await register(service, body)).status == 200
    assert (await service.heartbeat(body["device_id"])).status == 204
    assert len(await service.listing()) == 1


async def test_a_heartbeat_is_nothing_but_a_touch(service, db):
    """204, no body, no statement: the row is as it was."""
    device_id = await service.register()
    version = await db.fetchval("SELECT xmin FROM devices")
    touches = service.touches()["devices"]
    response = await service.heartbeat(device_id)
    assert (response.status, await response.read()) == (204, b"")
    assert service.touches()["devices"] == touches + 1
    assert await db.fetchval("SELECT xmin FROM devices") == version


async def test_a_clock_ahead_of_the_server_shows_no_future(service, db):
    """What the server would not store, a listing does not show."""
    device_id = await service.register()
    buffer = service.tracker.buffers["devices"]
    buffer._clock = lambda: time.time() + 3600
    await service.heartbeat(device_id)
    (device,) = await service.listing()
    assert seconds(device["last_seen_at"]) <= (await db.fetchval("SELECT now()")).timestamp()
