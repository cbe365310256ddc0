"""Liveness and readiness: what they check, and what they report."""

import asyncio

import pytest
import structlog

from api.postgres.database import Database
from tests.support.service import Service
from tracker import FlushError, StoreUnavailable

READY = {"status": "ready", "problems": [], "degraded": [], "warnings": []}


async def test_liveness_depends_on_the_event_loop_alone(service, db, monkeypatch):
    """A restart would repair none of these faults; readiness reports all of them at once."""
    await service.heartbeat(await service.register())
    await db.execute("ALTER TABLE devices RENAME TO elsewhere")
    with structlog.testing.capture_logs():
        with pytest.raises(FlushError):
            await service.tracker.flush()
        service.tracker.buffers["devices"].journal.append(None, 0)  # no key: it can't be appended

    async def away(*_arguments: object, **_options: object) -> None:
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(Database, "fetch", away)
    response = await service.call("GET", "/api/health/ready", key="")
    assert (response.status, await response.json()) == (
        200,
        {
            "status": "ready",
            "problems": [],
            "degraded": ["database"],
            "warnings": ["flush.devices", "journal.devices"],
        },
    )
    for path in ("/api/health", "/api/health/live"):
        response = await service.call("GET", path, key="")
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    await db.execute("ALTER TABLE elsewhere RENAME TO devices")


async def test_readiness_reports_what_is_wrong(service, db):
    """A missing table is said with the words of the database, until it is back."""
    device_id = await service.register()

    async def permanent_error() -> float:
        return (await service.metrics()).total("activity_flush_permanent_error", target="devices")

    await db.execute("ALTER TABLE devices RENAME TO elsewhere")
    await service.heartbeat(device_id)
    with pytest.raises(FlushError, match="does not exist"):
        await service.tracker.flush()
    response = await service.call("GET", "/api/health/ready")
    body = await response.json()
    assert (response.status, body["status"]) == (200, "ready")
    assert body["warnings"] == ["flush.devices"]
    assert 'relation "devices" does not exist' in body["details"]["flush.devices"]
    assert await permanent_error() == 1
    await db.execute("ALTER TABLE elsewhere RENAME TO devices")
    await service.tracker.flush()
    response = await service.call("GET", "/api/health/ready", key="")
    assert (response.status, await response.json()) == (200, READY)
    assert await permanent_error() == 0


async def test_a_degraded_journal_is_a_warning_and_the_service_stays_ready(service):
    """It works from memory, and a disk that is full for all processes must not end them all."""
    device_id = await service.register()
    with structlog.testing.capture_logs():
        service.tracker.buffers["devices"].journal.append(None, 0)  # no key: it can't be appended
    response = await service.call("GET", "/api/health/ready")
    body = await response.json()
    assert (response.status, body["status"], body["problems"]) == (200, "ready", [])
    assert body["warnings"] == ["journal.devices"]
    assert "a crash would lose touches" in body["details"]["journal.devices"]
    await service.heartbeat(device_id)
    await service.tracker.flush()
    response = await service.call("GET", "/api/health/ready", key="")
    assert (response.status, await response.json()) == (200, READY)


async def readiness_warns(service: Service, warnings: list[str]) -> None:
    """Return when readiness has these warnings; the process is ready all the time."""
    async with asyncio.timeout(10):
        while True:
            response = await service.call("GET", "/api/health/ready", key="")
            assert response.status == 200
            if (await response.json())["warnings"] == warnings:
                return
            await asyncio.sleep(0.01)


async def test_readiness_warns_when_revocations_cannot_be_read(service, db):
    """Without the table that counts changes, keys are looked up again, and there is a warning."""
    device_id = await service.register()

    async def lag_s() -> float:
        return (await service.metrics()).total("auth_revocation_lag_seconds")

    with structlog.testing.capture_logs() as logs:
        await db.execute("ALTER TABLE key_revision RENAME TO elsewhere")
        await readiness_warns(service, ["revocations"])
        unread_s = await lag_s()
        await db.execute("ALTER TABLE api_keys DISABLE TRIGGER ALL")
        await db.execute("UPDATE api_keys SET revoked_at = now()")
        async with asyncio.timeout(10):
            while (await service.heartbeat(device_id)).status != 401:
                await asyncio.sleep(0.01)
        later_s = await lag_s()
        assert later_s > unread_s
        await db.execute("ALTER TABLE elsewhere RENAME TO key_revision")
        await readiness_warns(service, [])
        async with asyncio.timeout(10):
            while await lag_s() >= later_s:
                await asyncio.sleep(0.01)
    assert [entry["event"] for entry in logs] == ["revocations.failed", "revocations.healthy"]


async def test_concurrent_readiness_requests_share_one_query(service, monkeypatch):
    """The route is public, so it must cost the database little."""
    asked = []
    fetch = Database.fetch

    async def counting(self, statement, *arguments, **options):
        if "schema_version" in statement:
            asked.append(statement)
        return await fetch(self, statement, *arguments, **options)

    monkeypatch.setattr(Database, "fetch", counting)
    ready = (service.call("GET", "/api/health/ready", key="") for _ in range(50))
    assert {response.status for response in await asyncio.gather(*ready)} == {200}
    assert 1 <= len(asked) <= 5


async def test_readiness_reports_an_old_schema(service, db):
    """A service that runs ahead of its migrations says so."""
    await db.execute("UPDATE activity_schema_version SET version_num = '0001'")
    response = await service.call("GET", "/api/health/ready")
    assert response.status == 503
    assert "0001" in (await response.json())["details"]["migrations"]
