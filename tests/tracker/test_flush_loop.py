"""When to flush: at intervals, early at the high-water mark, after a backoff, after errors."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.support.flush_loop_rig import NEVER_S, SOON_S, LoopRig
from tests.support.stores import raising, unwritable_logs
from tracker import StoreMisconfigured, StoreUnavailable
from tracker._flush.backoff import Backoff
from tracker._flush.loop import FlushLoop


async def test_flushes_repeat_at_the_interval():
    """Touches are written without an explicit flush."""
    rig = LoopRig(interval_s=SOON_S)
    for key in range(3):
        rig.buffer.touch(key)
        await rig.written()
    assert rig.store.rows.keys() == {0, 1, 2}
    await rig.loop.stop()


async def test_reaching_the_high_water_mark_flushes_early():
    """A buffer that fills up does not wait for the interval."""
    rig = LoopRig(interval_s=NEVER_S, high_water_keys=5)
    for _ in range(2):
        for key in range(5):
            rig.buffer.touch(key)
        await rig.written()
    await rig.loop.stop()


async def test_a_wake_up_during_a_flush_is_not_lost():
    """The mark is reached again while a flush is under way: another flush follows it."""
    rig = LoopRig(interval_s=NEVER_S, high_water_keys=2)

    def fill_again() -> None:
        rig.store.before = raising()
        rig.buffer.touch(3)
        rig.buffer.touch(4)

    rig.store.before = fill_again
    rig.buffer.touch(1)
    rig.buffer.touch(2)
    await rig.written()
    await rig.written()
    assert rig.store.rows.keys() == {1, 2, 3, 4}
    await rig.loop.stop()


async def test_writers_that_start_together_do_not_flush_together(monkeypatch):
    """The first wait is anywhere in the interval, and later ones vary by a tenth."""
    waits: list[list[float]] = []

    async def note(self: FlushLoop, wait_s: float) -> None:
        self.waits.append(wait_s)
        if len(self.waits) == 5:
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    monkeypatch.setattr(FlushLoop, "_wait", note)
    loops = []
    for _ in range(20):
        loop = LoopRig(interval_s=100.0, deadline_s=0.01).loop
        loop.waits = []
        waits.append(loop.waits)
        loops.append(loop)
    while any(len(own) < 5 for own in waits):
        await asyncio.sleep(0)
    first = [own[0] for own in waits]
    later = [wait for own in waits for wait in own[1:]]
    assert all(10 <= wait <= 100 for wait in first)
    assert max(first) - min(first) > 20
    assert all(90 <= wait <= 110 for wait in later)
    assert len(set(later)) == len(later)
    await asyncio.gather(*(loop.stop() for loop in loops))


async def test_the_loop_continues_after_any_error():
    """Neither a failing store nor a bug in it ends the loop."""
    rig = LoopRig(interval_s=SOON_S, backoff=Backoff(initial_s=SOON_S, max_s=SOON_S))
    rig.store.before = raising(StoreUnavailable("away"), ZeroDivisionError(), RuntimeError("x"))
    rig.buffer.touch(1)
    with capture_logs() as logs:
        await rig.written()
        await rig.loop.stop()
    assert rig.store.rows.keys() == {1}
    events = [entry["event"] for entry in logs]
    assert events.count("flush.crashed") == 2
    assert events.count("flush.failed") == 3
    assert rig.loop.failures == 0


async def test_a_failure_is_logged_once_with_what_happens_next():
    """One line for each attempt says what failed, which attempt it was, and when the next is."""
    rig = LoopRig(interval_s=NEVER_S, backoff=Backoff(initial_s=4.0, max_s=30.0, jitter=0))
    rig.store.before = raising(StoreUnavailable("away"))
    rig.buffer.touch(1)
    with capture_logs() as logs:
        with pytest.raises(StoreUnavailable):
            await rig.loop.flush()
        await rig.loop.flush()
    assert logs == [
        {
            "event": "flush.failed",
            "log_level": "error",
            "target": "things",
            "error": "away",
            "permanent": False,
            "attempt": 1,
            "retry_in_s": 4.0,
            "pending_keys": 1,
        },
        {"event": "flush.healthy", "log_level": "info", "target": "things", "attempts": 1},
    ]
    await rig.loop.stop()


async def test_the_high_water_mark_does_not_shorten_a_backoff():
    """During a backoff the buffer may fill up; the backoff still lasts its time."""
    rig = LoopRig(
        interval_s=SOON_S,
        high_water_keys=2,
        backoff=Backoff(initial_s=NEVER_S, max_s=NEVER_S, jitter=0),
    )
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise StoreUnavailable("away")

    rig.store.before = fail
    rig.buffer.touch(1)
    while not attempts:
        await asyncio.sleep(0)
    for key in range(10):
        rig.buffer.touch(key)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(attempts) == 1
    rig.store.before = raising()
    await rig.loop.stop()
    assert len(rig.store.rows) == 10


async def test_a_wake_up_during_a_flush_that_fails_does_not_cut_the_backoff_short():
    """The mark is reached while the store fails: the backoff still lasts its time."""
    rig = LoopRig(
        interval_s=NEVER_S,
        high_water_keys=2,
        backoff=Backoff(initial_s=NEVER_S, max_s=NEVER_S, jitter=0),
    )
    attempts = []

    def fail() -> None:
        attempts.append(1)
        rig.buffer.touch(10 + len(attempts))
        rig.buffer.touch(20 + len(attempts))
        raise StoreUnavailable("away")

    rig.store.before = fail
    rig.buffer.touch(1)
    rig.buffer.touch(2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(attempts) == 1
    rig.store.before = raising()
    await rig.loop.flush()  # an explicit flush: the loop need not sleep on
    rig.store.written.clear()
    rig.buffer.touch(3)
    rig.buffer.touch(4)
    await rig.written()
    await rig.loop.stop()


async def test_an_empty_flush_does_not_reset_the_failures():
    """With nothing to write, a store that failed has not recovered."""
    rig = LoopRig(interval_s=NEVER_S)
    rig.store.before = raising(StoreUnavailable("away"))
    rig.buffer.touch(1)
    with pytest.raises(StoreUnavailable):
        await rig.loop.flush()
    rig.buffer.drain()
    rig.buffer.settle({})
    await rig.loop.flush()
    assert rig.loop.failures == 1
    await rig.loop.stop()


async def test_the_loop_continues_if_the_log_cannot_be_written():
    """A closed pipe on standard output ends no loop."""
    rig = LoopRig(interval_s=SOON_S, backoff=Backoff(initial_s=SOON_S, max_s=SOON_S))
    rig.store.before = raising(StoreUnavailable("away"), ZeroDivisionError())
    with unwritable_logs():
        rig.buffer.touch(1)
        await rig.written()
        rig.buffer.touch(2)
        await rig.written()
        await rig.loop.stop()


async def test_a_permanent_error_is_distinguished_and_nothing_is_dropped():
    """A missing table is reported as such, and its touches stay pending."""
    rig = LoopRig(interval_s=NEVER_S)
    rig.store.table_error = StoreMisconfigured("no such table")
    rig.buffer.touch(1)
    with pytest.raises(StoreMisconfigured):
        await rig.loop.flush()
    assert str(rig.loop.permanent_error) == "no such table"
    assert len(rig.buffer) == 1
    rig.store.table_error = None
    await rig.loop.flush()
    assert rig.loop.permanent_error is None
    await rig.loop.stop()


def test_backoff_doubles_up_to_its_cap_and_keeps_its_jitter_there():
    """Jitter comes after the cap, or none would be left at the cap."""
    plain = Backoff(initial_s=1, max_s=30, jitter=0)
    assert [plain.delay_s(n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert plain.delay_s(1, permanent=True) == 30
    assert plain.delay_s(10_000) == 30
    least = Backoff(initial_s=1, max_s=30, jitter=0.25, chance=lambda: 1.0)
    assert least.delay_s(10) == 22.5
