"""Gateways send touches and reports of many devices in one request."""

import asyncio
import gzip
import json
import time
import uuid

import pytest

from tests.support.sample_table import locking
from tests.support.service import REPORT, T0_MS, Service, running, seconds


async def touches(service: Service, *given: dict[str, object], status: int = 200, **options):
    response = await service.call("POST", "/api/v1/touches", json={"touches": given}, **options)
    assert response.status == status, await response.text()
    return await response.json()


async def bulk(service: Service, *given: dict[str, object], status: int = 200, **options):
    body = {"locations": given}
    response = await service.call("POST", "/api/v1/locations/bulk", json=body, **options)
    assert response.status == status, await response.text()
    return await response.json()


async def forget_activity(service: Service, db) -> None:
    await service.tracker.flush()
    await db.execute("UPDATE devices SET last_seen_at = NULL")
    await db.execute("UPDATE api_keys SET last_used_at = NULL")


async def seen_by_name(service: Service) -> dict[str, int | None]:
    return {
        device["display_name"]: device["last_seen_at"] and seconds(device["last_seen_at"])
        for device in await service.listing()
    }


async def test_each_device_is_touched_at_its_own_time(service, db):
    """Now, at a time in the past, and never in the future; the gateway's API key now."""
    names = ("now", "past", "ahead")
    ids = {name: await service.register(name=name) for name in names}
    await forget_activity(service, db)
    before = int(time.time())
    given = (
        {"device_id": ids["now"]},
        {"device_id": ids["past"].upper(), "at": 1_700_000_000_999.0},
        {"device_id": ids["ahead"], "at": (before + 86_400) * 1000},
    )
    assert await touches(service, *given) == {"touched": 3, "unknown": []}
    seen = await seen_by_name(service)
    assert seen["past"] == 1_700_000_000
    assert before <= seen["now"] <= time.time()
    assert before <= seen["ahead"] <= time.time()
    await service.tracker.flush()
    assert await db.fetchval("SELECT last_used_at FROM api_keys WHERE name = 'test'") is not None
    assert await seen_by_name(service) == seen


async def test_unknown_and_inaccessible_devices_are_listed_and_the_rest_is_touched(service):
    """The response is the same for both."""
    mine, theirs = await service.register("mine"), await service.register("theirs")
    nobody = str(uuid.uuid4())
    key = await service.make_key("mine")
    given = [{"device_id": one} for one in (theirs, mine, nobody, nobody, mine)]
    response = await touches(service, *given, key=key)
    assert response == {"touched": 2, "unknown": [theirs, nobody]}
    response = await touches(service, *given)
    assert response == {"touched": 3, "unknown": [nobody]}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ([], "length >= 1"),
        ([{"device_id": "no uuid"}], "`touches[0].device_id`"),
        ([{"device_id": str(uuid.uuid4()), "at": 1_764_150_000}], "`touches[0].at`"),
        ([{"device_id": str(uuid.uuid4()), "at": "now"}], "`touches[0].at`"),
        ([{"at": T0_MS}], "`device_id`"),
        ([{"device_id": str(uuid.uuid4())}] * 10_001, "length <= 10000"),
    ],
)
async def test_a_bad_list_of_touches_is_400_and_names_the_field(service, given, part):
    """Nothing of it is recorded."""
    before = service.touches()["devices"]
    response = await touches(service, *given, status=400)
    assert part in response["message"]
    assert service.touches()["devices"] == before


async def test_ten_thousand_touches_may_come_compressed(service, db):
    """Known devices of more than a slice, in one request."""
    rows = await db.fetch(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), 'Phone', 'family', 'android' FROM generate_series(1, 10000) "
        "RETURNING device_id::text"
    )
    body = json.dumps({"touches": [{"device_id": row[0]} for row in rows]}).encode()
    response = await service.call(
        "POST",
        "/api/v1/touches",
        data=gzip.compress(body),
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    assert await response.json() == {"touched": 10_000, "unknown": []}
    await service.tracker.flush()
    assert await db.fetchval("SELECT count(last_seen_at) FROM devices") == 10_000


async def test_reports_of_many_devices_have_outcomes_of_their_own(service, db):
    """Stored, there already, invalid, of an unknown device, rejected by the database."""
    one, other = await service.register(), await service.register()
    nobody = str(uuid.uuid4())
    await service.upload(one, timestamp=T0_MS)
    await db.execute("ALTER TABLE locations ADD CONSTRAINT no_13 CHECK (latitude <> 13)")
    given = (
        {"device_id": one, **REPORT},
        {"device_id": one, **REPORT, "timestamp": T0_MS},
        {"device_id": one, **REPORT, "latitude": 91},
        {"device_id": nobody, **REPORT},
        {"device_id": other, **REPORT, "latitude": 13, "timestamp": T0_MS},
        {"device_id": other, **REPORT},
        {"device_id": other, **REPORT},
        {"latitude": 1},
        17,
        {"device_id": one.upper(), **REPORT},
        {"device_id": "no uuid", **REPORT},
    )
    response = await bulk(service, *given)
    assert (response["stored"], response["duplicates"]) == (2, 3)
    assert [(one["index"], one["error"]) for one in response["refused"]] == [
        (2, "invalid_report"),
        (3, "device_not_found"),
        (4, "refused"),
        (7, "invalid_report"),
        (8, "invalid_report"),
        (10, "invalid_report"),
    ]
    assert "`latitude`" in response["refused"][0]["message"]
    stored = await db.fetch("SELECT device_id::text, count(*) FROM locations GROUP BY 1")
    assert dict(map(tuple, stored)) == {one: 2, other: 1}


async def test_devices_of_reports_are_touched_and_no_others(service, db):
    """Of those that the API key may access."""
    mine, theirs = await service.register("family"), await service.register("theirs")
    key = await service.make_key("family")
    await forget_activity(service, db)
    given = [{"device_id": one, **REPORT} for one in (mine, theirs)]
    response = await bulk(service, *given, key=key)
    assert (response["stored"], response["refused"][0]["index"]) == (1, 1)
    await service.tracker.flush()
    rows = await db.fetch("SELECT device_id::text FROM devices WHERE last_seen_at IS NOT NULL")
    assert [row[0] for row in rows] == [mine]


async def test_bulk_reports_that_cannot_be_committed_get_503_and_may_be_sent_again(dsn, db):
    """The second time they are duplicates, or are stored."""
    async with running(dsn, database={"statement_timeout_s": 0.3}) as service:
        devices = [await service.register() for _ in range(20)]
        given = [{"device_id": device_id, **REPORT} for device_id in devices]
        async with locking(dsn, "LOCK TABLE locations"):
            await bulk(service, *given, status=503)
        async with asyncio.timeout(30):
            while (await service.upload(devices[0], timestamp=T0_MS)).status != 200:
                pass
        response = await bulk(service, *given)
        assert response["stored"] + response["duplicates"] == 20
        assert await db.fetchval("SELECT count(*) FROM locations") == 21


async def test_five_thousand_reports_are_stored(service, db):
    """The most that one request may have."""
    devices = [await service.register() for _ in range(10)]
    given = [
        {
            "device_id": devices[n % 10],
            "timestamp": T0_MS + n,
            "latitude": 1,
            "longitude": 1,
            "accuracy": 1,
        }
        for n in range(5000)
    ]
    assert await bulk(service, *given) == {"stored": 5000, "duplicates": 0, "refused": []}
    assert await db.fetchval("SELECT count(*) FROM locations") == 5000
    await bulk(service, *given, given[0], status=400)


async def test_a_request_without_a_key_touches_nothing(service):
    """As everywhere."""
    device_id = await service.register()
    before = service.touches()
    await touches(service, {"device_id": device_id}, status=401, key="wrong")
    await bulk(service, {"device_id": device_id, **REPORT}, status=401, key="wrong")
    assert service.touches() == before
