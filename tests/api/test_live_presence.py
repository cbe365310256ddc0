"""The states of devices in the live stream: as in listings, and kept right as time passes."""

import random
from functools import partial

import pytest

from api.fleet.presence import PresenceRule
from api.live import group
from tests.support.presence import LISTENED, forget_touches, seen_ago
from tests.support.service import running
from tests.support.sse import live
from tests.support.stored_presence import any_presence

IDLE_AFTER_S = 20


@pytest.fixture(autouse=True)
def fast_ticks(monkeypatch):
    """Ticks come ten times a second."""
    monkeypatch.setattr(group, "TICK_S", 0.1)
    monkeypatch.setattr(group, "_REFRESH_EVERY_S", 0.2)


@pytest.mark.parametrize("enabled", [True, False])
async def test_streams_and_listings_show_the_same_presence(dsn, db, enabled):
    """For whatever may be stored, and whether or not anything watches for silent devices."""
    await db.execute(LISTENED)
    await any_presence(db)
    async with db.transaction():
        await db.execute("SELECT FROM devices FOR UPDATE")  # the watcher changes none meanwhile
        async with running(dsn, presence={"enabled": enabled}) as service:
            for name in ("short", "long", "none"):
                async with live(service.client, service.key, name) as seen:
                    assert seen.hello["presence_enabled"] == enabled
                    listed = await service.listing(name)
                    told = {one["device_id"]: one["presence"] for one in seen.devices.values()}
                    assert told == {one["device_id"]: one["presence"] for one in listed}
                    assert len(set(told.values())) == 4


async def test_states_change_in_the_stream_as_time_passes(dsn, db):
    """No touch says so, nor a change of any member; the time at which it was is sent, too."""
    await db.execute(LISTENED)
    async with running(dsn, presence={"idle_after_s": IDLE_AFTER_S}) as service:
        idle, off = await service.register(name="idle"), await service.register(name="off")
        await forget_touches(service)
        await seen_ago(db, idle, IDLE_AFTER_S - 1)
        await seen_ago(db, off, 29, offline_after_s=30)
        async with live(service.client, service.key) as seen:
            assert seen.named(idle)["presence"] == "online"
            assert seen.named(off)["presence"] == "idle"
            await seen.until(lambda _: seen.named(idle)["presence"] == "idle")
            assert seen.named(idle)["presence_since"] == seen.named(idle)["seen"] + IDLE_AFTER_S
            await seen.until(lambda _: seen.named(off)["presence"] == "offline")
            assert seen.named(off)["presence_since"] == seen.named(off)["seen"] + 30
            await service.heartbeat(off)
            await seen.until(lambda _: seen.named(off)["presence"] == "online")
            assert seen.hellos == 1


async def test_a_changed_time_of_a_group_changes_states(dsn, db):
    """Also where it is not stored whether a device is online."""
    async with running(dsn, presence={"enabled": False}) as service:
        device_id = await service.register()
        await forget_touches(service)
        await db.execute("UPDATE devices SET last_seen_at = now() - interval '10 min'")
        async with live(service.client, service.key) as seen:
            assert seen.named(device_id)["presence"] == "idle"
            await db.execute("INSERT INTO group_settings VALUES ('family', 300)")
            await seen.until(lambda _: seen.named(device_id)["presence"] == "offline")


def test_a_state_lasts_until_the_second_at_which_the_rule_says_that_it_changes():
    """So that not every device has to be evaluated each second."""
    drawn = random.Random(7)
    changed = 0
    for _ in range(2000):
        rule = PresenceRule(
            drawn.choice((3, 9)), drawn.choice((9, 12)), is_watched=drawn.random() < 0.5
        )
        is_online, seen, now = drawn.choice((None, True, False)), 1000, 1000 + drawn.randrange(20)
        after_s = drawn.choice((None, 2, 15))
        state_at = partial(
            *(rule.state, seen),
            is_online=is_online,
            since=drawn.choice((None, 900, 1000, 1005)),
            offline_after_s=after_s,
        )
        before = state_at(now)
        at = rule.changes_at(seen, before[0], is_online=is_online, offline_after_s=after_s)
        assert {state_at(second) for second in range(now, at or now + 100)} == {before}
        if at is not None:
            changed += 1
            assert state_at(at) != before
    assert changed > 200
