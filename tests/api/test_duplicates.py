"""Reports of one device and capture time: the first is stored, the others are counted."""

import asyncio

from tests.support.sample_table import locking
from tests.support.service import REPORT, T0_MS, Service, running


async def latitudes(db) -> list[float]:
    rows = await db.fetch("SELECT latitude FROM locations ORDER BY device_id, captured_at")
    return [row[0] for row in rows]


async def batch(service: Service, device_id: str, *places: tuple[int, float]) -> dict[str, object]:
    """Upload reports that were captured at some milliseconds and latitudes, in this order."""
    reports = [{**REPORT, "timestamp": T0_MS + ms, "latitude": where} for ms, where in places]
    body = {"device_id": device_id, "locations": reports}
    response = await service.call("POST", "/api/v1/locations/batch", json=body)
    assert response.status == 200, await response.text()
    return await response.json()


async def test_of_two_reports_of_one_millisecond_the_first_is_stored(service, db):
    """And the response says that one of them was not."""
    device_id = await service.register()
    response = await batch(service, device_id, (1, 10.0), (0, 20.0), (1, 30.0), (1, 40.0))
    assert (response["processed_count"], response["duplicate_count"]) == (4, 2)
    assert await latitudes(db) == [20.0, 10.0]


async def test_a_batch_that_is_sent_again_is_all_duplicates(service, db):
    """A retry after a lost response counts all as duplicates, except a report that is new."""
    device_id = await service.register()
    places = [(ms, float(ms)) for ms in range(49)]
    assert (await batch(service, device_id, *places))["duplicate_count"] == 0
    assert (await batch(service, device_id, *places))["duplicate_count"] == 49
    assert (await batch(service, device_id, *places, (49, 49.0)))["duplicate_count"] == 49
    assert len(await latitudes(db)) == 50


async def test_uploads_that_share_a_write_have_counts_of_their_own(dsn, db):
    """Each counts what it repeats: from the table, from itself, and from those that came before."""
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        one, other = await service.register(), await service.register()
        await batch(service, one, (5, 0.0))
        async with locking(dsn, "LOCK TABLE locations"):
            uploads = [asyncio.create_task(batch(service, one, (0, 0.0)))]
            await waits(service, in_flight=1)
            for device, *places in (
                (one, (1, 1.0), (5, 2.0)),
                (other, (1, 3.0), (1, 4.0), (2, 5.0)),
                (one, (1, 6.0), (2, 7.0)),
            ):
                uploads.append(asyncio.create_task(batch(service, device, *places)))
                await waits(service, in_flight=len(uploads))
        counts = [response["duplicate_count"] for response in await asyncio.gather(*uploads)]
        assert counts == [0, 1, 1, 1]
        assert sorted(await latitudes(db)) == [0.0, 0.0, 1.0, 3.0, 5.0, 7.0]


async def test_duplicates_are_counted_while_a_device_is_locked(dsn, db):
    """The statement that steps around locked rows counts as the usual one does."""
    async with running(dsn, ingest={"batches_in_flight": 1}) as service:
        free, locked = await service.register(), await service.register()
        await batch(service, free, (1, 1.0))
        async with locking(dsn, f"SELECT 1 FROM devices WHERE device_id = '{locked}' FOR UPDATE"):
            held = asyncio.create_task(batch(service, locked, (1, 1.0), (1, 2.0)))
            await waits(service, in_flight=1)
            response = await batch(service, free, (1, 2.0), (2, 3.0), (2, 4.0))
            assert response["duplicate_count"] == 2
            assert not held.done()
        assert (await held)["duplicate_count"] == 1
        assert sorted(await latitudes(db)) == [1.0, 1.0, 3.0]


async def waits(service: Service, *, in_flight: int) -> None:
    """Return when so many requests are being answered, the one that asks not counted."""
    async with asyncio.timeout(30):
        while (await service.metrics()).total("http_requests_in_flight") < in_flight + 1:
            await asyncio.sleep(0.01)
