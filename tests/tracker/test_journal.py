"""The journal of one buffer: at every moment it holds what is pending, and it stays short."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.memory_journal import ROOM, JournalRig, running_rig
from tests.support.stores import always_raising, raising
from tracker import StoreUnavailable
from tracker._journal.format import SEGMENT_BYTES
from tracker._journal.journal import MIN_SEGMENTS, Journal


@pytest.fixture
async def rig() -> AsyncIterator[JournalRig]:
    async with running_rig() as rig:
        yield rig


async def test_every_change_is_in_the_journal_before_touch_returns(rig):
    """A new key, a later second; what changes nothing is not written again."""
    for step in (0, 0, 1, 1, -5):
        rig.clock.now += step
        rig.touch(7)
        assert rig.disk.found() == {"7": int(rig.buffer.view().get(7))}
    (segment,) = (one for one in rig.disk.segments.values() if any(one.memory))
    assert segment.memory.count(b"7") == 3


async def test_touches_from_before_the_start_are_in_the_journal():
    """Touches may come before the tracker runs."""
    rig = JournalRig()
    rig.journal = Journal("things", rig.disk, max_segments=64)
    rig.touch(1, 2)
    await rig.journal.open()
    rig.buffer.attach(rig.journal)
    assert set(rig.disk.found()) == {"1", "2"}


async def test_a_full_segment_is_followed_by_a_spare_one(rig):
    """No touch waits for a file."""
    for key in range(ROOM * 3):
        rig.touch(100 + key)
        assert rig.covered()
    await rig.tidied()
    for key in range(ROOM * 2):
        rig.touch(200 + key)
        assert rig.covered()
    assert not rig.journal.degraded


async def test_a_commit_frees_what_was_written_before_the_drain(rig):
    """What came during the flush stays; the log does not grow with the touches."""
    for round_ in range(20):
        rig.touch(*range(round_ * 10, round_ * 10 + 10))
        rig.store.before = lambda: rig.touch(9999)
        await rig.flush()
        assert rig.covered()
        await rig.tidied()
        assert len(rig.disk.segments) <= 6
    assert len(rig.disk.segments) * SEGMENT_BYTES == rig.journal.size_bytes


async def test_a_failed_flush_keeps_every_touch_in_the_journal(rig):
    """Before, during and after it."""
    rig.touch(*range(10))
    rig.store.before = always_raising(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert rig.covered()
    await rig.tidied()
    assert rig.covered()
    assert len(rig.disk.found()) == 10


async def test_locked_rows_are_rewritten_and_keep_no_segment(rig):
    """One row that stays locked must not make the log grow."""
    for round_ in range(20):
        rig.touch(*range(round_ * 10, round_ * 10 + 10))
        rig.store.locked = {3}
        await rig.flush()
        assert rig.covered()
        await rig.tidied()
        assert len(rig.disk.segments) <= 6
    assert "3" in rig.disk.found()


@pytest.mark.parametrize("most_segments", [64, MIN_SEGMENTS])
async def test_in_an_outage_the_journal_is_bounded_by_what_is_pending(
    rig, monkeypatch, most_segments
):
    """The same keys, touched again and again, are rewritten before there is no room."""
    monkeypatch.setattr("tracker._journal.journal._FEW_KEYS", 0)
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig.journal._supply.max_segments = most_segments
    most = 0
    for _ in range(100):
        rig.clock.now += 1
        rig.touch(*range(ROOM))
        rig.store.before = always_raising(StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            await rig.flush()
        assert rig.covered()
        await rig.tidied()
        most = max(most, len(rig.disk.segments))
    assert most <= 16
    assert not rig.journal.degraded


async def test_a_flush_that_is_cancelled_while_it_rewrites_loses_nothing(rig, monkeypatch):
    """Wherever it is cancelled."""
    monkeypatch.setattr("tracker._journal.journal._FEW_KEYS", 0)
    monkeypatch.setattr("tracker._journal.journal._SLICE_KEYS", 2)
    for turns in range(30):
        rig.clock.now += 1
        rig.touch(*range(8))
        rig.store.before = raising(*[StoreUnavailable("away")] * 9)
        flush = asyncio.create_task(rig.flush())
        for _ in range(turns):
            await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait({flush})
        assert rig.covered()
    await rig.tidied()
    assert len(rig.disk.segments) <= 32


async def test_the_journal_does_not_grow_beyond_its_limit():
    """Beyond it touches are kept in memory alone; a flush makes room."""
    rig = JournalRig(MIN_SEGMENTS)
    await rig.journal.open()
    keeper = asyncio.create_task(rig.journal.keep())
    wanted = []
    rig.journal.on_filling_up = lambda: wanted.append(len(rig.disk.segments))
    for key in range(200):
        rig.touch(key)
        await rig.tidied()
        assert len(rig.disk.segments) <= MIN_SEGMENTS // 2
    assert wanted
    assert rig.journal.degraded
    await rig.flush()
    assert not rig.journal.degraded
    keeper.cancel()
    await asyncio.wait({keeper})


async def test_a_key_that_only_equals_a_pending_one_does_not_reach_the_journal(rig):
    """1.0 and an object that hashes and compares like 1 are dropped; the journal stays healthy."""

    class One:
        def __hash__(self) -> int:
            return hash(1)

        def __eq__(self, other: object) -> bool:
            return other == 1

    rig.touch(1)
    for odd in (1.0, True, One()):
        rig.clock.now += 1
        rig.buffer.touch(odd)
    assert rig.buffer.dropped["invalid"] == 3
    assert not rig.journal.degraded
    assert rig.journal.missed == 0
