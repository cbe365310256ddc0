"""The states of devices as responses show them: the same wherever they are judged."""

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


@pytest.fixture
async def service(dsn, db):
    """A service on a database whose processes have listened for long."""
    await db.execute(LISTENED)
    async with running(dsn) as service:
        yield service


async def test_listings_and_groups_tell_states_apart(service, db):
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


async def test_presence_that_is_off_watches_nobody(dsn, db):
    """Devices are judged by when they were seen, whatever is stored."""
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


async def test_groups_and_listings_judge_alike(dsn, db):
    """One counts in SQL, the other device by device: the same, for whatever may be stored."""
    await db.execute(LISTENED)
    await db.execute(
        "INSERT INTO group_settings (group_id, offline_after_s) "
        "VALUES ('short', 60), ('long', 7200)"
    )
    await db.execute(
        "INSERT INTO devices (device_id, display_name, group_id, platform, offline_after_s) "
        "SELECT gen_random_uuid(), 'Phone', "
        "(ARRAY['short', 'long', 'none'])[1 + n % 3], 'android', "
        "(ARRAY[NULL, 40, 3000])[1 + n % 7 % 3] "
        "FROM generate_series(1, 600) AS n"
    )
    await db.execute("ALTER TABLE devices DISABLE TRIGGER presence_changes")
    await db.execute(
        "UPDATE devices SET last_seen_at = CASE WHEN random() < 0.1 THEN NULL ELSE "
        "date_trunc('second', now()) - make_interval(secs => "
        "  (ARRAY[5, 45, 90, 200, 1000, 5000, 9000])[1 + floor(random() * 7)::int]) END, "
        "is_online = (ARRAY[true, false, NULL])[1 + floor(random() * 3)::int]"
    )
    await db.execute(
        "UPDATE devices SET presence_since = last_seen_at + make_interval(secs => "
        "  (ARRAY[-100, 0, 20])[1 + floor(random() * 3)::int])"
    )
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
