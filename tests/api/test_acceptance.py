"""The acceptance criteria of the product, point by point, over HTTP and in the table."""

import time
import uuid

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from api.app import create_app
from api.config import Settings
from tests.support.service import REPORT, T0_MS, Service, running, seconds


async def last_seen(db: asyncpg.Connection, device_id: str):
    return await db.fetchval("SELECT last_seen_at FROM devices WHERE device_id = $1", device_id)


async def forget_activity(service: Service, db: asyncpg.Connection) -> None:
    """Delete all activity, from the table and from the buffer."""
    await service.tracker.flush()
    await db.execute("UPDATE devices SET last_seen_at = NULL")
    await db.execute("UPDATE api_keys SET last_used_at = NULL")


def a_batch(device_id: str) -> dict[str, object]:
    return {"device_id": device_id, "locations": [REPORT, {**REPORT, "timestamp": T0_MS + 1}]}


REQUEST_METRICS = {
    "heartbeat": lambda d: ("POST", f"/api/v1/devices/{d}/heartbeat", {}),
    "listing with the header": lambda d: (
        "GET",
        "/api/v1/devices?group_id=family",
        {"headers": {"X-Device-ID": d.upper()}},
    ),
    "upload": lambda d: ("POST", "/api/v1/locations", {"json": {"device_id": d, **REPORT}}),
    "batch": lambda d: ("POST", "/api/v1/locations/batch", {"json": a_batch(d)}),
    "registration again": lambda d: (
        "POST",
        "/api/v1/devices/register",
        {"json": {"device_id": d, "display_name": "Phone", "group_id": "family"}},
    ),
    "refused upload": lambda d: (
        "POST",
        "/api/v1/locations",
        {"json": {"device_id": d, **REPORT, "latitude": 91}},
    ),
    "refused batch": lambda d: ("POST", "/api/v1/locations/batch", {"json": {"device_id": d}}),
    "refused registration": lambda d: (
        "POST",
        "/api/v1/devices/register",
        {"json": {"device_id": d, "display_name": "P"}},
    ),
    "unknown route with the header": lambda d: (
        "GET",
        "/api/v1/nothing",
        {"headers": {"X-Device-ID": d}},
    ),
}


@pytest.mark.parametrize("request_", REQUEST_METRICS.values(), ids=REQUEST_METRICS.keys())
async def test_1_every_authenticated_request_updates_its_key_and_its_device(service, db, request_):
    """Whether path, body or header says which device it is about, and whatever the answer is."""
    device_id = await service.register()
    await forget_activity(service, db)
    before = int(time.time())
    method, path, options = request_(device_id)
    await service.call(method, path, **options)
    await service.tracker.flush()
    assert (await last_seen(db, device_id)).timestamp() >= before
    used = await db.fetchval("SELECT last_used_at FROM api_keys WHERE name = 'test'")
    assert used.timestamp() >= before


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_1_reading_or_deleting_a_device_touches_the_api_key_alone(service, db, method):
    """An operator's tool reads and deactivates dead devices, and does not bring them to life."""
    device_id = await service.register()
    await forget_activity(service, db)
    await service.call(method, f"/api/v1/devices/{device_id}")
    await service.tracker.flush()
    assert await last_seen(db, device_id) is None
    assert await db.fetchval("SELECT last_used_at FROM api_keys WHERE name = 'test'") is not None


async def test_1_a_request_that_names_two_devices_touches_both(service, db):
    """The header's device and the path's device are both active."""
    one, other = await service.register(), await service.register()
    await forget_activity(service, db)
    await service.heartbeat(one, headers={"X-Device-ID": other})
    await service.tracker.flush()
    assert await last_seen(db, one) is not None
    assert await last_seen(db, other) is not None


async def test_4_whole_seconds_in_a_timestamptz(service, db):
    """The column is TIMESTAMPTZ, and no fraction of a second is ever stored."""
    device_id = await service.register()
    await service.heartbeat(device_id)
    await service.tracker.flush()
    types = await db.fetch(
        "SELECT data_type FROM information_schema.columns "
        "WHERE column_name IN ('last_seen_at', 'last_used_at')"
    )
    assert [row[0] for row in types] == ["timestamp with time zone"] * 2
    assert await db.fetchval(
        "SELECT bool_and(last_seen_at = date_trunc('second', last_seen_at)) FROM devices"
    )
    assert await db.fetchval(
        "SELECT bool_and(last_used_at = date_trunc('second', last_used_at)) FROM api_keys"
    )


async def test_5_a_touch_is_listed_at_once_and_stored_after_a_flush(service, db):
    """A listing shows the touch of the request before it, long before the flush."""
    device_id = await service.register()
    await forget_activity(service, db)
    assert (await service.listing())[0]["last_seen_at"] is None
    before = int(time.time())
    await service.heartbeat(device_id)
    (listed,) = await service.listing()
    assert seconds(listed["last_seen_at"]) >= before
    assert await last_seen(db, device_id) is None
    await service.tracker.flush()
    assert (await last_seen(db, device_id)).timestamp() == seconds(listed["last_seen_at"])
    shown = await (await service.call("GET", f"/api/v1/devices/{device_id}")).json()
    assert seconds(shown["last_seen_at"]) >= before


async def test_6_health_metrics_401_and_403_touch_nothing(service):
    """Internal and unauthenticated requests do not touch (Synapse and Strapi counted them)."""
    device_id = await service.register("family")
    bound = await service.make_key("family")
    before = service.touches()
    header = {"X-Device-ID": device_id}
    for path in ("/api/health", "/api/health/live", "/api/health/ready", "/metrics"):
        assert (await service.call("GET", path, headers=header)).status == 200
    for key in ("", "ak_wrong"):
        assert (await service.heartbeat(device_id, key=key, headers=header)).status == 401
    elsewhere = {"device_id": device_id, "display_name": "Phone", "group_id": "others"}
    refused = await service.call(
        "POST", "/api/v1/devices/register", key=bound, headers=header, json=elsewhere
    )
    assert refused.status == 403
    assert service.touches() == before


async def test_7_ten_thousand_touches_of_a_hundred_devices_are_one_update_a_table(service, db):
    """Batching for high-frequency clients: one statement for all of an interval."""
    devices = [str(uuid.uuid4()) for _ in range(100)]
    await db.executemany(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "VALUES ($1, 'Phone', 'family', 'android')",
        [(device,) for device in devices],
    )
    for _ in range(100):
        for device in devices:
            assert (await service.heartbeat(device)).status == 204
    assert service.touches() == {"devices": 10_000, "api_keys": 10_000}
    await service.tracker.flush()
    metrics = await service.metrics()
    for target, rows in (("devices", 100), ("api_keys", 1)):
        assert metrics.total("activity_flush_chunk_rows_count", target=target) == 1
        assert metrics.total("activity_flush_chunk_rows_sum", target=target) == rows
        assert metrics.total("activity_flush_keys_total", target=target, outcome="written") == rows
        assert metrics.balance(target) == 0
    await db.execute("SELECT pg_stat_force_next_flush()")
    seen = await db.fetchval("SELECT count(*) FROM devices WHERE last_seen_at IS NOT NULL")
    assert seen == 100


async def test_8_registration_sets_last_seen_at_in_the_response_and_in_the_table(service, db):
    """A new device has been seen, and a flush is not needed to know."""
    before = int(time.time())
    body = {"device_id": str(uuid.uuid4()), "display_name": "Phone", "group_id": "family"}
    response = await (await service.call("POST", "/api/v1/devices/register", json=body)).json()
    assert seconds(response["last_seen_at"]) >= before
    assert (await last_seen(db, body["device_id"])).timestamp() >= before


async def test_9_an_error_of_tracking_is_logged_and_fails_no_request(service, monkeypatch):
    """A bug in the tracker costs a log line, not an answer."""
    device_id = await service.register()

    def explode(*_args: object) -> None:
        raise RuntimeError("a bug in tracking")

    monkeypatch.setitem(service.tracker._touch, "devices", explode)
    with capture_logs() as logs:
        for _ in range(3):
            assert (await service.heartbeat(device_id)).status == 204
    assert [entry["event"] for entry in logs] == ["touch.failed"]


async def test_tracking_can_be_switched_off(dsn, db):
    """With tracker.enabled off the service serves, and records no touch."""
    async with running(dsn, tracker={"enabled": False}) as service:
        device_id = await service.register()
        await db.execute("UPDATE devices SET last_seen_at = NULL")
        assert (await service.heartbeat(device_id)).status == 204
        assert (await service.listing())[0]["last_seen_at"] is None
        assert (await service.call("GET", "/api/health/ready")).status == 200
        assert "activity_touches" not in await (await service.call("GET", "/metrics")).text()


async def test_2_tracking_is_a_middleware_around_authentication(dsn):
    """Handlers know nothing of it: a route that is added later is tracked like any other."""

    async def brand_new(_request: web.Request) -> web.Response:
        return web.Response()

    app = await create_app(Settings(), dsn)
    app.router.add_get("/api/v1/brand-new", brand_new)
    async with TestClient(TestServer(app)) as client:
        service = Service(client, dsn, "", Settings())
        service.key = await service.make_key()
        assert (await service.call("GET", "/api/v1/brand-new", key="wrong")).status == 401
        assert service.touches()["api_keys"] == 0
        assert (await service.call("GET", "/api/v1/brand-new")).status == 200
        assert service.touches()["api_keys"] == 1
