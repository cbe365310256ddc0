"""The buffer: touches coalesce by max, nothing leaves before it is settled, memory is bounded."""

from dataclasses import replace

import pytest

from tests.support.stores import TARGET, Clock
from tracker._buffer.buffer import Buffer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buffer(clock: Clock) -> Buffer:
    return Buffer(TARGET, clock=clock, monotonic=clock)


def test_touches_of_one_key_become_one_entry_with_the_latest_second(buffer, clock):
    """Coalescing keeps one entry per key, the newest."""
    for _ in range(100):
        clock.now += 0.25
        buffer.touch(1)
    assert buffer.drain() == {1: 1_000_025}
    assert (buffer.touches, buffer.coalesced) == (100, 99)


def test_an_older_touch_does_not_move_a_key_back(buffer, clock):
    """Never backwards: a clock that goes back an hour changes nothing."""
    buffer.touch(1)
    clock.now -= 3600
    buffer.touch(1)
    assert buffer.drain() == {1: 1_000_000}


def test_values_are_whole_seconds(buffer, clock):
    """Fractions of a second are cut off."""
    clock.now += 0.999
    buffer.touch(1)
    buffer.touch(2, at=999_999.999)
    assert buffer.drain() == {1: 1_000_000, 2: 999_999}


def test_resolution_rounds_down(clock):
    """With a resolution of a minute, touches within one minute are one."""
    buffer = Buffer(replace(TARGET, resolution_s=60), clock=clock, monotonic=clock)
    buffer.touch(1)
    assert buffer.drain() == {1: 1_000_000 - 1_000_000 % 60}


def test_at_capacity_new_keys_are_dropped_and_known_ones_still_coalesce(clock):
    """Memory is bounded; keys that are pending stay up to date."""
    buffer = Buffer(
        replace(TARGET, capacity_keys=2, high_water_keys=2), clock=clock, monotonic=clock
    )
    for key in (1, 2, 3):
        buffer.touch(key)
    clock.now += 5
    for key in (1, 2, 3):
        buffer.touch(key)
    assert buffer.dropped["capacity"] == 2
    assert buffer.drain() == {1: 1_000_005, 2: 1_000_005}


def test_keys_in_flight_count_once_against_capacity(clock):
    """A key that is touched while it is being written takes no second entry."""
    buffer = Buffer(
        replace(TARGET, capacity_keys=2, high_water_keys=2), clock=clock, monotonic=clock
    )
    buffer.touch(1)
    buffer.touch(2)
    batch = buffer.drain()
    clock.now += 1
    buffer.touch(1)  # in flight: its entry exists already
    buffer.touch(3)  # one too many
    assert len(buffer) == 2
    assert buffer.dropped["capacity"] == 1
    buffer.settle(batch)
    assert len(buffer) == 2
    assert buffer.drain() == {1: 1_000_001, 2: 1_000_000}


def test_a_restored_batch_does_not_overwrite_newer_touches(buffer, clock):
    """Restoring merges by max, whichever map is larger."""
    for live_keys in ((1,), (1, 5, 6, 7)):
        buffer.touch(1)
        buffer.touch(2)
        batch = buffer.drain()
        clock.now += 1
        newer = int(clock.now)
        for key in live_keys:
            buffer.touch(key)
        buffer.settle(batch)
        assert buffer.drain() == {2: newer - 1, **dict.fromkeys(live_keys, newer)}
        buffer.settle({})


def test_counts_balance_through_a_restore(buffer, clock):
    """Every touch is coalesced, dropped, pending or gone with a settled batch."""
    for key in (1, 1, 2, 3):
        buffer.touch(key)
    batch = buffer.drain()
    buffer.touch(1)
    buffer.settle({1: batch[1]})  # 2 and 3 were committed, 1 was not
    assert buffer.touches == 5
    assert buffer.coalesced == 2
    assert len(buffer) == 1


def test_draining_twice_without_settling_is_an_error(buffer):
    """A second drain would make the first one's keys vanish."""
    buffer.touch(1)
    buffer.drain()
    with pytest.raises(RuntimeError, match="settled"):
        buffer.drain()


def test_the_high_water_mark_is_announced_once(clock):
    """Reaching the mark wakes the flusher; being above it does not wake it again."""
    calls = []
    buffer = Buffer(
        replace(TARGET, capacity_keys=10, high_water_keys=3), clock=clock, monotonic=clock
    )
    buffer.on_high_water = lambda: calls.append(len(buffer))
    for key in range(6):
        buffer.touch(key)
    assert calls == [3]


def test_lag_is_the_age_of_the_oldest_uncommitted_touch(buffer, clock):
    """Lag survives drain and restore, and ends with the commit."""
    assert buffer.lag_s == 0
    buffer.touch(1)
    clock.now += 4
    buffer.touch(2)
    assert buffer.lag_s == 4
    batch = buffer.drain()
    clock.now += 1
    buffer.touch(3)
    assert buffer.lag_s == 5
    buffer.settle(batch)
    assert buffer.lag_s == 5
    buffer.drain()
    buffer.settle({})
    assert buffer.lag_s == 0


def test_a_view_shows_live_and_in_flight_touches_and_the_newest_of_both(buffer, clock):
    """Read your writes: what is being written is still shown."""
    buffer.touch(1)
    buffer.touch(2)
    buffer.drain()
    clock.now += 1
    buffer.touch(2)
    view = buffer.view()
    assert [view.get(key) for key in (1, 2, 3)] == [1_000_000, 1_000_001, None]


def test_a_view_keeps_what_it_saw_when_a_flush_commits_after_it_was_taken(buffer):
    """A flush between the view and the SELECT's snapshot hides no touch."""
    buffer.touch(1)
    view = buffer.view()
    buffer.drain()
    buffer.settle({})
    assert view.get(1) == 1_000_000
    assert buffer.view().get(1) is None


def test_close_counts_what_is_lost_and_takes_nothing_more(buffer):
    """What cannot be kept at shutdown is counted, in flight and late touches included."""
    buffer.touch(1)
    buffer.touch(2)
    buffer.drain()
    buffer.touch(2)
    buffer.touch(3)
    assert buffer.close() == 3
    buffer.touch(4)
    assert buffer.dropped["shutdown"] == 4
    assert len(buffer) == 0
    assert buffer.touches == buffer.coalesced + buffer.dropped["shutdown"]


def test_a_batch_that_comes_back_after_the_end_is_not_taken(buffer):
    """A flush that outlives the shutdown does not bring back what was counted as lost."""
    buffer.touch(1)
    batch = buffer.drain()
    buffer.close()
    buffer.settle(batch)
    assert len(buffer) == 0
    assert buffer.touches == buffer.coalesced + buffer.dropped["shutdown"]


def test_a_view_is_false_while_nothing_is_pending(buffer):
    """A reader then asks the table alone, and may leave the choice of rows to it."""
    view = buffer.view()
    assert not view
    buffer.touch(1)
    assert view
    buffer.drain()
    assert buffer.view()
    buffer.settle({})  # all of it was committed
    assert not buffer.view()
