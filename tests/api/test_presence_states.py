"""The states of devices as responses show them: the same wherever they are computed."""

import asyncio

import pytest

from tests.support.presence import (
    LISTENED,
    PATIENCE_S,
    device,
    forget_touches,
    seen_ago,
    until_event,
)
from tests.support.service import running
from tests.support.sse import live
from tests.support.stored_presence import any_presence


@pytest.fixture
async def service(dsn, db):
    """A service on a database whose processes have listened for long."""
    await db.execute(LISTENED)
    async with running(dsn) as service:
        yield service


async def test_listings_filter_and_groups_count_by_state(service, db):
    """A filter, and counts for each group."""
    names = {"on": 0, "idle": 300, "off": 100}
    ids = {name: await service.register(name=name) for name in names}
    await forget_touches(service)
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform) "
        "VALUES (gen_random_uuid(), 'new', 'family', 'android')"
    )
    await seen_ago(db, ids["idle"], 300, offline_after_s=900)
    await seen_ago(db, ids["off"], 300)
    await until_event(service, ids["off"], "device.offline")
    wanted = {"online": ["on"], "idle": ["idle"], "offline": ["off"], "never": ["new"]}
    for presence, expected in wanted.items():
        path = f"/api/v1/devices?group_id=family&presence={presence}"
        async with await service.call("GET", path) as answer:
            found = (await answer.json())["devices"]
        assert [one["display_name"] for one in found] == expected
        assert [one["presence"] for one in found] == [presence]
    async with await service.call("GET", "/api/v1/groups") as answer:
        (group,) = (await answer.json())["groups"]
    assert group["presence"] == {"online": 1, "idle": 1, "offline": 1, "never": 1}
    async with await service.call("GET", "/api/v1/devices?group_id=family&presence=x") as answer:
        assert answer.status == 400
        message = (await answer.json())["message"]
    assert message.endswith("at `presence`; its values are idle, never, offline, online")


async def test_presence_that_is_off_stores_no_offline_event(dsn, db):
    """States are computed from the last activity, whatever is stored."""
    await db.execute(LISTENED)
    async with running(dsn, presence={"enabled": False}) as service:
        assert "presence" not in {task.get_name() for task in asyncio.all_tasks()}
        device_id = await service.register()
        await forget_touches(service)
        await db.execute("UPDATE devices SET last_seen_at = now() - interval '1 h'")
        assert (await device(service, device_id))["presence"] == "offline"
        await db.execute("UPDATE devices SET last_seen_at = now(), is_online = false")
        assert (await device(service, device_id))["presence"] == "online"


async def test_touches_of_devices_that_stay_online_are_hot(service, db):
    """Nothing that a touch writes is indexed, and the trigger changes nothing else."""
    ids = [await service.register(name=f"d{n}") for n in range(50)]
    await forget_touches(service)
    updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'devices'"
    before = await db.fetchrow(updates)
    for _ in range(4):
        await db.execute("UPDATE devices SET last_seen_at = last_seen_at + interval '1 s'")
    async with asyncio.timeout(PATIENCE_S):
        while (after := await db.fetchrow(updates))[0] < before[0] + 4 * len(ids):
            await asyncio.sleep(0.1)  # the server counts with a delay
    made, hot = (now - then for now, then in zip(after, before, strict=True))
    assert hot >= 0.99 * made


@pytest.mark.parametrize("seen", ["-infinity", "infinity"])
async def test_a_device_that_was_stored_with_an_infinite_time_was_never_seen(service, db, seen):
    """Another program wrote it; its group is listed and watched all the same."""
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform, last_seen_at) "
        "VALUES (gen_random_uuid(), 'odd', 'family', 'android', $1::text::timestamptz)",
        seen,
    )
    (listed,) = await service.listing("family")
    assert (listed["presence"], listed["presence_since"]) == ("never", None)
    async with await service.call("GET", "/api/v1/groups") as answer:
        assert (await answer.json())["groups"][0]["presence"]["never"] == 1
    async with live(service.client, service.key) as stream:
        (shown,) = stream.devices.values()
        assert (shown["presence"], shown["presence_since"]) == ("never", None)


async def test_groups_and_listings_show_the_same_presence(dsn, db):
    """One counts in SQL, the other device by device: the same, for whatever may be stored."""
    await db.execute(LISTENED)
    await any_presence(db)
    async with db.transaction():
        await db.execute("SELECT FROM devices FOR UPDATE")  # the watcher changes none meanwhile
        for enabled in (True, False):
            async with running(dsn, presence={"enabled": enabled}) as service:
                async with await service.call("GET", "/api/v1/groups") as answer:
                    groups = (await answer.json())["groups"]
                for group in groups:
                    counted = dict.fromkeys(group["presence"], 0)
                    for one in await service.listing(group["group_id"]):
                        counted[one["presence"]] += 1
                    assert counted == group["presence"]
                    assert min(counted.values()) > 0


async def test_a_device_that_is_registered_again_is_online_in_the_response(service, db):
    """In the second in which it was deactivated, too; what is stored is the same."""
    device_id = await service.register()
    silent = (
        "is_online = false, presence_since = date_trunc('second', now()) - interval '1 min', "
        "last_seen_at = date_trunc('second', now()) - interval '1 h'"
    )
    for offline in ("is_active = false", silent):
        await db.execute(f"UPDATE devices SET {offline}")
        body = {"device_id": device_id, "display_name": "Phone", "group_id": "family"}
        async with await service.call("POST", "/api/v1/devices/register", json=body) as answer:
            shown = await answer.json()
        assert (shown["presence"], shown["presence_since"]) == ("online", shown["last_seen_at"])
    assert await db.fetchval("SELECT presence_since FROM devices WHERE is_online IS NOT FALSE")


async def test_no_trigger_runs_before_a_touch(db):
    """Postgres would lock each row first: a fifth more time and half as much WAL again."""
    before = "tgrelid = 'devices'::regclass AND tgtype & 2 > 0 AND tgtype & 16 > 0"
    assert await db.fetch(f"SELECT tgname FROM pg_trigger WHERE {before}") == []
