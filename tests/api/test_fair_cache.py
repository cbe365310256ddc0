"""A full cache evicts entries of the owner that has most; others keep their share."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from api.access.fair_cache import FairCache
from tests.support.untimed import UNTIMED


def cache_of(capacity: int) -> FairCache[int, str]:
    """Return a cache in which a value's first letter is its owner."""
    return FairCache(capacity, lambda value: value[0])


def test_an_owner_above_its_share_evicts_only_its_own_entries():
    """Others keep all that they have, as long as it is within their share."""
    cache = cache_of(100)
    for key in range(20):
        cache.put(key, "b")
    for key in range(1000, 2000):
        cache.put(key, "a")
    assert len(cache) == 100
    assert [key for key in range(20) if key not in cache] == []
    assert [key for key in range(1920, 2000) if key not in cache] == []


def test_a_single_owner_uses_the_whole_cache_until_another_needs_its_share():
    """A new owner takes entries of the owner that has most, up to half."""
    cache = cache_of(100)
    for key in range(200):
        cache.put(key, "a")
    for key in range(1000, 1200):
        cache.put(key, "b")
    assert len(cache) == 100
    assert sum(key in cache for key in range(200)) == 50
    assert sum(key in cache for key in range(1000, 1200)) == 50


def test_the_least_recently_used_entry_of_an_owner_is_evicted():
    """Within an owner's share the least recently used entry goes."""
    cache = cache_of(3)
    for key in (1, 2, 3):
        cache.put(key, "a")
    assert cache.get(1) == "a"
    assert cache.peek(2) == "a"
    cache.put(4, "a")
    assert [key for key in (1, 2, 3, 4) if key in cache] == [1, 3, 4]


def test_an_entry_can_change_its_owner():
    """It counts for the new one alone."""
    cache = cache_of(2)
    cache.put(1, "a")
    cache.put(1, "b")
    assert (cache.get(1), len(cache)) == ("b", 1)
    cache.pop(1)
    cache.pop(1)
    assert (cache.get(1), cache.peek(1), len(cache)) == (None, None, 0)


@UNTIMED
@given(
    st.lists(st.tuples(st.sampled_from("pgo"), st.integers(0, 30), st.sampled_from("abcde"))),
    st.integers(1, 12),
)
def test_no_owner_below_its_share_is_evicted(steps, capacity):
    """Whatever is put, got and removed in whatever order."""
    cache = cache_of(capacity)
    held: dict[int, str] = {}
    for step, key, owner in steps:
        if step == "p":
            others = {one: at for one, at in held.items() if at != owner and one != key}
            shares = Counter(others.values())
            cache.put(key, owner)
            held[key] = owner
            gone = [one for one in held if one not in cache]
            assert len(gone) <= 1
            for one in gone:
                lost_by = held.pop(one)
                if lost_by != owner:
                    assert shares[lost_by] == max(shares.values())
        elif step == "g":
            assert cache.get(key) == held.get(key)
        else:
            cache.pop(key)
            held.pop(key, None)
        assert len(cache) == len(held) <= capacity
        assert {one: cache.peek(one) for one in held} == held
