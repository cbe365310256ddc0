"""Segments are sealed when full, removed when free, and replaced when they are lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from tests.support.memory_journal import ROOM, JournalRig, running_rig
from tests.support.stores import raising
from tracker import StoreUnavailable
from tracker._journal.format import SEGMENT_BYTES, Segment


@pytest.fixture
async def rig() -> AsyncIterator[JournalRig]:
    async with running_rig() as rig:
        yield rig


async def test_segments_that_cannot_be_removed_are_tried_again(rig):
    """They hold nothing that is needed: there are spare ones all the same, and no gap."""
    rig.disk.stuck = True
    with capture_logs() as logs:
        for round_ in range(5):
            rig.touch(*range(100 + 8 * round_, 108 + 8 * round_))
            await rig.flush()
            await rig.tidied()
    before = len(rig.disk.segments)
    assert not rig.journal.degraded
    assert rig.journal.missed == 0
    assert [entry["event"] for entry in logs].count("journal.failed") == 1
    rig.disk.stuck = False
    rig.touch(*range(10))
    await rig.tidied()
    assert len(rig.disk.segments) < before


async def test_no_segment_is_left_behind_when_more_are_freed_during_a_removal(rig):
    """What is removed is what leaves the list, however long a removal takes."""
    remove = rig.disk.remove

    async def slowly(segment: Segment) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await remove(segment)

    rig.disk.remove = slowly
    for round_ in range(30):
        rig.touch(*range(100 + 10 * round_, 110 + 10 * round_))
        await rig.flush()
        for _ in range(7):
            await asyncio.sleep(0)
    for _ in range(20):
        await rig.tidied()
    assert len(rig.disk.segments) * SEGMENT_BYTES == rig.journal.size_bytes
    assert len(rig.disk.segments) <= 4


async def test_a_segment_is_sealed_once_when_it_is_full(rig):
    """What is written to no more needs no memory and no descriptor."""
    rig.touch(*range(100, 110))
    await rig.tidied()
    assert len(rig.journal._full) == 2
    assert rig.disk.sealed == {segment.name for segment in rig.journal._full}


async def test_a_removed_journal_is_noticed_and_created_again(rig, monkeypatch):
    """Somebody cleans up, or the volume is gone: until a commit, a crash would lose touches."""
    monkeypatch.setattr("tracker._journal.journal._CHECK_EVERY_S", 0)
    rig.touch(*range(100, 103))
    rig.disk.segments.clear()
    with capture_logs() as logs:
        rig.touch(*range(103, 120))  # the keeper is woken up
        await rig.tidied()
        assert rig.journal.degraded
        await rig.flush()
    assert not rig.journal.degraded
    events = [entry["event"] for entry in logs if entry["event"].startswith("journal.")]
    assert events == ["journal.degraded", "journal.healthy"]
    await rig.tidied()
    rig.touch(*range(200, 200 + ROOM))
    assert rig.covered()


@pytest.mark.parametrize("drained", [False, True])
async def test_a_lost_segment_is_noticed_even_if_the_current_one_is_there(
    rig, monkeypatch, drained
):
    """A program that deletes old files may take a full segment and leave the newest one."""
    monkeypatch.setattr("tracker._journal.journal._CHECK_EVERY_S", 0)
    rig.touch(*range(100, 100 + 2 * ROOM))
    await rig.tidied()
    if drained:
        rig.journal.drained()
    assert not rig.journal.degraded
    del rig.disk.segments[(rig.journal._full + rig.journal._drained)[0].name]
    await rig.tidied()
    assert rig.journal.degraded
    assert not rig.covered()
    await rig.flush()
    assert not rig.journal.degraded
    await rig.tidied()
    assert len(rig.disk.segments) * SEGMENT_BYTES == rig.journal.size_bytes


async def test_a_disk_that_hangs_does_not_delay_a_flush_to_a_healthy_store(rig):
    """A commit ends the degraded state: nothing is rewritten before one has failed."""

    async def hanging() -> Segment:
        await asyncio.Event().wait()
        raise AssertionError

    rig.disk.create = hanging
    rig.touch(*range(100, 200))
    assert rig.journal.degraded
    await rig.flush()
    assert len(rig.store.rows) == 100
    assert not rig.journal.degraded


async def test_a_flush_waits_a_bounded_time_for_a_disk_that_hangs(rig, monkeypatch):
    """When one has failed, the next tries to rewrite, and continues without."""
    monkeypatch.setattr("tracker._journal.journal._CREATE_TIMEOUT_S", 0.01)

    async def hanging() -> Segment:
        await asyncio.Event().wait()
        raise AssertionError

    rig.disk.create = hanging
    rig.touch(*range(100, 200))
    rig.store.before = raising(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    await rig.flush()
    assert len(rig.store.rows) == 100


async def test_the_task_that_keeps_the_journal_continues_after_any_error(rig, monkeypatch):
    """An unexpected error costs a second, not the journal."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    create, broken = rig.disk.create, [True]

    async def sometimes() -> Segment:
        if broken[0]:
            raise RuntimeError("unheard of")
        return await create()

    rig.disk.create = sometimes
    rig.touch(*range(100, 200))
    await rig.tidied()
    broken[0] = False
    await rig.flush()
    await rig.tidied()
    rig.touch(*range(100, 104))
    assert not rig.journal.degraded
    assert rig.covered()
