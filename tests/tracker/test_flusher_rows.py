"""Rows that a flush does not write: rejected, missing and locked ones."""

import pytest
from structlog.testing import capture_logs

from tests.support.stores import FlushRig as Rig
from tracker import StoreMisconfigured, StoreUnavailable


async def test_one_rejected_row_affects_no_other():
    """The bad row is isolated, counted and logged; all others commit."""
    rig = Rig(chunk_keys=64)
    rig.touch(*range(50))
    rig.store.rejected = {17}
    with capture_logs() as logs:
        await rig.flush()
    assert rig.store.rows.keys() == set(range(50)) - {17}
    assert (rig.flusher.counts.written, rig.flusher.counts.rejected) == (49, 1)
    assert len(rig.buffer) == 0
    assert logs == [
        {
            "event": "flush.rows_rejected",
            "log_level": "warning",
            "target": "things",
            "keys": 1,
            "first_keys": ["17"],
            "times": 1,
            "error": "rejected",
        }
    ]
    rig.assert_books_balance()


async def test_keys_are_in_no_log_line_when_that_is_switched_off():
    """They may be email addresses; how many there are is logged all the same."""
    rig = Rig(log_keys=False)
    rig.touch(*range(1000, 1005))
    rig.store.known, rig.store.rejected, rig.store.locked = {1001, 1002, 1003}, {1001}, {1002}
    with capture_logs() as logs:
        await rig.flush()
    assert {entry["event"]: (entry["keys"], entry["first_keys"]) for entry in logs} == {
        "flush.rows_missing": (2, []),
        "flush.rows_rejected": (1, []),
        "flush.rows_locked": (1, []),
    }
    assert "100" not in str(logs)


async def test_a_row_that_a_trigger_skips_without_an_error_is_rejected():
    """A trigger that skips a row does not keep its touch pending for ever."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.store.suppressed = {2}
    assert await rig.flush() == 0
    assert (rig.flusher.counts.written, rig.flusher.counts.rejected) == (2, 1)
    assert len(rig.buffer) == 0
    rig.assert_books_balance()


async def test_when_every_row_is_rejected_the_table_is_at_fault_and_the_rest_is_kept():
    """A broken trigger does not empty the buffer row by row."""
    rig = Rig(chunk_keys=64)
    rig.touch(*range(500))
    rig.store.rejected = set(range(500))
    with pytest.raises(StoreMisconfigured, match="more than 100 rows are rejected"):
        await rig.flush()
    assert rig.flusher.counts.rejected == 0
    assert len(rig.buffer) == 500
    rig.store.rejected, rig.store.suppressed = set(), set(range(500))
    with pytest.raises(StoreMisconfigured, match="more than 100 rows are rejected"):
        await rig.flush()
    assert len(rig.buffer) == 500
    rig.assert_books_balance()


@pytest.mark.parametrize("how", ["rejected", "suppressed"])
@pytest.mark.parametrize(("keys", "error"), [(20, StoreMisconfigured), (1, StoreUnavailable)])
async def test_rows_are_rejected_only_in_a_flush_that_writes_others(how, keys, error):
    """A trigger that refuses all of a few rows for a while costs none of their touches."""
    rig = Rig()
    rig.touch(*range(keys))
    setattr(rig.store, how, set(range(keys)))
    for _ in range(3):
        with pytest.raises(error, match=f"no row is written and {keys} rejected"):
            await rig.flush()
    assert len(rig.buffer) == keys
    assert rig.flusher.counts.rejected == 0
    rig.touch(100)  # a row that is written: now the others are to blame
    await rig.flush()
    assert rig.flusher.counts.rejected == keys
    rig.assert_books_balance()


async def test_a_missing_key_is_counted_and_discarded():
    """A deleted row does not make later flushes fail."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.store.known = {1, 3}
    await rig.flush()
    assert (rig.flusher.counts.written, rig.flusher.counts.missing) == (2, 1)
    assert len(rig.buffer) == 0
    rig.assert_books_balance()


async def test_a_locked_row_stays_pending_and_delays_no_other():
    """The rest is written now, the locked one when its lock is gone."""
    rig = Rig()
    rig.touch(1, 2, 3)
    rig.store.locked = {2}
    assert await rig.flush() == 1
    assert rig.store.rows.keys() == {1, 3}
    assert rig.flusher.counts.partial == 1
    rig.store.locked = set()
    assert await rig.flush() == 0
    assert rig.store.rows.keys() == {1, 2, 3}
    rig.assert_books_balance()


async def test_lag_excludes_a_row_that_was_locked_once_it_is_written():
    """With another row locked each time, no key waits long, and the lag says so."""
    rig = Rig()
    for turn in range(20):
        rig.touch(1, 2, 3)
        rig.store.locked = {1 + turn % 3}
        await rig.flush()
        rig.clock.now += 5
        assert rig.buffer.lag_s <= 10
