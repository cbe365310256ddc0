"""The journal of one buffer: at every moment it holds what is pending, and it stays short."""

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import capture_logs

from tests.support.stores import FlushRig, always_raising, raising
from tracker import StoreUnavailable
from tracker._journal.format import SEGMENT_BYTES, Segment, read
from tracker._journal.journal import MIN_SEGMENTS, Journal

RECORD_BYTES = 15
ROOM = 4
"""Records of keys of three digits that fit into a segment."""


class MemoryDisk:
    """Segments in memory, and what a process that comes later would find in them."""

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}
        self.made = 0
        self.full = False
        self.stuck = False
        self.sealed: set[str] = set()

    async def create(self) -> Segment:
        await asyncio.sleep(0)
        if self.full:
            raise OSError(errno.ENOSPC, "no space left")
        self.made += 1
        segment = Segment(f"{self.made}", bytearray(ROOM * RECORD_BYTES), 0)
        self.segments[segment.name] = segment
        return segment

    async def remove(self, segment: Segment) -> None:
        await asyncio.sleep(0)
        if self.stuck:
            raise OSError(errno.EIO, "cannot be removed")
        del self.segments[segment.name]

    async def seal(self, segment: Segment) -> None:
        assert segment.name not in self.sealed
        self.sealed.add(segment.name)

    async def held(self) -> set[str]:
        return set(self.segments)

    def found(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for segment in self.segments.values():
            for key, at in read(segment.memory, 0).entries.items():
                found[key] = max(found.get(key, 0), at)
        return found


class Rig(FlushRig):
    """A buffer with a journal, and the flush that empties it."""

    def __init__(self, most_segments: int = 64) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.journal = Journal("things", self.disk, max_segments=most_segments)
        self.buffer.attach(self.journal)

    def covered(self) -> bool:
        """Whether a process that is killed now would lose nothing."""
        view, found = self.buffer.view(), self.disk.found()
        keys = {key for entries in view._maps for key in entries}
        return all(found.get(str(key), -1) >= (view.get(key) or 0) for key in keys)

    async def tidied(self) -> None:
        """Let the keeper do what it has to do."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.journal.open()
    keeper = asyncio.create_task(rig.journal.keep())
    await rig.tidied()
    yield rig
    keeper.cancel()
    await asyncio.wait({keeper})


async def test_every_change_is_in_the_journal_before_touch_returns(rig):
    """A new key, a later second; what changes nothing is not written again."""
    for step in (0, 0, 1, 1, -5):
        rig.clock.now += step
        rig.touch(7)
        assert rig.disk.found() == {"7": int(rig.buffer.view().get(7))}
    (segment,) = (one for one in rig.disk.segments.values() if any(one.memory))
    assert segment.memory.count(b"7") == 3


async def test_what_was_pending_before_the_journal_is_in_it_too():
    """Touches may come before the tracker runs."""
    rig = Rig()
    rig.journal = Journal("things", rig.disk, max_segments=64)
    rig.touch(1, 2)
    await rig.journal.open()
    rig.buffer.attach(rig.journal)
    assert set(rig.disk.found()) == {"1", "2"}


async def test_a_full_segment_is_followed_by_a_spare_one(rig):
    """Nobody waits for a file."""
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


async def test_locked_rows_are_written_again_and_hold_up_no_segment(rig):
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
async def test_an_outage_makes_the_journal_no_longer_than_what_is_pending(
    rig, monkeypatch, most_segments
):
    """The same keys, touched again and again, are written anew before there is no room."""
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
    """Wherever it is cut off."""
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


async def test_a_full_disk_degrades_to_memory_and_recovers(rig, monkeypatch):
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


async def test_a_commit_mends_the_gap_too(rig, monkeypatch):
    """What is in the table needs no journal."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig.disk.full = True
    rig.touch(*range(10), *range(10, 100))
    assert rig.journal.degraded
    await rig.flush()
    assert not rig.journal.degraded
    assert rig.covered()


async def test_a_disk_that_stays_full_has_not_recovered_with_each_commit(rig, monkeypatch):
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


async def test_a_touch_that_is_missed_during_a_flush_stays_a_gap(rig, monkeypatch):
    """The commit was of what was drained before it."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig.touch(1)
    rig.disk.full = True
    rig.store.before = lambda: rig.touch(*range(100, 200))
    await rig.flush()
    assert rig.journal.degraded
    assert not rig.covered()


async def test_the_journal_grows_no_further_than_it_may():
    """Beyond it touches are kept in memory alone; a flush makes room."""
    rig = Rig(MIN_SEGMENTS)
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


async def test_a_journal_without_a_disk_starts_degraded_and_recovers(monkeypatch):
    """A full disk keeps no service from starting."""
    monkeypatch.setattr("tracker._journal.journal._RETRY_S", 0)
    rig = Rig()
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


async def test_a_healthy_store_is_not_kept_waiting_by_a_disk_that_hangs(rig):
    """A commit mends the gap: nothing is written anew before one has failed."""

    async def hanging() -> Segment:
        await asyncio.Event().wait()
        raise AssertionError

    rig.disk.create = hanging
    rig.touch(*range(100, 200))
    assert rig.journal.degraded
    await rig.flush()
    assert len(rig.store.rows) == 100
    assert not rig.journal.degraded


async def test_a_flush_waits_only_so_long_for_a_disk_that_hangs(rig, monkeypatch):
    """When one has failed, the next tries to write anew, and goes on without."""
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


async def test_a_keeper_survives_whatever_goes_wrong(rig, monkeypatch):
    """An error that nobody thought of costs a second, not the journal."""
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
