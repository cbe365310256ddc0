"""Authentication and authorization: API keys, groups, and the X-Device-ID header."""

import asyncio
import uuid

import pytest

from tests.support.service import REPORT, Service


async def refused(service: Service, *args, **options) -> tuple[int, str]:
    response = await service.call(*args, **options)
    body = await response.json()
    assert body.keys() == {"error", "message"}
    return response.status, body["error"]


async def test_a_request_without_a_valid_key_is_401(service):
    """No key, a wrong one, an empty one and two at once are all denied."""
    device_id = await service.register()
    path = f"/api/v1/devices/{device_id}/heartbeat"
    for key in ("", "ak_wrong", " ", "\u00fc"):
        assert await refused(service, "POST", path, key=key) == (401, "unauthorized")
    twice = [("X-API-Key", service.key), ("X-API-Key", service.key)]
    response = await service.client.post(path, headers=twice)
    assert response.status == 401


async def test_a_revoked_key_is_denied_within_a_second(service, db):
    """A revocation by any hand empties the cache of a running service."""
    device_id = await service.register()
    assert (await service.heartbeat(device_id)).status == 204
    await db.execute("UPDATE api_keys SET revoked_at = now()")
    async with asyncio.timeout(10):
        while (await service.heartbeat(device_id)).status != 401:
            await asyncio.sleep(0.01)


async def test_a_new_key_works_although_it_was_unknown_a_moment_ago(service, db):
    """That a key is unknown is forgotten as soon as keys change."""
    soon = "ak_" + "soon" * 10 + "now"
    path = "/api/v1/devices?group_id=family"
    assert (await service.call("GET", path, key=soon)).status == 401
    await db.execute(
        "INSERT INTO api_keys (key_hash, prefix, name) "
        "VALUES (sha256(convert_to($1, 'UTF8')), 'ak_soon', 'by hand')",
        soon,
    )
    async with asyncio.timeout(10):
        while (await service.call("GET", path, key=soon)).status != 200:
            await asyncio.sleep(0.01)


async def test_a_touch_does_not_count_as_a_change_of_keys(service, db):
    """Flushing last_used_at empties no cache, or every flush would."""
    await service.register()
    before = await db.fetchval("SELECT revision FROM key_revision")
    await service.tracker.flush()
    assert await db.fetchval("SELECT count(last_used_at) FROM api_keys") == 1
    assert await db.fetchval("SELECT revision FROM key_revision") == before


async def test_only_the_hash_of_a_key_is_stored(service, db):
    """A reader of the table cannot use any of its keys."""
    rows = await db.fetch("SELECT * FROM api_keys")
    assert service.key not in str(rows)
    assert await db.fetchval(
        "SELECT key_hash = sha256(convert_to($1, 'UTF8')) FROM api_keys", service.key
    )


ROUTES = {
    "show": lambda d: ("GET", f"/api/v1/devices/{d}", {}),
    "deactivate": lambda d: ("DELETE", f"/api/v1/devices/{d}", {}),
    "heartbeat": lambda d: ("POST", f"/api/v1/devices/{d}/heartbeat", {}),
    "upload": lambda d: ("POST", "/api/v1/locations", {"json": {"device_id": d, **REPORT}}),
    "batch": lambda d: (
        "POST",
        "/api/v1/locations/batch",
        {"json": {"device_id": d, "locations": [REPORT]}},
    ),
    "track": lambda d: ("GET", f"/api/v1/locations?device_id={d}", {}),
    "header": lambda d: ("GET", "/api/v1/devices?group_id=mine", {"headers": {"X-Device-ID": d}}),
    "register": lambda d: (
        "POST",
        "/api/v1/devices/register",
        {"json": {"device_id": d, "display_name": "Stolen", "group_id": "mine"}},
    ),
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
async def test_a_device_of_another_group_gets_404_as_if_it_did_not_exist(service, db, route):
    """A key bound to a group can't read, touch, take or move devices of another, by any route."""
    bound = await service.make_key("mine")
    device_id = await service.register("theirs")
    await service.tracker.flush()
    row = await db.fetchrow("SELECT * FROM devices")
    touches = service.touches()["devices"]
    method, path, options = route(device_id)
    response = await service.call(method, path, key=bound, **options)
    assert response.status == 404
    if "register" not in path:
        method, path, options = route(str(uuid.uuid4()))
        unknown = await service.call(method, path, key=bound, **options)
        assert await response.text() == await unknown.text()
    assert service.touches()["devices"] == touches
    assert await db.fetchrow("SELECT * FROM devices") == row
    assert await db.fetchval("SELECT count(*) FROM locations") == 0


async def test_a_key_bound_to_a_group_works_within_it_and_only_there(service):
    """Its own group is all that a bound key sees."""
    bound = await service.make_key("mine")
    mine = await service.register("mine", key=bound)
    await service.register("theirs")
    assert [device["device_id"] for device in await service.listing("mine", key=bound)] == [mine]
    assert await service.listing("theirs", key=bound) == []
    assert (await service.heartbeat(mine, key=bound)).status == 204
    assert await refused(
        service,
        "POST",
        "/api/v1/devices/register",
        key=bound,
        json={"device_id": str(uuid.uuid4()), "display_name": "Phone", "group_id": "theirs"},
    ) == (403, "forbidden")


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ("no uuid", 400, "invalid_device_id"),
        ("", 400, "invalid_device_id"),
        ("00000000-0000-4000-8000-000000000000", 404, "device_not_found"),
    ],
)
async def test_a_wrong_device_header_is_rejected_and_touches_the_key_alone(
    service, header, status, code
):
    """The key was active; there is no device that could have been."""
    before = service.touches()
    assert await refused(
        service, "GET", "/api/v1/devices?group_id=family", headers={"X-Device-ID": header}
    ) == (status, code)
    after = service.touches()
    assert after["devices"] == before["devices"]
    assert after["api_keys"] == before["api_keys"] + 1


async def test_a_device_id_may_be_spelled_in_any_way(service):
    """Capitals and missing hyphens name the same device, which has one entry in the buffer."""
    device_id = await service.register()
    await service.tracker.flush()
    for spelling in (device_id.upper(), device_id.replace("-", "")):
        assert (await service.heartbeat(spelling)).status == 204
    assert len(service.tracker.buffers["devices"]) == 1
