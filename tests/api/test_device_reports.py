"""Reports as real devices send them: wrong clocks, unknown values, marks before the JSON."""

import codecs
import json
import time

import pytest

from api.fleet.newest import newest_of
from tests.support.service import REPORT, Service, running

UNKNOWN_ON_IOS = {"accuracy": -1, "speed": -1, "bearing": -1, "battery_level": -1}


async def last_location(service: Service) -> dict[str, object] | None:
    (device,) = await service.listing()
    shown = await service.call("GET", f"/api/v1/devices/{device['device_id']}")
    assert (await shown.json())["last_location"] == device["last_location"]
    return device["last_location"]


async def post(service: Service, body: object):
    return await service.call("POST", "/api/v1/locations/batch", json=body)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def rows_read(plan: dict[str, object]) -> int:
    """Return how many rows the scans of a plan returned or filtered out."""
    below = sum(map(rows_read, plan.get("Plans", ())))
    if "Relation Name" not in plan:
        return below
    return below + plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)


@pytest.mark.parametrize("ahead_ms", [75 * 365 * 86_400_000, 3_600_000, 301_000])
async def test_a_report_from_the_future_is_stored_and_is_no_last_location(service, db, ahead_ms):
    """A dead clock or a GPS week rollover does not hide the reports that follow."""
    device_id = await service.register()
    assert (await service.upload(device_id, timestamp=now_ms() + ahead_ms)).status == 200
    assert await last_location(service) is None
    assert (await service.upload(device_id, timestamp=now_ms(), latitude=1)).status == 200
    assert (await last_location(service))["latitude"] == 1
    assert await db.fetchval("SELECT count(*) FROM locations") == 2


async def test_a_report_slightly_ahead_is_accepted(dsn):
    """Within the tolerance of the setting, a report counts as the last location."""
    for ahead_s, believed in ((300, True), (30, False)):
        async with running(dsn, ingest={"max_capture_ahead_s": ahead_s}) as service:
            device_id = await service.register(group_id=f"g{ahead_s}")
            await service.upload(device_id, timestamp=now_ms() + 120_000)
            (device,) = await service.listing(f"g{ahead_s}")
            assert (device["last_location"] is not None) == believed


async def test_a_report_that_was_ahead_when_received_never_becomes_the_last_location(service, db):
    """Once its capture time has passed it is no more true than before."""
    device_id = await service.register()
    await service.upload(device_id, latitude=1)
    await db.execute(
        "INSERT INTO locations (device_id, captured_at, received_at, latitude, longitude, accuracy)"
        " VALUES ($1, now() - interval '1 h', now() - interval '2 h', 2, 2, 2)",
        device_id,
    )
    assert (await last_location(service))["latitude"] == 1


async def test_a_listing_reads_few_rows_of_a_track_that_is_all_ahead(service, db):
    """A clock that is an hour ahead for weeks costs a listing a bounded number of rows."""
    device_id = await service.register()
    await db.execute(
        "INSERT INTO locations (device_id, captured_at, received_at, latitude, longitude, accuracy)"
        " SELECT $1, at, at - interval '1 h', 2, 2, 2"
        " FROM generate_series(now() - interval '30 d', now(), '1 min') AS at",
        device_id,
    )
    await db.execute("ANALYZE locations")
    assert await last_location(service) is None
    plan = await db.fetchval(
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM " + newest_of(f"'{device_id}'", 300)
    )
    assert rows_read(json.loads(plan)[0]["Plan"]) <= 1000


async def test_negative_values_that_mean_unknown_are_stored_as_null(service, db):
    """One such report does not make a batch of fifty fail for ever."""
    device_id = await service.register()
    reports = [{**REPORT, "timestamp": REPORT["timestamp"] + n} for n in range(50)]
    reports[7] |= UNKNOWN_ON_IOS
    response = await post(service, {"device_id": device_id, "locations": reports})
    assert response.status == 200, await response.text()
    rows = await db.fetch(
        "SELECT accuracy, speed, bearing, battery_level FROM locations WHERE accuracy IS NULL"
    )
    assert [tuple(row) for row in rows] == [(None, None, None, None)]


async def test_an_unknown_accuracy_is_shown_as_null(service):
    """In the listing, for one device, and in its track."""
    device_id = await service.register()
    await service.upload(device_id, **UNKNOWN_ON_IOS)
    assert (await last_location(service))["accuracy"] is None
    track = await service.call("GET", f"/api/v1/locations?device_id={device_id}")
    assert (await track.json())["locations"] == [{**REPORT, "accuracy": None}]


@pytest.mark.parametrize("timestamp", [1_764_150_000, 0, 315_964_800_000])
async def test_a_capture_time_before_2000_is_400_and_says_what_is_expected(service, timestamp):
    """Seconds sent as milliseconds are found out, alone and within a batch."""
    device_id = await service.register()
    report = {**REPORT, "timestamp": timestamp}
    for response in (
        await service.upload(device_id, timestamp=timestamp),
        await post(service, {"device_id": device_id, "locations": [REPORT, report]}),
    ):
        assert response.status == 400
        message = (await response.json())["message"]
        assert "milliseconds" in message
        assert "is it in seconds" in message
    assert "`locations[1]`" in message


async def test_a_whole_number_may_have_a_fraction_of_zero(service):
    """JSON of some languages writes every number so."""
    device_id = await service.register()
    assert (await service.upload(device_id, timestamp=1_764_150_000_123.0)).status == 200
    assert (await last_location(service))["timestamp"] == "2025-11-26T09:40:00.123000Z"


@pytest.mark.parametrize("path", ["/api/v1/locations", "/api/v1/devices/register"])
async def test_a_byte_order_mark_before_the_json_is_skipped(service, path):
    """Some platforms write one before every UTF-8 text."""
    device_id = await service.register()
    body = {"device_id": device_id, "display_name": "Phone", "group_id": "family", **REPORT}
    response = await service.call(
        "POST",
        path,
        data=codecs.BOM_UTF8 + json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert response.status == 200, await response.text()
