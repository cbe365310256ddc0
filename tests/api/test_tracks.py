"""The track of a device over HTTP: its reports, newest first, page by page."""

import uuid

import pytest

from tests.support.service import REPORT, T0_MS, Service

EVERYTHING = {
    "timestamp": 1_633_608_001_123,
    "latitude": 48.5,
    "longitude": -2.25,
    "accuracy": 10.0,
    "altitude": -3.5,
    "bearing": 360.0,
    "speed": 0.0,
    "provider": "gps",
    "battery_level": 99.5,
    "network_type": "wifi",
}


async def track(service: Service, device_id: str, query: str = "") -> list[dict[str, object]]:
    response = await service.call("GET", f"/api/v1/locations?device_id={device_id}{query}")
    assert response.status == 200, await response.text()
    return (await response.json())["locations"]


async def times(service: Service, device_id: str, query: str = "") -> list[object]:
    """Return when the reports were captured, in milliseconds since `T0_MS`."""
    return [report["timestamp"] - T0_MS for report in await track(service, device_id, query)]


async def test_a_report_is_read_back_as_it_was_posted(service):
    """Every field that was given, to the millisecond, and none that was not."""
    device_id = await service.register()
    assert await track(service, device_id) == []
    await service.upload(device_id, **EVERYTHING)
    await service.upload(device_id, timestamp=T0_MS, provider=None)
    await service.upload(device_id, timestamp=253_402_300_799_999)
    assert await track(service, device_id) == [
        {**REPORT, "timestamp": 253_402_300_799_999},
        EVERYTHING,
        {**REPORT, "timestamp": T0_MS},
    ]


async def test_a_track_is_read_page_by_page(service):
    """The newest reports first, each page from before the one that the last one ended with."""
    device_id, other = await service.register(), await service.register()
    for at in (5, 1, 3, 2, 4):
        await service.upload(device_id, timestamp=T0_MS + at)
    await service.upload(other, timestamp=T0_MS + 9)
    assert await times(service, device_id) == [5, 4, 3, 2, 1]
    assert await times(service, device_id, "&limit=2") == [5, 4]
    assert await times(service, device_id, f"&limit=2&before={T0_MS + 4}") == [3, 2]
    assert await times(service, device_id, f"&limit=2&before={T0_MS + 2}") == [1]
    assert await times(service, device_id, f"&before={T0_MS + 1}") == []
    assert await times(service, device_id, "&before=253402300800000") == [5, 4, 3, 2, 1]


async def test_a_hundred_reports_are_read_unless_the_limit_says_otherwise(service):
    """`limit` allows up to 1,000."""
    device_id = await service.register()
    for first in (0, 50, 100):
        reports = [{**REPORT, "timestamp": T0_MS + first + n} for n in range(50)]
        body = {"device_id": device_id, "locations": reports}
        assert (await service.call("POST", "/api/v1/locations/batch", json=body)).status == 200
    assert await times(service, device_id) == list(range(149, 49, -1))
    assert await times(service, device_id, "&limit=1000") == list(range(149, -1, -1))


async def test_reading_a_track_touches_the_key_and_not_the_device(service):
    """It is no sign of the device's life; a device that asks says so in X-Device-ID."""
    device_id = await service.register()
    before = service.touches()
    await track(service, device_id)
    await service.call("GET", f"/api/v1/locations?device_id={uuid.uuid4()}")
    after = service.touches()
    assert after["devices"] == before["devices"]
    assert after["api_keys"] == before["api_keys"] + 2
    path = f"/api/v1/locations?device_id={device_id}"
    await service.call("GET", path, headers={"X-Device-ID": device_id})
    assert service.touches()["devices"] == before["devices"] + 1


async def test_a_device_that_another_process_deactivated_has_no_track(service, db):
    """At once, although it is known here."""
    device_id = await service.register()
    await service.upload(device_id)
    await db.execute("UPDATE devices SET is_active = false")
    response = await service.call("GET", f"/api/v1/locations?device_id={device_id}")
    assert (response.status, (await response.json())["error"]) == (404, "device_not_found")
    assert (await service.heartbeat(device_id)).status == 404


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", "device_id"),
        ("device_id=", "device_id"),
        ("device_id=x", "device_id"),
        ("device_id={id}&device_id={id}", "device_id"),
        ("device_id={id}&limit=0", "limit"),
        ("device_id={id}&limit=1001", "limit"),
        ("device_id={id}&limit=1e2", "limit"),
        ("device_id={id}&before=-1", "before"),
        ("device_id={id}&before=253402300800001", "before"),
        ("device_id={id}&before=null", "before"),
        ("device_id={id}&before=", "before"),
    ],
)
async def test_a_bad_query_names_the_parameter(service, query, name):
    """What is wrong is said before anything is looked up."""
    response = await service.call("GET", f"/api/v1/locations?{query.format(id=uuid.uuid4())}")
    assert response.status == 400
    body = await response.json()
    assert body["error"] == "invalid_query"
    assert f"`{name}`" in body["message"]
