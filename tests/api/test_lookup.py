"""Cached lookups: fresh entries cost no query, misses share one, an outage is bridged."""

import asyncio

import pytest
from structlog.testing import capture_logs

from api.access import lookup
from api.logs import REQUEST_ID
from tests.support.lookup_rig import SETTINGS, Rig, counts, turn
from tracker import StoreUnavailable


@pytest.fixture
async def rig():
    rig = Rig()
    yield rig
    await rig.cache.close()


async def test_a_known_row_is_queried_once(rig):
    """Until its refresh time an entry costs the table nothing."""
    assert rig.cache.cached(1) is None
    assert await rig.cache.get(1) == "row 1"
    rig.clock.now += 29
    assert rig.cache.cached(1) == "row 1"
    assert await rig.cache.get(1) == "row 1"
    assert rig.table.queries == [[1]]


async def test_concurrent_misses_share_one_lookup(rig):
    """Many misses become one query, for one key and for many."""
    rig.table.gate.clear()
    waiting = [asyncio.create_task(rig.cache.get(key)) for key in (1, 1, 1)]
    await turn()
    waiting += [asyncio.create_task(rig.cache.get(key)) for key in (1, 2, 3, 2, 3, 9999)]
    await turn()
    rig.table.gate.set()
    rows = await asyncio.gather(*waiting)
    assert rows == ["row 1"] * 4 + ["row 2", "row 3", "row 2", "row 3", None]
    assert rig.table.queries == [[1], [2, 3, 9999]]


async def test_an_old_entry_is_served_at_once_and_refreshed_in_the_background(rig):
    """Past its refresh time no request waits, and the change is seen soon."""
    await rig.cache.get(1)
    rig.table.rows[1] = "changed"
    rig.clock.now += 31
    assert await rig.cache.get(1) == "row 1"
    await turn()
    assert await rig.cache.get(1) == "changed"
    assert rig.table.queries == [[1], [1]]


async def test_a_much_older_entry_waits_briefly(rig):
    """When the database hangs, a device that was idle is not kept waiting for it."""
    await rig.cache.get(1)
    rig.clock.now += 61
    rig.table.gate.clear()
    async with asyncio.timeout(10):
        assert await rig.cache.get(1) == "row 1"
    rig.table.gate.set()


async def test_no_slow_lookup_extends_how_long_an_entry_is_served(rig):
    """A device that was moved is served for three times the refresh time, and then never again."""
    await rig.cache.get(1)
    rig.table.rows[1] = "moved"
    rig.table.gate.clear()
    rig.clock.now += 89
    assert await rig.cache.get(1) == "row 1"
    rig.clock.now += 1
    waiting = asyncio.create_task(rig.cache.get(1))
    await asyncio.sleep(2 * lookup._REFRESH_WAIT_S)
    assert not waiting.done()
    rig.table.gate.set()
    assert await waiting == "moved"


async def test_an_entry_is_as_old_as_its_query(rig):
    """The row is what the database had when it was asked, however late it responds."""
    rig.table.gate.clear()
    first = asyncio.create_task(rig.cache.get(1))
    await turn()
    rig.clock.now += 29
    rig.table.gate.set()
    assert await first == "row 1"
    assert rig.cache.cached(1) == "row 1"
    rig.clock.now += 1
    assert rig.cache.cached(1) is None


async def test_a_much_older_entry_waits_for_the_table(rig):
    """A device that was idle for long is looked up before it is served."""
    await rig.cache.get(1)
    del rig.table.rows[1]
    rig.clock.now += 61
    assert await rig.cache.get(1) is None


async def test_entries_are_served_in_an_outage_up_to_the_stale_limit(rig):
    """Cached keys are authorized while the database is unavailable, for 15 minutes."""
    await rig.cache.get(1)
    rig.table.away = True
    for _ in range(14):
        rig.clock.now += 60
        assert await rig.cache.get(1) == "row 1"
        await turn()
    rig.clock.now += 61
    with pytest.raises(StoreUnavailable):
        await rig.cache.get(1)


async def test_during_an_outage_misses_fail_at_once_and_the_table_is_tried_twice_a_second(rig):
    """No request waits for an unavailable database, and it gets few queries."""
    rig.table.away = True
    with capture_logs() as logs:
        for _ in range(100):
            for key in (1, 2):
                with pytest.raises(StoreUnavailable):
                    await rig.cache.get(key)
            rig.clock.now += 0.1
    assert 15 <= len(rig.table.queries) <= 21
    assert [entry["event"] for entry in logs] == ["lookup.failed"]
    rig.table.away = False
    rig.clock.now += 1
    assert await rig.cache.get(1) == "row 1"


async def test_unknown_keys_are_remembered_briefly_and_in_bounded_number(rig):
    """Wrong keys cost a query now and then, and no memory."""
    for _ in range(3):
        assert await rig.cache.get(5000) is None
    assert len(rig.table.queries) == 1
    rig.clock.now += 3
    await rig.cache.get(5000)
    assert len(rig.table.queries) == 2
    await asyncio.gather(*(rig.cache.get(key) for key in range(6000, 6040)))
    assert len(rig.cache._negative) <= SETTINGS.negative_cache_size


async def test_wrong_keys_evict_no_valid_ones(rig):
    """A flood of wrong keys does not make valid ones miss."""
    await rig.cache.get(1)
    for first in range(2000, 2200, 50):
        await asyncio.gather(*(rig.cache.get(key) for key in range(first, first + 50)))
    assert rig.cache.cached(1) == "row 1"


async def test_a_bounded_number_of_misses_wait(rig):
    """More keys than may wait are turned away at once."""
    rig.table.gate.clear()
    waiting = [asyncio.create_task(rig.cache.get(2000 + key)) for key in range(80)]
    await turn()
    turned_away = [task for task in waiting if task.done()]
    assert len(turned_away) == 80 - SETTINGS.max_waiting
    assert all(isinstance(task.exception(), StoreUnavailable) for task in turned_away)
    rig.table.gate.set()
    await asyncio.wait(waiting)


async def test_keys_that_are_not_cached_wait_after_a_miss_and_share_a_query(rig, monkeypatch):
    """However many wrong keys come one by one, the table is asked a few times a second."""
    monkeypatch.setattr("api.access.queries.PAUSE_S", 0.5)  # longer than the loop below may take
    await rig.cache.get(2000)
    waiting = []
    for key in range(2001, 2041):
        waiting.append(asyncio.create_task(rig.cache.get(key)))
        await turn()
    assert rig.table.queries == [[2000]]
    assert await asyncio.gather(*waiting) == [None] * 40
    assert rig.table.queries == [[2000], list(range(2001, 2041))]


async def test_unknown_keys_that_exist_are_not_delayed(rig):
    """After a restart no key is cached, and none is kept waiting."""
    for key in range(20):
        assert await rig.cache.get(key) == f"row {key}"
    assert rig.cache._queries._pause is None


async def test_cached_keys_are_looked_up_first_and_in_spite_of_a_flood(rig):
    """A revoked key can't be kept alive by asking for more unknown ones than may wait."""
    await asyncio.gather(rig.cache.get(1), rig.cache.get(2))
    await rig.cache.get(2000)  # keys that are not cached pause
    flood = [asyncio.create_task(rig.cache.get(2001 + key)) for key in range(60)]
    await turn()
    assert sum(task.done() for task in flood) == 60 - SETTINGS.max_waiting
    del rig.table.rows[1]
    rig.clock.now += 1
    rig.cache.invalidate()
    assert await rig.cache.get(1) is None
    assert await rig.cache.get(2) == "row 2"
    assert rig.table.queries[-2:] == [[1], [2]]
    await asyncio.wait(flood)


async def test_close_ends_all_waiting_lookups():
    """Keys that are paused are cancelled like lookups that are under way."""
    rig = Rig()
    await rig.cache.get(2000)
    waiting = asyncio.create_task(rig.cache.get(2001))
    await turn()
    await rig.cache.close()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()


async def test_log_lines_of_a_lookup_have_no_request_id(rig):
    """The worker serves many requests, so its log lines carry no request's id."""
    ids = []

    async def load(_keys):
        ids.append(REQUEST_ID.get(None))
        return {}

    rig.cache._queries._load = load
    token = REQUEST_ID.set("somebody")
    await rig.cache.get(1)
    REQUEST_ID.reset(token)
    assert ids == [None]


async def test_a_cancelled_request_cancels_no_other_lookup(rig):
    """A shared lookup continues if the request that began it is cancelled."""
    rig.table.gate.clear()
    first = asyncio.create_task(rig.cache.get(1))
    second = asyncio.create_task(rig.cache.get(1))
    await turn()
    first.cancel()
    await turn()
    rig.table.gate.set()
    assert await second == "row 1"
    assert first.cancelled()


async def test_a_crash_of_a_lookup_ends_all_that_wait_for_it(rig):
    """All of them get the error, and the next lookup starts a new query."""
    rows, rig.table.rows = rig.table.rows, None
    with capture_logs() as logs, pytest.raises(StoreUnavailable):
        await rig.cache.get(1)
    assert [entry["event"] for entry in logs] == ["lookup.failed", "lookup.crashed"]
    rig.table.rows = rows
    rig.clock.now += 1
    assert await rig.cache.get(1) == "row 1"


async def test_a_response_from_memory_is_a_hit_and_one_from_the_table_a_miss(rig):
    """Known and fresh, known and old, known not to exist: hits; everything else is a query."""
    assert (await rig.cache.get(1), counts(rig)) == ("row 1", (0, 1))
    assert (rig.cache.cached(1), counts(rig)) == ("row 1", (1, 1))
    assert (await rig.cache.get(1), counts(rig)) == ("row 1", (2, 1))
    assert (await rig.cache.get(-1), counts(rig)) == (None, (2, 2))
    assert (await rig.cache.get(-1), counts(rig)) == (None, (3, 2))
    rig.clock.now += 31
    assert (rig.cache.cached(1), counts(rig)) == (None, (3, 2))
    assert (await rig.cache.get(1), counts(rig)) == ("row 1", (4, 2))
    rig.clock.now += 61
    assert (await rig.cache.get(1), counts(rig)) == ("row 1", (4, 3))


async def test_a_lookup_that_fails_is_a_miss(rig):
    """Also one that is not even tried, as the database has just been away."""
    rig.table.away = True
    for misses in (1, 2):
        with pytest.raises(StoreUnavailable):
            await rig.cache.get(1)
        assert counts(rig) == (0, misses)
    assert rig.table.queries == [[1]]
