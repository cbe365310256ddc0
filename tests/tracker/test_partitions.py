"""The service on devices that are partitioned by hash: the same responses, the same rows."""

from collections.abc import AsyncIterator

import pytest

from tests.support.sample_table import locking, partitions
from tests.support.service import Service, running
from tracker import FlushError

DEVICES = 40
PARTITIONED = (
    "ALTER TABLE locations DROP CONSTRAINT locations_device_id_fkey",
    "ALTER TABLE devices RENAME TO whole",
    "CREATE TABLE devices (LIKE whole INCLUDING DEFAULTS) PARTITION BY HASH (device_id)",
    "ALTER TABLE devices ADD PRIMARY KEY (device_id)",
    partitions("devices", 8, "WITH (fillfactor = 50)"),
    "ALTER TABLE locations ADD FOREIGN KEY (device_id) REFERENCES devices ON DELETE CASCADE",
    "DROP TABLE whole",
)


@pytest.fixture
async def service(dsn, db) -> AsyncIterator[Service]:
    for statement in PARTITIONED:
        await db.execute(statement)
    async with running(dsn) as service:
        yield service


async def unseen(db) -> list[str]:
    rows = await db.fetch("SELECT device_id::text FROM devices WHERE last_seen_at IS NULL")
    return [row[0] for row in rows]


async def test_devices_of_all_partitions_are_registered_seen_and_listed(service, db):
    """By every route, and nothing moves backwards."""
    ids = [await service.register(name=f"Phone {n}") for n in range(DEVICES)]
    assert await db.fetchval("SELECT count(DISTINCT tableoid) FROM devices") > 1
    for device_id in ids:
        assert (await service.heartbeat(device_id)).status == 204
        assert (await service.upload(device_id)).status == 200
    overlaid = await service.listing()
    await service.tracker.flush()
    stored = await service.listing()
    assert stored == overlaid
    assert {one["device_id"] for one in stored} == set(ids)
    assert await unseen(db) == []
    ahead = await db.fetchval("SELECT now() + '50 s'")
    await db.execute("UPDATE devices SET last_seen_at = $1", ahead)
    await service.heartbeat(ids[0])
    await service.tracker.flush()
    assert await db.fetchval("SELECT bool_and(last_seen_at = $1) FROM devices", ahead)
    assert (await service.call("DELETE", f"/api/v1/devices/{ids[0]}")).status == 204
    assert len(await service.listing()) == DEVICES - 1


async def test_locked_and_missing_rows_delay_no_other(service, dsn, db):
    """Rows of several partitions are locked, others are gone; the rest is written at once."""
    ids = [await service.register(name=f"Phone {n}") for n in range(DEVICES)]
    await service.tracker.flush()
    await db.execute("UPDATE devices SET last_seen_at = NULL")
    for device_id in ids:
        assert (await service.heartbeat(device_id)).status == 204
    await db.execute("DELETE FROM devices WHERE device_id = ANY($1)", ids[:5])
    locked = sorted(ids[5:10])
    rows = ", ".join(f"'{device_id}'" for device_id in locked)
    async with locking(dsn, f"SELECT FROM devices WHERE device_id IN ({rows}) FOR UPDATE"):
        with pytest.raises(FlushError, match="5 keys are locked"):
            await service.tracker.flush()
        assert sorted(await unseen(db)) == locked
    await service.tracker.flush()
    assert await unseen(db) == []
    metrics = await service.metrics()
    missing = metrics.total("activity_flush_keys_total", target="devices", outcome="missing")
    assert (missing, metrics.balance("devices")) == (5, 0)


async def test_an_upload_skips_locked_and_missing_devices(service, dsn, db):
    """The foreign key is one to a partitioned table, and says so no differently."""
    gone, free = await service.register(), await service.register()
    await db.execute("DELETE FROM devices WHERE device_id = $1", gone)
    assert (await service.upload(gone)).status == 404
    async with locking(dsn, "SELECT FROM devices FOR NO KEY UPDATE"):
        assert (await service.upload(free)).status == 200
