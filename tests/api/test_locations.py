"""Location uploads: validated, stored once, acknowledged when committed."""

import asyncio
import json
import uuid

import pytest

from tests.support.locations import post, stored
from tests.support.sample_table import locking
from tests.support.service import REPORT, T0_MS


async def test_an_upload_is_stored_with_all_its_fields(service, db):
    """Every field of a report ends up in the table, to the millisecond."""
    device_id = await service.register()
    report = {
        **REPORT,
        "altitude": -3.5,
        "bearing": 359.9,
        "speed": 12.25,
        "provider": "gps",
        "battery_level": 55,
        "network_type": "5G",
    }
    response = await post(service, {"device_id": device_id, **report})
    assert response.status == 200
    assert await response.json() == {
        "success": True,
        "processed_count": 1,
        "duplicate_count": 0,
    }
    assert await stored(db) == [
        (1_633_608_001_123, 48.5, 2.5, 10.0, -3.5, 359.9, 12.25, "gps", 55.0, "5G")
    ]


async def test_an_upload_is_acknowledged_only_after_the_commit(service, db, dsn):
    """While the row cannot be written there is no answer; after the answer it is there."""
    device_id = await service.register()
    async with locking(dsn, "LOCK TABLE locations"):
        upload = asyncio.create_task(service.upload(device_id))
        for _ in range(50):
            await db.fetchval("SELECT 1")
        assert not upload.done()
    assert (await upload).status == 200
    assert len(await stored(db)) == 1


async def test_a_report_that_is_posted_again_changes_nothing(service, db):
    """A client that had no answer may safely post again."""
    device_id = await service.register()
    await service.upload(device_id, latitude=1)
    response = await service.upload(device_id, latitude=2)
    assert response.status == 200
    assert await response.json() == {
        "success": True,
        "processed_count": 1,
        "duplicate_count": 1,
    }
    assert [row[1] for row in await stored(db)] == [1.0]


async def test_extreme_values_are_stored_in_a_batch_as_alone(service, db):
    """Stored in a group as exactly as alone: extreme numbers, and text full of punctuation."""
    device_id = await service.register()
    labels = ["NULL", 'a"b', "a\\b", "{},", "é\U0001f600", "", "a\nb", " "]
    numbers = [0.1, -0.0, 1e308, 5e-324, 1e16, 123456789.123456789, -1e-7, 3]
    reports = [
        {
            **REPORT,
            "timestamp": T0_MS + n,
            "altitude": number,
            "accuracy": abs(number),
            "provider": label,
        }
        for n, (number, label) in enumerate(zip(numbers, labels, strict=True))
    ]
    body = {"device_id": device_id, "locations": reports}
    assert (await post(service, body, "/api/v1/locations/batch")).status == 200
    rows = await stored(db)
    assert [row[4] for row in rows] == numbers
    assert [row[3] for row in rows] == [abs(number) for number in numbers]
    assert [row[7] for row in rows] == labels
    assert {row[5:7] + row[8:] for row in rows} == {(None, None, None, None)}


async def test_a_batch_is_stored_whole(service, db):
    """Fifty reports, one of them twice, in any order."""
    device_id = await service.register()
    reports = [{**REPORT, "timestamp": T0_MS + 1000 * n} for n in (*range(49, 0, -1), 7)]
    body = {
        "device_id": device_id,
        "locations": [{"device_id": device_id, **reports[0]}, *reports[1:]],
    }
    response = await post(service, body, "/api/v1/locations/batch")
    assert await response.json() == {
        "success": True,
        "processed_count": 50,
        "duplicate_count": 1,
    }
    assert [row[0] for row in await stored(db)] == [T0_MS + 1000 * n for n in range(1, 50)]


@pytest.mark.parametrize(
    ("locations", "message"),
    [
        ([], "length >= 1"),
        ([REPORT] * 51, "length <= 50"),
        ([REPORT, {**REPORT, "latitude": -90.5}], "`locations[1].latitude`"),
        ([REPORT, {**REPORT, "device_id": str(uuid.uuid4())}], "`locations[1].device_id`"),
        ({}, "`locations`"),
    ],
)
async def test_a_batch_is_all_or_nothing(service, db, locations, message):
    """One invalid report rejects the batch, and the message names it."""
    device_id = await service.register()
    response = await post(
        service, {"device_id": device_id, "locations": locations}, "/api/v1/locations/batch"
    )
    assert response.status == 400
    assert message in (await response.json())["message"]
    assert await stored(db) == []


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("latitude", "90.0001"),
        ("latitude", "-91"),
        ("latitude", '"48"'),
        ("latitude", "null"),
        ("latitude", "1e400"),
        ("longitude", "180.5"),
        ("longitude", "true"),
        ("accuracy", '"10"'),
        ("timestamp", "-1"),
        ("timestamp", "1764150000"),
        ("timestamp", "946684799999"),
        ("timestamp", "253402300800000"),
        ("timestamp", "1764150000123.5"),
        ("timestamp", "9" * 400),
        ("bearing", "361"),
        ("speed", "true"),
        ("battery_level", "101"),
        ("provider", '"' + "x" * 51 + '"'),
        ("provider", '"a\\u0000b"'),
        ("network_type", "[]"),
        ("device_id", '"no uuid"'),
    ],
)
async def test_a_bad_field_is_named(service, db, field, text):
    """Values out of range and of wrong types are 400, and the message names the field."""
    device_id = await service.register()
    fields = {key: json.dumps(value) for key, value in {"device_id": device_id, **REPORT}.items()}
    fields[field] = text
    body = "{" + ",".join(f'"{key}": {value}' for key, value in fields.items()) + "}"
    response = await service.call(
        "POST", "/api/v1/locations", data=body, headers={"Content-Type": "application/json"}
    )
    assert response.status == 400
    assert f"`{field}`" in (await response.json())["message"]
    assert await stored(db) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latitude", 90),
        ("latitude", -0.0),
        ("longitude", -180),
        ("timestamp", T0_MS),
        ("accuracy", 0),
        ("timestamp", 253_402_300_799_999),
        ("battery_level", 100),
        ("provider", ""),
    ],
)
async def test_the_bounds_themselves_are_accepted(service, db, field, value):
    """Poles, the date line and both ends of time are places and times."""
    device_id = await service.register()
    assert (await service.upload(device_id, **{field: value})).status == 200
    assert len(await stored(db)) == 1
    assert len(await service.listing()) == 1


@pytest.mark.parametrize("missing", ["device_id", "timestamp", "latitude", "longitude", "accuracy"])
async def test_a_missing_field_is_named(service, missing):
    """So is a field that is not there."""
    body = {"device_id": str(uuid.uuid4()), **REPORT}
    del body[missing]
    response = await post(service, body)
    assert (response.status, (await response.json())["error"]) == (400, "invalid_body")
    assert f"`{missing}`" in (await response.json())["message"]


async def test_an_upload_of_an_unknown_device_is_404(service, db):
    """A report needs a registered device."""
    response = await service.upload(str(uuid.uuid4()))
    assert (response.status, (await response.json())["error"]) == (404, "device_not_found")
    assert await stored(db) == []


async def test_a_device_that_was_just_deleted_is_404(service, db):
    """The cache may still have it; the table decides."""
    device_id = await service.register()
    await db.execute("DELETE FROM devices")
    assert (await service.upload(device_id)).status == 404
    assert (await service.heartbeat(device_id)).status == 404
