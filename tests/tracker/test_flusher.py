"""One flush: whatever happens in the middle, every key is written, accounted for or still there."""

import asyncio

import pytest

from tests.support.stores import FlushRig as Rig
from tests.support.stores import MemoryStore, raising, unwritable_logs
from tracker import StoreTimeout, StoreUnavailable


async def test_chunks_are_no_larger_than_asked():
    """A statement is bounded, whatever there is to write."""
    rig = Rig(chunk_keys=4)
    rig.touch(9, 3, 7, 1, 8, 2, 6, 4, 5, 0)
    await rig.flush()
    assert [len(chunk) for chunk in rig.store.chunks] == [4, 4, 2]
    assert sorted(key for chunk in rig.store.chunks for key in chunk) == list(range(10))
    assert rig.store.rows == dict.fromkeys(range(10), 1_000_000)
    assert rig.flusher.counts.written == 10
    rig.assert_books_balance()


async def test_nothing_pending_is_no_flush():
    """An idle service sends nothing."""
    rig = Rig()
    assert await rig.flush() == 0
    assert rig.store.chunks == []
    assert rig.flusher.counts.success == 0


async def test_failed_flush_keeps_every_touch():
    """A failed flush loses nothing (Synapse, Unleash and Fleet lose the batch)."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.store.before = raising(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert len(rig.buffer) == 3
    assert rig.flusher.counts.failed == 1
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
    assert rig.flusher.counts.written == 2
    assert len(rig.buffer) == 4
    rig.assert_books_balance()
    await rig.flush()
    assert rig.store.rows.keys() == {1, 2, 3, 4, 5, 6}
    assert rig.flusher.counts.written == 6


async def test_a_commit_without_a_response_is_repeated_without_effect():
    """A commit whose response is lost is repeated; the repetition changes nothing."""
    rig = Rig()
    rig.touch(1, 2)
    rig.store.after = raising(StoreUnavailable("cut off after the commit"))
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    assert rig.store.rows == {1: 1_000_000, 2: 1_000_000}
    await rig.flush()
    assert rig.flusher.counts.unchanged == 2
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
    """An unexpected error restores the batch, too."""
    rig = Rig()
    rig.touch(1)
    rig.store.before = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await rig.flush()
    assert len(rig.buffer) == 1


async def test_a_chunk_that_takes_too_long_is_divided_without_a_backoff():
    """A slow table gets smaller chunks within the same flush; full ones come back slowly."""
    rig = Rig(chunk_keys=400)
    rig.touch(*range(1600))
    rig.store.at_most = 150
    await rig.flush()
    assert max(len(chunk) for chunk in rig.store.chunks) == 100
    assert rig.store.rows.keys() == set(range(1600))
    rig.store.at_most = None
    sizes = []
    for _ in range(4):
        rig.store.chunks.clear()
        rig.clock.now += 1
        rig.touch(*range(1600))
        await rig.flush()
        sizes.append(len(rig.store.chunks[0]))
    assert sizes == [100, 200, 400, 400]
    rig.assert_books_balance()


async def test_a_table_that_is_too_slow_for_the_smallest_chunk_fails_the_flush():
    """Dividing ends at the smallest chunk, and nothing is lost."""
    rig = Rig(chunk_keys=400)
    rig.touch(*range(1000))
    rig.store.at_most = 10
    with pytest.raises(StoreTimeout):
        await rig.flush()
    assert len(rig.buffer) == 1000
    rig.assert_books_balance()


async def test_a_chunk_that_always_fails_delays_no_other():
    """What failed goes last next time, and is divided: everything but the bad row gets written."""
    rig = Rig(chunk_keys=10)
    rig.touch(*range(100))

    async def write(chunk):
        if 0 in chunk.keys:
            raise StoreUnavailable("always")
        return await MemoryStore.write(rig.store, chunk)

    rig.store.write = write
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await rig.flush()
    assert len(rig.store.rows) == 99
    rig.assert_books_balance()


@pytest.mark.parametrize("committed", [1, 8])
async def test_a_flush_that_fails_early_or_late_keeps_what_is_left(committed):
    """Whether little or much was committed, exactly the rest is pending again."""
    rig = Rig(chunk_keys=10)
    rig.touch(*range(100))
    rig.store.locked = {3}
    rig.store.rejected = {5}

    def fail_later() -> None:
        if len(rig.store.rows) >= 10 * committed:
            raise StoreUnavailable("away")

    rig.store.before = fail_later
    with pytest.raises(StoreUnavailable):
        await rig.flush()
    stored = set(rig.store.rows)
    assert len(rig.buffer) == 100 - len(stored)
    assert set(rig.buffer.drain()) == set(range(100)) - stored
    assert {3, 5}.isdisjoint(stored)


async def test_a_flush_that_commits_nothing_is_no_success():
    """The time of the last success is that of the last commit, not of the last attempt."""
    rig = Rig()
    rig.touch(1)
    rig.store.locked = {1}
    await rig.flush()
    assert rig.flusher.counts.last_success_at == 0
    rig.store.locked = set()
    await rig.flush()
    assert rig.flusher.counts.last_success_at == rig.clock.now


async def test_counts_balance_if_the_log_cannot_be_written():
    """A closed pipe on standard output loses no touch."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.touch(5)
    rig.store.known, rig.store.rejected, rig.store.locked = {1, 2, 5}, {1}, {2}
    with unwritable_logs():
        assert await rig.flush() == 1
    rig.assert_books_balance()


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


async def test_a_flush_pauses_between_chunks_until_it_is_needed():
    """Pauses leave the CPU to requests; a caller that waits for the flush ends them."""
    rig = Rig(chunk_keys=10)
    rig.touch(*range(30))

    def take_long() -> None:
        rig.clock.now += 1000

    rig.store.after = take_long
    flushing = asyncio.create_task(rig.flush(within_s=1_000_000))
    await rig.store.written.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (len(rig.store.chunks), flushing.done()) == (1, False)
    rig.flusher.hurry()
    await flushing
    assert len(rig.store.chunks) == 3
    rig.assert_books_balance()


@pytest.mark.parametrize("within_s", [0, 3000])
async def test_a_flush_without_time_to_spare_does_not_pause(within_s):
    """Three chunks of 1,000 s each leave no time for a pause in 3,000 s."""
    rig = Rig(chunk_keys=10)
    rig.touch(*range(30))

    def take_long() -> None:
        rig.clock.now += 1000

    rig.store.after = take_long
    async with asyncio.timeout(60):
        await rig.flush(within_s=within_s)
    assert len(rig.store.chunks) == 3


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
