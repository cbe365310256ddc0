"""`presence snooze`: what goes offline in maintenance is sent only if it lasts to its end."""

import json

import pytest

from api.webhooks import state_store
from api.webhooks.snoozes import begin_snooze, end_of_snooze, end_snooze
from tests.support.command_line import assert_one_line, invoke
from tests.support.webhooks import (
    a_database,
    delivering,
    emit,
    make,
    receiving,
    until,
    until_column,
)

HELD = "SELECT count(*) FROM webhook_devices WHERE state ? 'held'"


async def test_a_device_that_is_still_offline_when_a_snooze_is_ended_is_sent(dsn, db):
    """At once, although it was to be looked at later; one that has returned is not sent."""
    async with receiving() as receiver, a_database(dsn) as database:
        await make(dsn, receiver.url)
        await begin_snooze(database, "vans", 3600)
        await emit(db, 2, devices=2)
        await emit(db, 1, group="bikes")
        async with delivering(dsn) as deliverer:
            await until(lambda: len(receiver.delivered) == 1)
            assert await db.fetchval(HELD) == 2
            await db.execute("UPDATE event_position SET last = last + 1")
            await emit(db, 1, kind="device.online", devices=2)
            await until(lambda: deliverer.events["dropped"] == 2)
            assert await end_snooze(database, "vans")
            await until(lambda: len(receiver.delivered) == 2)
            await until_column(db, "batch_id IS NULL")
            assert not await end_snooze(database, "vans")
    assert [one["event_id"] for one in receiver.delivered] == ["3", "2"]
    assert await db.fetchval(HELD) == 0


async def test_a_decision_from_before_the_end_of_a_snooze_is_not_stored_after_it(
    dsn, db, monkeypatch
):
    """It would be held back until the snooze should have ended."""
    read = state_store.read_snoozes
    ended = []

    async def read_before_the_end(database, *wanted):
        found = await read(database, *wanted)
        if not ended:
            ended.append(await end_snooze(database, "vans"))
        return found

    monkeypatch.setattr(state_store, "read_snoozes", read_before_the_end)
    async with receiving() as receiver, a_database(dsn) as database:
        await make(dsn, receiver.url)
        await begin_snooze(database, "vans", 3600)
        await emit(db, 1)
        async with delivering(dsn):
            await until(lambda: len(receiver.delivered) == 1)
    assert ended == [True]


@pytest.mark.parametrize(
    ("at", "end"), [(9, 9), (10, 30), (19, 30), (20, 30), (30, 30), (40, 45), (45, 45)]
)
def test_snoozes_that_overlap_or_follow_each_other_are_one(at, end):
    """A time in the first one ends with the last one."""
    assert end_of_snooze([(10, 20), (12, 15), (15, 25), (25, 30), (40, 45)], at) == end


def test_a_group_is_snoozed_listed_and_ended(dsn):
    """With errors in one line."""
    done = invoke("presence", "snooze", "--group", "vans", "--for", "2h", dsn=dsn)
    assert (done.returncode, done.stdout) == (0, "")
    assert "vans until" in done.stderr
    assert "no active devices" in done.stderr
    (one,) = json.loads(invoke("presence", "snoozes", "--json", dsn=dsn).stdout)
    assert (one["group_id"], set(one)) == ("vans", {"group_id", "began_at", "ends_at"})
    assert "vans" in invoke("presence", "snoozes", dsn=dsn).stdout
    assert invoke("presence", "unsnooze", "--group", "vans", dsn=dsn).returncode == 0
    assert_one_line(invoke("presence", "unsnooze", "--group", "vans", dsn=dsn), 1, "not snoozed")
    assert json.loads(invoke("presence", "snoozes", "--json", dsn=dsn).stdout) == []
    wrong = ("presence", "snooze", "--group")
    assert_one_line(invoke(*wrong, "a b", "--for", "2h", dsn=dsn), 2, "--group")
    assert_one_line(invoke(*wrong, "vans", "--for", "31d", dsn=dsn), 2, "--for")
