"""Behind pgbouncer in transaction mode everything is as without it, for two services at once."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.config import PREFIX
from tests.support.pooler import PGBOUNCER, pooling
from tests.support.sample_table import THINGS, locking
from tests.support.service import REPORT, T0_MS, Service, running
from tracker import FlushError, Tracker

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="pgbouncer is not installed: 'make packages' does it"
)
AT_ONCE = 40
"""Requests of each service: far more than the pooler has sessions."""


@pytest.fixture(scope="module")
def pooler(server_dsn: str) -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="activity-pooler-") as folder,
        pooling(server_dsn, Path(folder)) as pooler,
    ):
        yield pooler


@pytest.fixture
async def pooled_dsn(pooler: str, dsn: str) -> AsyncIterator[str]:
    """The test's database, by way of the pooler."""
    return f"{pooler}{urlsplit(dsn).path}"


@pytest.fixture
async def services(pooled_dsn: str) -> AsyncIterator[list[Service]]:
    """Two services on one database; a key of either is good for both."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running(pooled_dsn, database={"statement_cache_size": 0})
            )
            for _ in range(2)
        ]


async def test_concurrent_requests_of_all_kinds_get_their_own_responses(services, db):
    """Registrations, heartbeats, uploads and listings, each with its own response."""

    async def live(service: Service, number: int) -> None:
        name = f"Phone {number}"
        device_id = await service.register(name=name)
        for path in ("", "/heartbeat"):
            method = "POST" if path else "GET"
            response = await service.call(method, f"/api/v1/devices/{device_id}{path}")
            assert response.status == (204 if path else 200), await response.text()
        assert (await service.upload(device_id, latitude=number)).status == 200
        batch = [{**REPORT, "timestamp": T0_MS + n, "latitude": number} for n in range(3)]
        body = {"device_id": device_id, "locations": batch}
        response = await service.call("POST", "/api/v1/locations/batch", json=body)
        assert response.status == 200, await response.text()
        listed = {one["device_id"]: one for one in await service.listing()}
        assert listed[device_id]["display_name"] == name
        assert listed[device_id]["last_location"]["latitude"] == number

    await asyncio.gather(*(live(service, n) for service in services for n in range(1, AT_ONCE + 1)))
    rows = await db.fetch(
        "SELECT display_name, latitude, count(*) FROM devices JOIN locations USING (device_id) "
        "GROUP BY device_id, display_name, latitude"
    )
    assert sorted((int(row[0].split()[1]), row[1], row[2]) for row in rows) == sorted(
        (n, n, 4) for n in range(1, AT_ONCE + 1) for _ in services
    )


async def test_both_services_flush_the_same_devices_under_load(services, db):
    """A flush is one transaction, whatever other requests do in the same sessions."""
    ids = await asyncio.gather(*(services[0].register(name=f"Phone {n}") for n in range(AT_ONCE)))
    await db.execute("UPDATE devices SET last_seen_at = NULL")

    async def beat_and_flush(service: Service) -> None:
        for _ in range(5):
            beats = [service.heartbeat(device_id) for device_id in ids]
            uploads = [service.upload(device_id) for device_id in ids]
            responses = await asyncio.gather(service.tracker.flush(), *beats, *uploads)
            assert {response.status for response in responses[1:]} == {200, 204}
        await service.tracker.flush()

    await asyncio.gather(*(beat_and_flush(service) for service in services))
    assert not await db.fetchval("SELECT count(*) FROM devices WHERE last_seen_at IS NULL")
    for service in services:
        metrics = await service.metrics()
        assert metrics.balance("devices") == metrics.balance("api_keys") == 0
        assert metrics.total("activity_touches_dropped_total") == 0


async def test_a_locked_row_delays_no_other(services, dsn, db):
    """The SKIP LOCKED statement works through the pooler, too."""
    service = services[0]
    locked, free = await service.register(), await service.register()
    await service.tracker.flush()
    await db.execute("UPDATE devices SET last_seen_at = NULL")
    async with locking(dsn, f"SELECT FROM devices WHERE device_id = '{locked}' FOR UPDATE"):
        for device_id in (locked, free):
            assert (await service.heartbeat(device_id)).status == 204
        with pytest.raises(FlushError, match="1 keys are locked"):
            await service.tracker.flush()
        seen = await db.fetch("SELECT device_id::text FROM devices WHERE last_seen_at IS NOT NULL")
        assert [row[0] for row in seen] == [free]
    await service.tracker.flush()
    assert not await db.fetchval("SELECT count(*) FROM devices WHERE last_seen_at IS NULL")


async def test_a_rejected_row_leaves_no_session_in_a_broken_transaction(services, db):
    """After more refusals than there are sessions, all of them still work."""
    service = services[0]
    device_id = await service.register()
    await db.execute("ALTER TABLE locations ADD CHECK (latitude < 80)")
    for _ in range(10):
        assert (await service.upload(device_id, latitude=85)).status == 422
    responses = await asyncio.gather(
        *(service.upload(device_id, timestamp=T0_MS + n) for n in range(10))
    )
    assert {response.status for response in responses} == {200}


async def test_a_revoked_key_is_denied_by_both_services_within_a_second(services, db):
    """Polling needs no session of its own, as LISTEN would."""
    key = await services[0].make_key(name="doomed")
    for service in services:
        assert (await service.call("GET", "/api/v1/devices?group_id=family", key=key)).status == 200
    await db.execute("UPDATE api_keys SET revoked_at = now() WHERE name = 'doomed'")
    async with asyncio.timeout(20):  # in a second, but for a busy machine
        for service in services:
            while True:
                response = await service.call("GET", "/api/v1/devices?group_id=family", key=key)
                if response.status == 401:
                    break
                assert response.status == 200
                await asyncio.sleep(0.05)


async def test_a_chunk_that_the_pooler_ends_is_written_in_parts(server_dsn, dsn, tmp_path, things):
    """Its query_timeout cuts the connection: like an outage, but only of large chunks."""
    await things.execute(
        "INSERT INTO things SELECT n, 'thing' FROM generate_series(11, 100) n;"
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$;"
        "CREATE TRIGGER slowly BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION slowly()"
    )
    with pooling(server_dsn, tmp_path, "query_timeout = 0.3\n") as pooler:
        tracker = Tracker([THINGS], dsn=f"{pooler}{urlsplit(dsn).path}", flush_interval_s=3600)
        async with tracker.running():
            for key in range(1, 101):
                tracker.touch("things", key)
            async with asyncio.timeout(60):
                while tracker.pending("things"):
                    with suppress(FlushError):
                        await tracker.flush()
    assert await things.fetchval("SELECT count(*) FROM things WHERE seen_at IS NULL") == 0


async def test_migrations_run_through_it_and_may_be_repeated(pooled_dsn, db):
    """Two processes that start at once, and more later, whatever session each of them gets."""
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    async def migrate() -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api", "migrate"),
            env={**os.environ, f"{PREFIX}DATABASE__URL": pooled_dsn},
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            return (await process.communicate())[1]

    said = [*await asyncio.gather(migrate(), migrate()), await migrate(), await migrate()]
    assert set(said) == {b"the schema is up to date\n"}
    assert await db.fetchval("SELECT count(*) FROM devices") == 0
