"""Uploads that wait for a write: bounded in number, in bytes and in time."""

import asyncio
import time

from tests.support.sample_table import locking
from tests.support.service import REPORT, T0_MS, running
from tests.support.uploads import (
    outcomes,
    statuses,
    stored_devices,
    until_waiting,
    write_is_blocked,
)


async def test_an_upload_of_a_device_that_stays_locked_is_503_in_time(dsn, db):
    """The response has Retry-After, and no other upload is affected."""
    async with running(dsn, database={"statement_timeout_s": 0.5}) as service:
        held, other = await service.register(), await service.register()
        lock = f"SELECT 1 FROM devices WHERE device_id = '{held}' FOR UPDATE"
        async with locking(dsn, lock):
            response = await service.upload(held)
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert (await service.upload(other)).status == 200
        assert held not in await stored_devices(db)
        assert (await service.upload(held)).status == 200


async def test_beyond_what_may_wait_uploads_are_rejected_at_once(dsn, db):
    """Memory is bounded; the uploads that wait are answered, and each that got 200 is stored."""
    limits = {"batches_in_flight": 1, "waiting_rows": 5}
    async with running(dsn, ingest=limits) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            uploads = [asyncio.create_task(service.upload(device_id, timestamp=T0_MS))]
            await write_is_blocked(db)
            uploads += [
                asyncio.create_task(service.upload(device_id, timestamp=T0_MS + n))
                for n in range(1, 6)
            ]
            await until_waiting(service, 5)
            shed = await service.upload(device_id, timestamp=T0_MS + 6)
            assert (shed.status, (await shed.json())["error"]) == (503, "unavailable")
            assert shed.headers["Retry-After"] == "2"
            assert not any(upload.done() for upload in uploads)
        assert await statuses(uploads) == [200] * 6
        assert len(await stored_devices(db)) == 6
        assert await outcomes(service) == {"stored": 6, "rejected": 0, "unavailable": 0, "shed": 1}
        assert (await service.upload(device_id, timestamp=T0_MS + 7)).status == 200


async def test_waiting_bodies_are_bounded_in_bytes(dsn, db):
    """Blanks count too: what is limited is what is held."""
    async with running(dsn, ingest={"batches_in_flight": 1, "waiting_bytes": 150_000}) as service:
        device_id = await service.register()
        body = b" " * 100_000 + b'{"device_id":"%s","timestamp":%d,"latitude":1,"longitude":1,'
        body += b'"accuracy":1}'

        def send(number: int):
            data = body % (device_id.encode(), T0_MS + number)
            headers = {"Content-Type": "application/json"}
            return service.call("POST", "/api/v1/locations", data=data, headers=headers)

        async with locking(dsn, "LOCK TABLE locations"):
            uploads = [asyncio.create_task(send(0))]
            await write_is_blocked(db)  # else both may share one write, and none waits
            uploads.append(asyncio.create_task(send(1)))
            await until_waiting(service, 1)
            assert (await send(2)).status == 503
        assert await statuses(uploads) == [200, 200]


async def test_uploads_that_wait_too_long_are_503_and_make_room(dsn, db):
    """With the table locked for longer than they may wait, no client hangs and nothing is kept."""
    async with running(
        dsn,
        database={"statement_timeout_s": 0.5},
        ingest={"batches_in_flight": 1, "waiting_rows": 10},
    ) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            for _ in range(2):
                started = time.monotonic()
                uploads = [service.upload(device_id, timestamp=T0_MS + n) for n in range(10)]
                assert set(await statuses(uploads)) == {503}
                assert time.monotonic() - started < 20  # ten one after the other would be more
        async with asyncio.timeout(30):
            while (await service.upload(device_id)).status != 200:
                pass
        assert (await service.metrics()).total("ingest_waiting_rows") == 0


async def test_uploads_that_wait_at_shutdown_get_503(dsn, db):
    """A shutdown leaves no client without a response."""
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        device_id = await service.register()
        async with locking(dsn, "LOCK TABLE locations"):
            uploads = [asyncio.create_task(service.upload(device_id, timestamp=T0_MS))]
            await write_is_blocked(db)
            uploads.append(asyncio.create_task(service.upload(device_id, timestamp=T0_MS + 1)))
            await until_waiting(service, 1)
            await service.client.app.cleanup()
            assert await statuses(uploads) == [503, 503]


async def test_an_upload_above_the_limit_is_stored_if_no_other_waits(dsn, db):
    """So a small limit does not reject an upload for ever."""
    async with running(dsn, ingest={"waiting_rows": 1, "waiting_bytes": 1}) as service:
        device_id = await service.register()
        reports = [{**REPORT, "timestamp": T0_MS + n} for n in range(50)]
        body = {"device_id": device_id, "locations": reports}
        response = await service.call("POST", "/api/v1/locations/batch", json=body)
        assert (response.status, len(await stored_devices(db))) == (200, 50)
