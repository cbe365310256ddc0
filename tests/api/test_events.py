"""Events are read in order, without a gap, and only by authorized API keys."""

import asyncio
import json
import uuid

import asyncpg
import pytest

from api.events.log import read_events, remove_old
from api.postgres.database import open_database
from tests.support.service import running
from tests.support.webhooks import a_database, emit

PATIENCE_S = 30


async def page(service, key: str | None = None, **query: object) -> tuple[list[dict], str]:
    """Return a page of events, and the cursor of the next."""
    async with await service.call("GET", "/api/v1/events", params=query, key=key) as response:
        assert response.status == 200, await response.text()
        found = await response.json()
    return found["events"], found["next_cursor"]


async def move(connection: asyncpg.Connection, device_id: str, group_id: str) -> None:
    """Make an event by hand."""
    await connection.execute(
        "UPDATE devices SET group_id = $2 WHERE device_id = $1", uuid.UUID(device_id), group_id
    )


async def test_an_event_that_commits_late_is_not_skipped(service, db, dsn):
    """A transaction that began first commits last; a reader that is further on sees it then."""
    early, late = await service.register(), await service.register()
    slow = await asyncpg.connect(dsn)
    try:
        transaction = slow.transaction()
        await transaction.start()
        await move(slow, late, "late")
        await move(db, early, "early")
        cursor, seen = "0", []
        async with asyncio.timeout(PATIENCE_S):
            while not any(one["type"] == "device.moved" for one in seen):
                found, cursor = await page(service, after=cursor)
                seen += found
        await transaction.commit()
        async with asyncio.timeout(PATIENCE_S):
            while sum(one["type"] == "device.moved" for one in seen) < 2:
                found, cursor = await page(service, after=cursor)
                seen += found
    finally:
        await slow.close()
    assert [one["group_id"] for one in seen if one["type"] == "device.moved"] == ["early", "late"]
    assert [int(one["event_id"]) for one in seen] == list(range(1, len(seen) + 1))


async def test_readers_beside_many_writers_miss_nothing(service, db, dsn):
    """Overlapping transactions of random length, while a client pages through."""
    ids = [await service.register(name=f"d{n}") for n in range(10)]
    connections = [await asyncpg.connect(dsn) for _ in range(5)]
    rounds = 12

    async def write(number: int, connection: asyncpg.Connection) -> None:
        for turn in range(rounds):
            async with connection.transaction():
                for device_id in ids[number * 2 : number * 2 + 2]:
                    await move(connection, device_id, f"g{number}-{turn}")
                    await asyncio.sleep(0.001 * ((turn * 7 + number * 3) % 11))

    writing = asyncio.gather(*(write(n, one) for n, one in enumerate(connections)))
    cursor, seen = "0", []
    async with asyncio.timeout(PATIENCE_S):
        while len(seen) < len(ids) * (rounds + 1):
            found, cursor = await page(service, after=cursor, limit=7, wait_s=1)
            seen += found
        await writing
    for connection in connections:
        await connection.close()
    assert (await page(service, after=cursor))[0] == []
    for device_id in ids:
        own = [one["seq"] for one in seen if one["device_id"] == device_id]
        assert own == list(range(1, rounds + 2))


async def test_an_event_that_is_stored_while_a_page_is_read_is_on_the_next_one(dsn, db):
    """The cursor is that of before, even if the page could have had more."""
    async with a_database(dsn) as database:

        class Meanwhile:
            async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
                rows = await database.fetch(statement, *arguments)
                await emit(db, 1)
                return rows

        await emit(db, 1)
        first = await read_events(Meanwhile(), after=0, limit=10)
        second = await read_events(database, after=int(first.next_cursor), limit=10)
    assert [event.event_id for event in first.events + second.events] == ["1", "2", "3"]


async def test_a_request_waits_for_the_next_event(service):
    """It answers as soon as there is one, of its group; and with nothing when its time is over."""
    await service.register()
    _, cursor = await page(service, wait_s=5)
    assert cursor != "0"
    waiting = asyncio.create_task(page(service, after=cursor, wait_s=30, group_id="work"))
    await service.register()  # of another group
    device_id = await service.register("work")
    async with asyncio.timeout(PATIENCE_S):
        (found,), _ = await waiting
    assert (found["device_id"], found["type"]) == (device_id, "device.registered")
    found, cursor = await page(service, after=cursor, group_id="nobody", wait_s=1)
    assert found == []


async def test_a_key_of_one_group_reads_its_events_alone(service):
    """Another group's events are not there for it, whatever it asks for."""
    own, other = await service.register("own-group"), await service.register("other-group")
    key = await service.make_key("own-group")
    async with asyncio.timeout(PATIENCE_S):
        while len((await page(service))[0]) < 2:
            await asyncio.sleep(0.05)
    assert [one["device_id"] for one in (await page(service, key))[0]] == [own]
    assert (await page(service, key, group_id="other-group"))[0] == []
    assert (await page(service, key, device_id=other))[0] == []
    async with service.client.get("/api/v1/events") as response:
        assert response.status == 401


async def test_a_cursor_that_is_too_old_gets_410_with_the_oldest_position(service, db):
    """As is one of another database, which is ahead of this one."""
    for n in range(3):
        await service.register(name=f"d{n}")
    async with asyncio.timeout(PATIENCE_S):
        while len((await page(service))[0]) < 3:
            await asyncio.sleep(0.05)
    await db.execute(
        "DELETE FROM device_events WHERE position <= 2; UPDATE event_position SET removed = 2"
    )
    for wrong, begin in (("0", 2), ("1", 2), ("99", 3)):
        path = f"/api/v1/events?after={wrong}"
        async with await service.call("GET", path) as response:
            assert response.status == 410
            error = await response.json()
        assert error["error"] == "cursor_too_old"
        assert error["message"].endswith(f"begin with after={begin}")
    assert len((await page(service, after="2"))[0]) == 1
    assert len((await page(service))[0]) == 1  # without a cursor: the oldest that is kept
    for malformed in ("-1", "x", "1.5", "9" * 19):
        async with await service.call("GET", f"/api/v1/events?after={malformed}") as response:
            assert response.status == 400


async def test_old_events_are_removed(dsn, db):
    """Those past events.keep_days, and no others."""
    async with running(dsn) as service:
        for n in range(4):
            await service.register(name=f"d{n}")
        async with asyncio.timeout(PATIENCE_S):
            while len((await page(service))[0]) < 4:
                await asyncio.sleep(0.05)
        await db.execute(
            "UPDATE device_events SET stored_at = now() - interval '40 days' WHERE position <= 3"
        )
        async with open_database(dsn, service.settings.database, connections=1) as database:
            assert await remove_old(database, keep_days=50) == 0
            assert await remove_old(database, keep_days=30) == 3
            assert await remove_old(database, keep_days=30) == 0
        assert [one["event_id"] for one in (await page(service))[0]] == ["4"]
        assert await db.fetchval("SELECT removed FROM event_position") == 3


async def messages(answer, count: int) -> list[tuple[str, str, dict]]:
    """Read so many events from a stream."""
    found: list[tuple[str, str, dict]] = []
    fields: dict[str, str] = {}
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            line = (await answer.content.readline()).decode().rstrip("\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                found.append((fields["id"], fields["event"], json.loads(fields["data"])))
                fields = {}
    return found


async def test_a_stream_continues_after_the_last_event_id(service):
    """With the id of the last event that a client has, as browsers send it."""
    headers = {"X-API-Key": service.key}
    first = await service.register()
    async with service.client.get("/api/v1/events/stream", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        ((event_id, name, data),) = await messages(response, 1)
        assert (name, data["device_id"], data["event_id"]) == (
            "device.registered",
            first,
            event_id,
        )
        second = await service.register()  # while it is read
        ((_, _, data),) = await messages(response, 1)
        assert data["device_id"] == second
    third = await service.register()
    headers["Last-Event-ID"] = event_id
    async with service.client.get("/api/v1/events/stream", headers=headers) as response:
        found = await messages(response, 2)
    assert [data["device_id"] for *_, data in found] == [second, third]


@pytest.mark.parametrize("wrong", ["x", "-1"])
async def test_a_wrong_last_event_id_is_rejected(service, wrong):
    """Before the stream begins."""
    headers = {"X-API-Key": service.key, "Last-Event-ID": wrong}
    async with service.client.get("/api/v1/events/stream", headers=headers) as response:
        assert response.status == 400


async def test_a_revoked_key_ends_its_stream(service, db):
    """Within a second or two."""
    key = await service.make_key()
    headers = {"X-API-Key": key}
    async with service.client.get("/api/v1/events/stream", headers=headers) as response:
        assert response.status == 200
        await db.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE id = (SELECT max(id) FROM api_keys)"
        )
        async with asyncio.timeout(PATIENCE_S):
            while await response.content.readany():
                pass
