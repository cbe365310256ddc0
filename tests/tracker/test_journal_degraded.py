"""A journal without room for a change is degraded until a crash would lose nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import capture_logs

from tests.support.memory_journal import ROOM, JournalRig, running_rig
from tests.support.stores import always_raising
from tracker import StoreUnavailable


@pytest.fixture
async def rig() -> AsyncIterator[JournalRig]:
    async with running_rig() as rig:
        yield rig


async def test_a_full_disk_degrades_the_journal_until_there_is_room(rig, monkeypatch):
    """The log says so once; when there is room again, what was missed is written first of all."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    with capture_logs() as logs:
        rig.disk.full = True
        rig.touch(*range(100, 200))
        await rig.tidied()
        assert rig.journal.degraded
        assert rig.journal.missed == 100 - 3 * ROOM
        assert len(rig.buffer) == 100
        rig.store.before = always_raising(StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            await rig.flush()
        assert rig.journal.degraded
        rig.disk.full = False
        await rig.tidied()
        with pytest.raises(StoreUnavailable):
            await rig.flush()
        assert not rig.journal.degraded
        assert rig.covered()
    events = [entry["event"] for entry in logs if entry["event"].startswith("journal.")]
    assert events == ["journal.degraded", "journal.failed", "journal.healthy"]


async def test_a_commit_ends_the_degraded_state(rig, monkeypatch):
    """What is in the table needs no journal."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig.disk.full = True
    rig.touch(*range(10), *range(10, 100))
    assert rig.journal.degraded
    await rig.flush()
    assert not rig.journal.degraded
    assert rig.covered()


async def test_a_full_disk_is_not_logged_as_healthy_after_each_commit(rig, monkeypatch):
    """The next touches are missed again, so nothing is said until there is room."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    with capture_logs() as logs:
        rig.disk.full = True
        for round_ in range(5):
            rig.touch(*range(100 * round_, 100 * round_ + 100))
            await rig.tidied()
            await rig.flush()
        told = {entry["event"] for entry in logs if entry["event"].startswith("journal.")}
        assert told == {"journal.degraded", "journal.failed"}
        rig.disk.full = False
        await rig.tidied()
        rig.touch(1)
        await rig.flush()
    assert [entry["event"] for entry in logs].count("journal.healthy") == 1


async def test_a_touch_that_is_missed_during_a_flush_keeps_the_journal_degraded(rig, monkeypatch):
    """The commit was of what was drained before it."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig.touch(1)
    rig.disk.full = True
    rig.store.before = lambda: rig.touch(*range(100, 200))
    await rig.flush()
    assert rig.journal.degraded
    assert not rig.covered()


async def test_a_log_that_cannot_be_written_fails_no_touch(rig, monkeypatch):
    """Nor a flush, nor the keeper: not even the lines that say that the disk is full."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig.disk.full = True

    def broken(*_: object) -> None:
        raise OSError("no space left for logs either")

    structlog.configure(processors=[broken])
    try:
        rig.touch(*range(100))
        await rig.tidied()
        rig.disk.full = False
        await rig.tidied()
        await rig.flush()
    finally:
        structlog.reset_defaults()
    assert len(rig.store.rows) == 100
    assert not rig.journal.degraded


async def test_a_journal_on_a_full_disk_starts_degraded_until_there_is_room(monkeypatch):
    """A full disk keeps no service from starting."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig = JournalRig()
    rig.disk.full = True
    await rig.journal.open()
    keeper = asyncio.create_task(rig.journal.keep())
    rig.touch(1)
    assert rig.journal.degraded
    rig.disk.full = False
    await rig.tidied()
    rig.touch(2)
    await rig.flush()
    rig.touch(3)
    assert not rig.journal.degraded
    assert rig.covered()
    keeper.cancel()
    await asyncio.wait({keeper})


async def test_a_journal_that_is_lost_while_it_is_rewritten_stays_degraded(rig, monkeypatch):
    """Until the next flush: part of what was rewritten may be lost, too."""
    monkeypatch.setattr("tracker._journal.journal._CHECK_EVERY_S", 0)
    monkeypatch.setattr("tracker._journal.journal._FEW_KEYS", 0)
    monkeypatch.setattr("tracker._journal.journal._SLICE_KEYS", 2)
    rig.touch(*range(100, 100 + 2 * ROOM))
    rig.store.before = always_raising(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    rig.disk.segments.clear()
    await rig.tidied()
    batch = rig.buffer.drain()
    rewriting = asyncio.create_task(rig.journal.rewrite(batch))
    async with asyncio.timeout(10):
        while not rig.journal._rewriting:
            await asyncio.sleep(0)
        rig.disk.segments.clear()
        while not rig.journal._incomplete:  # until the loss is noticed
            await asyncio.sleep(0)
    await rewriting
    assert rig.journal.degraded
    rig.buffer.settle(batch)
    rig.store.before = always_raising(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert not rig.journal.degraded
    assert rig.covered()
