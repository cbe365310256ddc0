"""Lookups around a change: no result from before it is used, and none undoes it."""

import asyncio

import pytest

from tests.support.lookup_rig import Rig, turn


@pytest.fixture
async def rig():
    rig = Rig()
    yield rig
    await rig.cache.close()


async def test_a_slow_lookup_authorizes_no_revoked_key(rig):
    """Nothing that may have been revoked is served before the database has responded."""
    await rig.cache.get(1)
    del rig.table.rows[1]
    rig.cache.invalidate()
    rig.table.gate.clear()
    waiting = asyncio.create_task(rig.cache.get(1))
    await asyncio.sleep(0.7)
    assert not waiting.done()
    rig.table.gate.set()
    assert await waiting is None


async def test_an_old_failure_authorizes_no_revoked_key(rig):
    """After the database has responded once, lookups wait for it again."""
    await rig.cache.get(1)
    rig.clock.now += 31
    rig.table.away = True
    assert await rig.cache.get(1) == "row 1"
    await turn()
    rig.table.away = False
    del rig.table.rows[1]
    rig.cache.invalidate()
    assert await rig.cache.get(1) == "row 1"  # a failure of just now: not asked at once
    rig.clock.now += 1
    rig.cache.note_available()
    assert await rig.cache.get(1) is None


async def test_after_a_change_entries_are_looked_up_before_use(rig):
    """A revoked key is denied at once; a valid key stays valid."""
    await asyncio.gather(rig.cache.get(1), rig.cache.get(2))
    del rig.table.rows[1]
    rig.clock.now += 1
    rig.cache.invalidate()
    assert rig.cache.cached(1) is rig.cache.cached(2) is None
    assert await rig.cache.get(1) is None
    assert await rig.cache.get(2) == "row 2"
    assert rig.cache.cached(2) == "row 2"


async def test_a_change_right_before_an_outage_denies_no_request(rig):
    """Entries that cannot be looked up again are used, as in any outage."""
    await rig.cache.get(1)
    rig.clock.now += 1
    rig.cache.invalidate()
    rig.table.away = True
    for _ in range(5):
        assert await rig.cache.get(1) == "row 1"


async def test_a_result_from_before_a_change_is_not_used(rig):
    """A lookup that was under way when keys changed may have read the old row."""
    rig.table.gate.clear()
    early = asyncio.create_task(rig.cache.get(1))
    await turn()
    rig.cache.invalidate()
    late = asyncio.create_task(rig.cache.get(1))
    await turn()
    rig.table.gate.set()
    assert await early == await late == "row 1"
    assert rig.table.queries == [[1], [1]]


async def test_a_result_from_before_a_change_is_used_in_an_outage(rig):
    """A key that is first authorized while keys change is cached from then on."""
    rig.table.gate.clear()
    first = asyncio.create_task(rig.cache.get(1))
    unknown = asyncio.create_task(rig.cache.get(5000))
    await turn()
    rig.cache.invalidate()
    rig.table.gate.set()
    assert (await first, await unknown) == ("row 1", None)
    assert rig.cache.cached(1) is None
    rig.table.rows[5000] = "new"
    assert await rig.cache.get(5000) == "new"
    rig.table.away = True
    assert await rig.cache.get(1) == "row 1"


async def test_a_lookup_from_before_a_registration_does_not_undo_it(rig):
    """That a device was unknown is not remembered of one that has just been registered."""
    rig.table.gate.clear()
    early = asyncio.create_task(rig.cache.get(5000))
    await turn()
    rig.cache.put(5000, "new")
    rig.table.gate.set()
    assert await early is None
    assert await rig.cache.get(5000) == "new"


async def test_a_lookup_from_before_a_deactivation_does_not_undo_it(rig):
    """Nor is a device that has just been deactivated remembered as active."""
    rig.table.gate.clear()
    early = asyncio.create_task(rig.cache.get(1))
    await turn()
    rig.cache.discard(1)
    del rig.table.rows[1]
    rig.table.gate.set()
    await early
    assert await rig.cache.get(1) is None
