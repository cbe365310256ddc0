"""Batch commit: uploads share writes, and each succeeds or fails for itself."""

import asyncio
from types import SimpleNamespace

import pytest

from api.config import IngestSettings, Settings
from api.fleet.batch_commit import BatchCommit
from tests.support.sample_table import locking
from tests.support.service import REPORT, T0_MS, Service, running
from tests.support.uploads import (
    batches,
    outcomes,
    statuses,
    stored_devices,
    under_way,
    until_waiting,
)
from tracker import StoreUnavailable


async def test_uploads_that_arrive_during_a_write_share_the_next(dsn, db):
    """One is being written, thirty wait: they are committed together, and all are there."""
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        devices = [await service.register() for _ in range(31)]
        async with locking(dsn, "LOCK TABLE locations"):
            first = asyncio.create_task(service.upload(devices[0]))
            await under_way(service, 1)
            rest = [asyncio.create_task(service.upload(device)) for device in devices[1:]]
            await until_waiting(service, 30)
            assert not first.done()
        assert await statuses([first, *rest]) == [200] * 31
        assert await batches(service) == 2
        assert sorted(await stored_devices(db)) == sorted(devices)
        assert await outcomes(service) == {"stored": 31, "rejected": 0, "unavailable": 0, "shed": 0}


async def test_an_upload_right_after_a_response_starts_a_new_write():
    """The writer that has just found nothing more to do is not waited for."""

    class AtOnce:
        async def insert(self, *_uploads: object, **_deadline: object) -> None:
            pass

    commit = BatchCommit(AtOnce(), IngestSettings(), deadline_s=60)
    async with asyncio.timeout(20):
        for _ in range(10):
            await commit.store("device", [None], size_bytes=1)
    await commit.close()


async def test_an_upload_to_an_idle_service_waits_for_no_other(service, db):
    """Alone, each is a batch of its own."""
    device_id = await service.register()
    for number in range(3):
        assert (await service.upload(device_id, timestamp=T0_MS + number)).status == 200
    assert await batches(service) == 3


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({"batch_rows": 10}, 4), ({"batch_bytes": 2000}, None), ({"batch_rows": 1}, 31)],
)
async def test_a_batch_is_bounded_by_rows_and_bytes(dsn, db, limits, expected):
    """Rows and bytes are limited; what does not fit goes with the next batch."""
    async with running(dsn, ingest={"batches_in_flight": 1, **limits}) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            uploads = [asyncio.create_task(service.upload(device_id, timestamp=T0_MS))]
            await under_way(service, 1)
            uploads += [
                asyncio.create_task(service.upload(device_id, timestamp=T0_MS + n))
                for n in range(1, 31)
            ]
            await until_waiting(service, 30)
        assert await statuses(uploads) == [200] * 31
        assert len(await stored_devices(db)) == 31
        if expected is None:  # a body of about 150 bytes: some 13 in 2,000
            assert 3 <= await batches(service) <= 5
        else:
            assert await batches(service) == expected


async def test_an_upload_larger_than_a_batch_is_written(dsn, db):
    """A limit below the size of one upload does not starve it."""
    async with running(dsn, ingest={"batch_rows": 10, "batch_bytes": 10}) as service:
        device_id = await service.register()
        reports = [{**REPORT, "timestamp": T0_MS + n} for n in range(50)]
        body = {"device_id": device_id, "locations": reports}
        response = await service.call("POST", "/api/v1/locations/batch", json=body)
        assert (response.status, len(await stored_devices(db))) == (200, 50)


async def in_one_batch(service: Service, dsn: str, uploads) -> list[int]:
    """Send uploads so that they are in one batch; return their statuses."""
    opener = await service.register()
    async with locking(dsn, "LOCK TABLE locations"):
        first = asyncio.create_task(service.upload(opener))
        await under_way(service, 1)
        rest = [asyncio.create_task(upload) for upload in uploads]
        await until_waiting(service, len(rest))
    assert (await first).status == 200
    return await statuses(rest)


async def test_an_upload_of_a_device_that_is_gone_fails_alone(dsn, db):
    """The upload of a deleted device is 404; the rest of its batch is stored."""
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        devices = [await service.register() for _ in range(20)]
        await db.execute("DELETE FROM devices WHERE device_id = ANY($1::uuid[])", devices[5:7])
        answered = await in_one_batch(service, dsn, [service.upload(one) for one in devices])
        assert answered == [404 if one in devices[5:7] else 200 for one in devices]
        assert set(devices) - set(await stored_devices(db)) == set(devices[5:7])
        assert (await service.heartbeat(devices[5])).status == 404  # and it is forgotten
        assert (await outcomes(service))["rejected"] == 2


async def test_a_report_that_the_database_rejects_fails_alone(dsn, db):
    """Whatever rule the table has, only the upload that breaks it fails, and not with 500."""
    await db.execute("ALTER TABLE locations ADD CHECK (latitude <> 13)")
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        devices = [await service.register() for _ in range(20)]
        bad = {devices[3], devices[17]}
        uploads = [service.upload(one, latitude=13 if one in bad else 14) for one in devices]
        answered = await in_one_batch(service, dsn, uploads)
        assert answered == [422 if one in bad else 200 for one in devices]
        assert set(devices) - set(await stored_devices(db)) == bad
        response = await service.upload(devices[3], latitude=13)
        assert (await response.json())["error"] == "refused"


async def test_a_locked_device_delays_no_other_upload(dsn, db):
    """An open transaction on one device delays the uploads of that device alone."""
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        held, *others = [await service.register() for _ in range(10)]
        lock = f"SELECT 1 FROM devices WHERE device_id = '{held}' FOR UPDATE"
        async with locking(dsn, lock):
            late = asyncio.create_task(service.upload(held))
            for number in range(3):
                uploads = [service.upload(one, timestamp=T0_MS + number) for one in others]
                assert await statuses(uploads) == [200] * 9
            assert not late.done()
        assert (await late).status == 200
        assert held in await stored_devices(db)


async def test_a_client_that_disconnects_does_not_affect_its_batch(dsn, db):
    """Its own upload may be stored or not; the others are."""
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        devices = [await service.register() for _ in range(10)]
        async with locking(dsn, "LOCK TABLE locations"):
            first = asyncio.create_task(service.upload(devices[0]))
            await under_way(service, 1)
            rest = [asyncio.create_task(service.upload(one)) for one in devices[1:]]
            await until_waiting(service, 9)
            first.cancel()
            rest[3].cancel()
        left = [*rest[:3], *rest[4:]]
        assert await statuses(left) == [200] * 8
        assert {*devices[1:4], *devices[5:]} <= set(await stored_devices(db))
        assert (await service.upload(devices[0])).status == 200


async def test_many_uploads_at_once_are_all_stored(service, db):
    """Five hundred devices, two batches in flight, some reports twice: each row once."""
    devices = [await service.register() for _ in range(20)]
    uploads = [
        service.upload(devices[n % 20], timestamp=T0_MS + (n // 20) % 20) for n in range(500)
    ]
    assert await statuses(uploads) == [200] * 500
    assert len(await stored_devices(db)) == 400
    assert await batches(service) < 500


def test_more_batches_in_flight_than_connections_are_rejected():
    """More batches in flight than connections would only wait for each other."""
    with pytest.raises(ValueError, match=r"batches_in_flight must not be above"):
        Settings(database={"pool_size": 2}, ingest={"batches_in_flight": 3})


class Broken:
    """Locations whose every write is a bug."""

    async def insert(self, *_uploads: object, **_deadline: object) -> None:
        raise ZeroDivisionError


async def test_a_bug_in_a_write_is_a_500_even_if_it_cannot_be_logged(monkeypatch):
    """With a closed pipe on standard output no client hangs, and the next upload is tried."""

    def broken(*_args: object, **_more: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("api.fleet.batch_commit.log", SimpleNamespace(exception=broken))
    commit = BatchCommit(Broken(), IngestSettings(), deadline_s=60)
    async with asyncio.timeout(20):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="ZeroDivisionError"):
                await commit.store("device", [None], size_bytes=1)
    await commit.close()
    with pytest.raises(StoreUnavailable, match="stopping"):
        await commit.store("device", [None], size_bytes=1)
