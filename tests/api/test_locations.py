"""Location uploads: validated, stored once, acknowledged when committed."""

import asyncio
import io
import json
import uuid

import pytest
from structlog.testing import capture_logs

from tests.support.sample_table import locking
from tests.support.service import REPORT, T0_MS, Service, running


async def stored(db) -> list[tuple]:
    rows = await db.fetch(
        "SELECT (extract(epoch FROM captured_at) * 1000)::bigint, latitude, longitude, accuracy, "
        "altitude, bearing, speed, provider, battery_level, network_type FROM locations ORDER BY 1"
    )
    return [tuple(row) for row in rows]


async def post(service: Service, body: object, path: str = "/api/v1/locations", **options):
    return await service.call("POST", path, json=body, **options)


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
    answer = await post(service, {"device_id": device_id, **report})
    assert answer.status == 200
    assert await answer.json() == {
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
    answer = await service.upload(device_id, latitude=2)
    assert answer.status == 200
    assert await answer.json() == {
        "success": True,
        "processed_count": 1,
        "duplicate_count": 1,
    }
    assert [row[1] for row in await stored(db)] == [1.0]


async def test_awkward_values_survive_the_way_in_company(service, db):
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
    answer = await post(service, body, "/api/v1/locations/batch")
    assert await answer.json() == {
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
    """One bad report refuses the batch and says which."""
    device_id = await service.register()
    answer = await post(
        service, {"device_id": device_id, "locations": locations}, "/api/v1/locations/batch"
    )
    assert answer.status == 400
    assert message in (await answer.json())["message"]
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
    answer = await service.call(
        "POST", "/api/v1/locations", data=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 400
    assert f"`{field}`" in (await answer.json())["message"]
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
async def test_the_bounds_themselves_are_good(service, db, field, value):
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
    answer = await post(service, body)
    assert (answer.status, (await answer.json())["error"]) == (400, "invalid_body")
    assert f"`{missing}`" in (await answer.json())["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"latitude": NaN}',
        b"\xff\xfe",
        b'{"device_id": "\\ud800"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[]",
        b"null",
        b"1",
    ],
)
async def test_what_is_no_report_is_400(service, body):
    """Broken JSON, broken UTF-8, bottomless nesting: a clear refusal."""
    answer = await service.call(
        "POST", "/api/v1/locations", data=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 400
    assert (await answer.json())["error"] in ("invalid_json", "invalid_body")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_415(service, content_type):
    """A body must say that it is JSON."""
    answer = await service.call(
        "POST", "/api/v1/locations", data=b"{}", headers={"Content-Type": content_type}
    )
    assert (answer.status, (await answer.json())["error"]) == (415, "unsupported_media_type")


async def test_json_with_a_charset_is_json(service):
    """Parameters of the content type do no harm."""
    device_id = await service.register()
    answer = await service.call(
        "POST",
        "/api/v1/locations",
        data=json.dumps({"device_id": device_id, **REPORT}).encode(),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert answer.status == 200


async def test_a_body_over_one_mebibyte_is_413(service):
    """Memory for bodies is bounded, whether the length is declared or not."""
    headers = {"Content-Type": "application/json"}
    large = b'{"x": "' + b"x" * 1_048_576 + b'"}'

    async def chunks():
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for data in (io.BytesIO(large), chunks()):
        answer = await service.call("POST", "/api/v1/locations", data=data, headers=headers)
        assert (answer.status, (await answer.json())["error"]) == (413, "body_too_large")


async def test_an_upload_of_an_unknown_device_is_404(service, db):
    """A report of nobody is not stored."""
    answer = await service.upload(str(uuid.uuid4()))
    assert (answer.status, (await answer.json())["error"]) == (404, "device_not_found")
    assert await stored(db) == []


async def test_a_device_that_was_deleted_a_moment_ago_is_404(service, db):
    """The cache may believe in it still; the table has the last word."""
    device_id = await service.register()
    await db.execute("DELETE FROM devices")
    assert (await service.upload(device_id)).status == 404
    assert (await service.heartbeat(device_id)).status == 404


async def test_a_body_that_is_not_encoded_as_it_says_is_400(service):
    """Junk that claims to be compressed is the client's fault, and no crash."""
    with capture_logs() as logs:
        for encoding in ("gzip", "deflate"):
            answer = await service.client.post(
                "/api/v1/locations",
                data=b"this is not compressed",
                headers={
                    "X-API-Key": service.key,
                    "Content-Type": "application/json",
                    "Content-Encoding": encoding,
                },
                skip_auto_headers=("Content-Encoding",),
                compress=None,
            )
            assert answer.status == 400
    assert logs == []


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_crash(service):
    """A phone in a tunnel costs no error line."""
    url = service.client.make_url("/api/v1/locations")
    with capture_logs() as logs:
        for _ in range(3):
            _, writer = await asyncio.open_connection(url.host, url.port)
            head = (
                f"POST /api/v1/locations HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.key}\r\n"
                'Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"device_id":'
            )
            writer.write(head.encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        assert (await service.upload(await service.register())).status == 200
    assert logs == []


async def test_uploads_that_time_out_leave_no_backends_behind(dsn, db):
    """A locked table does not use up the server's connections, request by request."""
    async with running(dsn, database={"statement_timeout_s": 0.2, "pool_size": 3}) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            for _ in range(6):
                uploads = (service.upload(device_id) for _ in range(3))
                assert {answer.status for answer in await asyncio.gather(*uploads)} == {503}
                waiting = await db.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'activity-api' "
                    "AND wait_event_type = 'Lock' AND datname = current_database()"
                )
                assert waiting <= 3
