"""Quotas of registrations, and ids that are released: no key or group takes more than a share."""

import uuid

import pytest

from api.access.quotas import GroupRoom, RegistrationRate
from api.http.responses import ApiError
from tests.support.service import REPORT, Service, running


def body(device_id: str | None = None, group_id: str = "family") -> dict[str, str]:
    """Return a registration."""
    return {
        "device_id": device_id or str(uuid.uuid4()),
        "display_name": "Phone",
        "group_id": group_id,
    }


async def registered(service: Service, registration: dict[str, str], key: str | None = None):
    """Return status, error code and Retry-After of a registration."""
    response = await service.call("POST", "/api/v1/devices/register", json=registration, key=key)
    return (
        response.status,
        (await response.json()).get("error"),
        response.headers.get("Retry-After"),
    )


def test_registrations_of_a_key_are_limited_by_a_token_bucket():
    """Each key has a bucket of its own."""
    now = 1000.0
    rate = RegistrationRate(60, monotonic=lambda: now)
    for _ in range(60):
        rate.take(1)
    with pytest.raises(ApiError) as refused:
        rate.take(1)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    rate.take(2)
    now += 2.0
    rate.take(1)
    rate.take(1)
    with pytest.raises(ApiError):
        rate.take(1)
    now += 3600.0
    for _ in range(60):
        rate.take(1)


async def test_the_size_of_a_group_is_rarely_counted_and_never_exceeded():
    """By one process; each of several may overrun it by an eighth of what was left."""
    counted = 0
    devices = 0

    async def count(group_id: str) -> int:
        nonlocal counted
        assert group_id == "family"
        counted += 1
        return devices

    room = GroupRoom(1000, count)
    with pytest.raises(ApiError) as refused:
        while devices <= 1000:
            await room.take("family")
            devices += 1
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "60")
    assert devices == 1000
    assert counted < 70
    devices -= 1
    await room.take("family")


async def test_registrations_beyond_the_quota_are_429(dsn):
    """With Retry-After; another key is not affected."""
    async with running(dsn, limits={"registrations_per_minute": 3}) as service:
        for _ in range(3):
            assert (await registered(service, body()))[0] == 200
        status, error, retry_after = await registered(service, body())
        assert (status, error) == (429, "too_many_registrations")
        assert 1 <= int(retry_after) <= 20
        other = await service.make_key()
        assert (await registered(service, body(), other))[0] == 200


async def test_a_full_group_rejects_new_devices(dsn, db):
    """Its devices may register again; a device that leaves makes room."""
    async with running(dsn, limits={"devices_per_group": 2}) as service:
        first, second = body(), body()
        for registration in (first, second, first):
            assert (await registered(service, registration))[0] == 200
        assert await registered(service, body()) == (429, "group_is_full", "60")
        assert (await registered(service, body(group_id="work")))[0] == 200
        assert (await registered(service, second))[0] == 200
        await service.call("DELETE", f"/api/v1/devices/{first['device_id']}")
        assert (await registered(service, body()))[0] == 200
        assert await db.fetchval("SELECT count(*) FROM devices WHERE is_active") == 3


async def test_an_id_is_released_some_time_after_its_device_was_deleted(dsn, db, capsys):
    """Another group gets the id alone: no track and no time of the device that had it."""
    async with running(dsn, limits={"release_device_id_after_s": 3600}) as service:
        device_id = await service.register("family")
        assert (await service.upload(device_id)).status == 200
        ours = await service.make_key("work")
        claim = body(device_id, "work")
        assert (await registered(service, claim, ours))[0] == 404
        await service.call("DELETE", f"/api/v1/devices/{device_id}")
        assert (await registered(service, claim, ours))[0] == 404
        assert await db.fetchval("SELECT count(*) FROM locations") == 1
        await db.execute(
            "UPDATE devices SET deactivated_at = deactivated_at - interval '1 hour', "
            "last_seen_at = last_seen_at + interval '1 day'"
        )
        response = await service.call("POST", "/api/v1/devices/register", json=claim, key=ours)
        assert response.status == 200
        assert (await response.json())["last_location"] is None
        assert await db.fetchval("SELECT count(*) FROM locations") == 0
        assert await db.fetchval("SELECT last_seen_at <= now() FROM devices")
        assert (await service.upload(device_id)).status == 200
        theirs = await service.make_key("family")
        assert (await registered(service, body(device_id), theirs))[0] == 404
    assert capsys.readouterr().out.count("device.released") == 1


async def test_a_long_track_is_removed_before_an_id_is_released(dsn, db, monkeypatch):
    """Slice by slice, so that no statement takes long."""
    monkeypatch.setattr("api.fleet.devices._FORGOTTEN_AT_ONCE", 10)
    async with running(dsn, limits={"release_device_id_after_s": 0}) as service:
        device_id = await service.register("family")
        other = await service.register("family")
        for one in (device_id, other):
            await db.execute(
                "INSERT INTO locations (device_id, captured_at, latitude, longitude, accuracy) "
                "SELECT $1, now() - make_interval(secs => n), 1, 1, 1 "
                "FROM generate_series(1, 35) n",
                one,
            )
        await service.call("DELETE", f"/api/v1/devices/{device_id}")
        ours = await service.make_key("work")
        assert (await registered(service, body(device_id, "work"), ours))[0] == 200
        assert await db.fetchval("SELECT count(*) FROM locations") == 35


async def test_a_device_that_its_own_group_registers_again_keeps_its_track(dsn, db):
    """A deletion by mistake loses nothing."""
    async with running(dsn, limits={"release_device_id_after_s": 0}) as service:
        key = await service.make_key("family")
        device_id = await service.register("family")
        await service.upload(device_id, timestamp=REPORT["timestamp"])
        await service.call("DELETE", f"/api/v1/devices/{device_id}")
        assert (await registered(service, body(device_id), key))[0] == 200
        assert await db.fetchval("SELECT count(*) FROM locations") == 1
        assert await db.fetchval("SELECT deactivated_at IS NULL FROM devices")


async def test_keys_are_revoked_also_where_all_tables_are_published(dsn, db):
    """An UPDATE of a published table needs a key that identifies its row."""
    await db.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    async with running(dsn) as service:
        await service.make_key(name="another")
        await db.execute("UPDATE api_keys SET revoked_at = now() WHERE name = 'another'")
