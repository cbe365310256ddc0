"""One flush: whatever happens in the middle, every key is written, accounted for or still there."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.stores import TARGET, Clock, MemoryStore
from tracker import StoreMisconfigured, StoreTimeout, StoreUnavailable
from tracker.buffer import Buffer
from tracker.flush import Flush


class Rig:
    """A buffer, a store and the flush between them."""

    def __init__(self, chunk_keys: int = 10) -> None:
        self.clock = Clock()
        self.buffer = Buffer(TARGET, clock=self.clock, monotonic=self.clock)
        self.store = MemoryStore()
        self.flush = Flush(
            self.buffer,
            self.store,
            chunk_keys=chunk_keys,
            clock=self.clock,
            monotonic=self.clock,
        )

    def touch(self, *keys: int) -> None:
        for key in keys:
            self.buffer.touch(key)

    def assert_books_balance(self) -> None:
        counts = self.flush.counts
        ended = counts.written + counts.unchanged + counts.missing + counts.rejected
        dropped = sum(self.buffer.dropped.values())
        assert self.buffer.touches == self.buffer.coalesced + dropped + ended + len(self.buffer)


def raising(*errors: Exception | None):
    """Return a function that raises the errors one after the other, and then no more."""
    left = iter(errors)

    def step() -> None:
        if error := next(left, None):
            raise error

    return step


async def test_chunks_are_sorted_and_no_larger_than_asked():
    """Every writer locks in key order, and a statement is bounded."""
    rig = Rig(chunk_keys=4)
    rig.touch(9, 3, 7, 1, 8, 2, 6, 4, 5, 0)
    await rig.flush()
    assert [len(chunk) for chunk in rig.store.chunks] == [4, 4, 2]
    assert all(chunk == sorted(chunk) for chunk in rig.store.chunks)
    assert rig.store.rows == dict.fromkeys(range(10), 1_000_000)
    assert rig.flush.counts.written == 10
    rig.assert_books_balance()


async def test_nothing_pending_is_no_flush():
    """An idle service sends nothing."""
    rig = Rig()
    assert await rig.flush() == 0
    assert rig.store.chunks == []
    assert rig.flush.counts.success == 0


async def test_failed_flush_keeps_every_touch():
    """A failed flush loses nothing (Synapse, Unleash and Fleet lose the batch)."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.store.before = raising(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert len(rig.buffer) == 3
    assert rig.flush.counts.failed == 1
    await rig.flush()
    assert rig.store.rows == dict.fromkeys((1, 2, 3), 1_000_000)
    rig.assert_books_balance()


async def test_failure_in_the_middle_keeps_only_what_was_not_committed():
    """Chunks that were committed are done; the failed one and the rest are pending again."""
    rig = Rig(chunk_keys=2)
    rig.touch(1, 2, 3, 4, 5, 6)
    rig.store.before = raising(None, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert rig.flush.counts.written == 2
    assert len(rig.buffer) == 4
    rig.assert_books_balance()
    await rig.flush()
    assert rig.store.rows.keys() == {1, 2, 3, 4, 5, 6}
    assert rig.flush.counts.written == 6


async def test_ambiguous_commit_is_written_again_and_does_no_harm():
    """A commit whose answer is lost is repeated; the repetition changes nothing."""
    rig = Rig()
    rig.touch(1, 2)
    rig.store.after = raising(StoreUnavailable("cut off after the commit"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert rig.store.rows == {1: 1_000_000, 2: 1_000_000}
    await rig.flush()
    assert rig.flush.counts.unchanged == 2
    rig.assert_books_balance()


async def test_cancelled_flush_keeps_every_touch():
    """Cancellation at any await restores the batch."""
    for awaits in range(6):
        rig = Rig(chunk_keys=2)
        rig.touch(1, 2, 3, 4)
        task = asyncio.create_task(rig.flush())
        for _ in range(awaits):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        rig.assert_books_balance()
        await rig.flush()
        assert rig.store.rows.keys() == {1, 2, 3, 4}
        rig.assert_books_balance()


async def test_a_crash_of_the_store_keeps_every_touch():
    """An error that nobody foresaw restores the batch just the same."""
    rig = Rig()
    rig.touch(1)
    rig.store.before = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await rig.flush()
    assert len(rig.buffer) == 1


async def test_one_refused_row_harms_nobody_else():
    """The bad row is isolated, counted and logged; all others commit."""
    rig = Rig(chunk_keys=64)
    rig.touch(*range(50))
    rig.store.refused = {17}
    with capture_logs() as logs:
        await rig.flush()
    assert rig.store.rows.keys() == set(range(50)) - {17}
    assert (rig.flush.counts.written, rig.flush.counts.rejected) == (49, 1)
    assert len(rig.buffer) == 0
    assert logs == [
        {
            "event": "flush.row_refused",
            "log_level": "error",
            "target": "things",
            "key": "17",
            "error": "refused",
        }
    ]
    rig.assert_books_balance()


async def test_when_every_row_is_refused_the_table_is_blamed_and_the_rest_kept():
    """A broken trigger does not empty the buffer row by row."""
    rig = Rig(chunk_keys=64)
    rig.touch(*range(500))
    rig.store.refused = set(range(500))
    with pytest.raises(StoreMisconfigured, match="more than 100 rows refused"):
        await rig.flush()
    assert rig.flush.counts.rejected == 100
    assert len(rig.buffer) == 400
    rig.assert_books_balance()


async def test_a_missing_key_is_counted_and_let_go():
    """A deleted row does not poison flushes to come."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.store.known = {1, 3}
    await rig.flush()
    assert (rig.flush.counts.written, rig.flush.counts.missing) == (2, 1)
    assert len(rig.buffer) == 0
    rig.assert_books_balance()


async def test_a_locked_row_stays_pending_and_holds_up_nobody():
    """The rest is written now, the locked one when its lock is gone."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.store.locked = {2}
    assert await rig.flush() == 1
    assert rig.store.rows.keys() == {1, 3}
    assert rig.flush.counts.partial == 1
    rig.store.locked = set()
    assert await rig.flush() == 0
    assert rig.store.rows.keys() == {1, 2, 3}
    rig.assert_books_balance()


async def test_chunks_shrink_after_a_timeout_and_grow_back():
    """On a slow connection smaller chunks get through; a fast one gets full ones again."""
    rig = Rig(chunk_keys=400)
    rig.touch(*range(1600))
    rig.store.before = raising(StoreTimeout("slow"), StoreTimeout("slow"))
    for _ in range(2):
        with pytest.raises(StoreTimeout):
            await rig.flush()
    await rig.flush()
    assert [len(chunk) for chunk in rig.store.chunks] == [100, 200, 400, 400, 400, 100]


async def test_touches_during_a_flush_are_kept_for_the_next():
    """A touch that comes while its key is written is not lost with the batch."""
    rig = Rig()
    rig.touch(1)

    def meanwhile() -> None:
        rig.clock.now += 1
        rig.touch(1, 2)

    rig.store.before = meanwhile
    await rig.flush()
    assert rig.store.rows == {1: 1_000_000}
    rig.store.before = raising()
    await rig.flush()
    assert rig.store.rows == {1: 1_000_001, 2: 1_000_001}
    rig.assert_books_balance()


async def test_flushes_of_one_buffer_do_not_overlap():
    """A second flush waits for the first, and writes what came meanwhile."""
    rig = Rig()
    rig.touch(1)
    first = asyncio.create_task(rig.flush())
    await asyncio.sleep(0)
    rig.touch(2)
    await rig.flush()
    await first
    assert rig.store.chunks == [[1], [2]]
