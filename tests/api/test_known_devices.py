"""All active devices are known in memory: from the start, in every process, and in an outage."""

import asyncio
import time
import uuid

import asyncpg
import pytest
from structlog.testing import capture_logs

from api.access.directory import DeviceDirectory
from api.access.known_file import KnownFile
from api.access.lookup import CachedLookup
from api.config import AuthSettings
from api.postgres.database import Database
from tests.support.service import Service, running
from tracker import StoreUnavailable


async def add(db, count: int, group_id: str = "family") -> list[str]:
    rows = await db.fetch(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "SELECT gen_random_uuid(), 'Phone ' || n, $2, 'android' FROM generate_series(1, $1) n "
        "RETURNING device_id::text",
        count,
        group_id,
    )
    return [row[0] for row in rows]


async def misses(service: Service) -> float:
    metrics = await service.metrics()
    return sum(
        metrics.total("auth_cache_misses_total", cache=cache)
        for cache in ("devices", "devices_of_group")
    )


async def becomes(service: Service, device_id: str, status: int, **options: str) -> None:
    """Wait until a heartbeat has this status."""
    async with asyncio.timeout(10):
        while (await service.heartbeat(device_id, **options)).status != status:
            await asyncio.sleep(0.01)


async def test_devices_are_known_from_the_start_and_none_is_looked_up(dsn, db):
    """More than a slice of them, of a key of all groups and of a key of one."""
    devices = await add(db, 7000)
    await db.execute("UPDATE devices SET is_active = false WHERE device_id = $1", devices[0])
    async with running(dsn) as service:
        await service.devices_are_known()
        of_group = await service.make_key("family")
        for device_id in devices[1::700]:
            assert (await service.heartbeat(device_id)).status == 204
            assert (await service.heartbeat(device_id, key=of_group)).status == 204
        assert await misses(service) == 0
        assert (await service.heartbeat(devices[0])).status == 404


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("UPDATE devices SET group_id = 'work'", 404),
        ("UPDATE devices SET is_active = false", 404),
        ("DELETE FROM devices", 404),
        ("TRUNCATE devices CASCADE", 404),
        ("UPDATE devices SET display_name = 'other', last_seen_at = now()", 204),
    ],
)
async def test_changes_by_other_processes_and_by_sql_are_followed(dsn, db, statement, status):
    """By SQL, by another process: within a second, as keys are; a touch is no change."""
    (device_id,) = await add(db, 1)
    async with running(dsn) as service:
        of_group = await service.make_key("family")
        await service.devices_are_known()
        assert (await service.heartbeat(device_id, key=of_group)).status == 204
        await db.execute(statement)
        await becomes(service, device_id, status, key=of_group)
        assert await db.fetchval("SELECT count(*) FROM device_changes") == (
            1 if status == 204 else 2
        )


async def test_a_change_that_commits_late_is_not_missed(dsn, db, service):
    """Its transaction is older than those that were followed before it was over."""
    first, second = await add(db, 2)
    await service.devices_are_known()
    of_group = await service.make_key("family")
    late = await asyncpg.connect(dsn)
    transaction = late.transaction()
    await transaction.start()
    await late.execute("UPDATE devices SET group_id = 'work' WHERE device_id = $1", first)
    await db.execute("UPDATE devices SET group_id = 'work' WHERE device_id = $1", second)
    await becomes(service, second, 404, key=of_group)
    assert (await service.heartbeat(first, key=of_group)).status == 204
    await transaction.commit()
    await becomes(service, first, 404, key=of_group)
    await late.close()


async def test_the_file_is_for_its_owner_and_for_its_database_alone(dsn, db, tmp_path):
    """It contains no key and no name; a file that other users may write to is not read."""
    file = tmp_path / "known"
    async with running(dsn) as service:
        device_id = await service.register(name="Telltale")
        await service.devices_are_known()
        await service.heartbeat(device_id)
    content = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert uuid.UUID(device_id).bytes in content
    for secret in (service.key, "Telltale"):
        assert secret.encode() not in content
    known_file = KnownFile(file, dsn)
    assert device_id in (await known_file.load(60)).groups
    assert await KnownFile(file, f"{dsn}x").load(60) is None
    file.chmod(0o622)
    with capture_logs() as logs:
        assert await known_file.load(60) is None
    assert [line["event"] for line in logs] == ["directory.file_unusable"]
    file.chmod(0o600)
    file.write_bytes(content[:-5])
    with capture_logs() as logs:
        assert await known_file.load(60) is None
    assert [line["event"] for line in logs] == ["directory.file_unusable"]


async def test_devices_beyond_the_capacity_are_looked_up(dsn, db):
    """None is rejected because the memory is full."""
    devices = await add(db, 20)
    async with running(dsn, auth={"known_devices": 10}) as service:
        async with asyncio.timeout(10):
            while (await service.metrics()).total("auth_known_devices") != 10:
                await asyncio.sleep(0.01)
        for device_id in devices:
            assert (await service.heartbeat(device_id)).status == 204
        assert await misses(service) == 10


async def test_without_the_feed_devices_are_looked_up_as_before(dsn, db, service):
    """If changes cannot be read, a device that was moved must not be served for minutes."""
    (device_id,) = await add(db, 1)
    await service.devices_are_known()
    with capture_logs() as logs:
        await db.execute("ALTER TABLE device_changes RENAME TO elsewhere")
        await db.execute("ALTER TABLE devices DISABLE TRIGGER ALL")
        async with asyncio.timeout(10):
            while await misses(service) == 0:
                assert (await service.heartbeat(device_id)).status == 204
        await db.execute("ALTER TABLE elsewhere RENAME TO device_changes")
        async with asyncio.timeout(10):
            while "directory.healthy" not in [line["event"] for line in logs]:
                await asyncio.sleep(0.01)
    events = [line["event"] for line in logs if line["event"].startswith("directory")]
    assert events == ["directory.failed", "directory.healthy"]


def test_a_directory_is_used_only_while_it_is_current():
    """It keeps what it has, to be used again."""
    directory = DeviceDirectory(2)
    directory.replace({"a": "one"})
    assert directory.group_of("a") is None
    directory.use(current=True)
    directory.put("b", "two")
    directory.put("c", "three")  # no room
    assert [directory.group_of(device) for device in "abc"] == ["one", "two", None]
    directory.put("a", "two")
    directory.discard("b")
    directory.use(current=False)
    assert directory.group_of("a") is None
    directory.use(current=True)
    assert [directory.group_of(device) for device in "ab"] == ["two", None]
    assert (directory.hits, directory.misses) == (3, 4)


async def test_all_devices_are_loaded_again_after_an_outage(dsn, db, service, monkeypatch):
    """A replica that takes over may lack the last changes, and the notes of them."""
    lost, kept = await add(db, 2)
    await service.devices_are_known()
    fetch = Database.fetch

    async def away(*_arguments: object, **_options: object) -> None:
        raise StoreUnavailable("it is away")

    await service.keys_are_known()
    with capture_logs() as logs:
        monkeypatch.setattr(Database, "fetch", away)
        async with asyncio.timeout(20):
            while "directory.failed" not in [line["event"] for line in logs]:
                await asyncio.sleep(0.01)
            feed_failed_for_s = time.monotonic() + 2
            while time.monotonic() < feed_failed_for_s:
                response = await service.heartbeat(lost)
                assert response.status == 204, (await response.text(), logs)
        await db.execute("ALTER TABLE devices DISABLE TRIGGER ALL")
        await db.execute("DELETE FROM devices WHERE device_id = $1", lost)
        monkeypatch.setattr(Database, "fetch", fetch)
        await becomes(service, lost, 404)
        assert (await service.heartbeat(kept)).status == 204


async def test_an_api_key_that_no_request_has_used_is_known_in_an_outage(service, monkeypatch):
    """Made before or after the start: all are loaded again when one is made or revoked."""
    device_id = await service.register()
    await service.devices_are_known()
    service.key = await service.make_key()
    await service.keys_are_known()

    async def away(*_arguments: object, **_options: object) -> None:
        raise StoreUnavailable("it is away")

    with capture_logs():
        monkeypatch.setattr(Database, "fetch", away)
        assert (await service.heartbeat(device_id)).status == 204


async def test_a_key_that_is_revoked_while_keys_are_loaded_stays_revoked():
    """What was read before the cache was invalidated is read again before use."""
    lookup: CachedLookup[str, str] = CachedLookup(
        "keys", lambda _: asyncio.sleep(0, {}), AuthSettings()
    )
    generation = lookup.generation
    lookup.invalidate()
    lookup.put_read("key", "valid", generation=generation)
    assert lookup.cached("key") is None
    assert await lookup.get("key") is None
    lookup.put("key", "newer")
    lookup.put_read("key", "older", generation=lookup.generation, age_s=1)
    assert lookup.cached("key") == "newer"
    await lookup.close()


async def test_devices_are_served_while_their_table_cannot_be_read(db, service):
    """They can be neither followed nor looked up, and are as they were; another group's are not."""
    mine, theirs = await service.register("family"), await service.register("theirs")
    of_group = await service.make_key("family")
    await service.devices_are_known()
    await service.heartbeat(mine, key=of_group)
    with capture_logs() as logs:
        await db.execute("ALTER TABLE devices RENAME TO elsewhere")
        await db.execute("DELETE FROM elsewhere")  # a change, so that the feed reads the table
        async with asyncio.timeout(10):
            while "directory.failed" not in [line["event"] for line in logs]:
                assert (await service.heartbeat(mine)).status == 204
        for _ in range(5):
            assert (await service.heartbeat(mine)).status == 204
            assert (await service.heartbeat(theirs)).status == 204
            assert (await service.heartbeat(mine, key=of_group)).status == 204
            assert (await service.heartbeat(theirs, key=of_group)).status == 503
        await db.execute("ALTER TABLE elsewhere RENAME TO devices")
