"""A cache that is shared fairly: a full cache evicts from the owner with the most entries.

In a plain LRU cache, one group with more devices than the capacity evicts the devices of all other
groups, which are then unknown in the next outage. Here each owner has its own list in the order of
use. The cache evicts the least recently used entry of the owner that adds one if that owner has
more than its equal share, else of the owner with the most entries.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FairCache(Generic[K, V]):
    """A bounded mapping, shared by owners.

    Args:
        capacity: the most entries, 1 or more.
        owner_of: returns the owner of a value.
    """

    def __init__(self, capacity: int, owner_of: Callable[[V], Hashable]) -> None:
        self._capacity = capacity
        self._owner_of = owner_of
        self._owners: dict[Hashable, OrderedDict[K, V]] = {}
        self._owner_by_key: dict[K, Hashable] = {}

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._owner_by_key)

    def __contains__(self, key: K) -> bool:
        """Whether there is an entry; that does not count as a use of it."""
        return key in self._owner_by_key

    def peek(self, key: K) -> V | None:
        """Return an entry or None; that does not count as a use of it."""
        if key not in self._owner_by_key:
            return None
        return self._owners[self._owner_by_key[key]][key]

    def get(self, key: K) -> V | None:
        """Return an entry or None, and note that it was used."""
        if key not in self._owner_by_key:
            return None
        entries = self._owners[self._owner_by_key[key]]
        entries.move_to_end(key)
        return entries[key]

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield all keys and values."""
        for entries in self._owners.values():
            yield from entries.items()

    def put(self, key: K, value: V) -> None:
        """Add or replace an entry, and remove another one if there are too many."""
        owner = self._owner_of(value)
        if self._owner_by_key.get(key, owner) != owner:
            self.pop(key)
        entries = self._owners.setdefault(owner, OrderedDict())
        entries[key] = value
        entries.move_to_end(key)
        self._owner_by_key[key] = owner
        if len(self._owner_by_key) > self._capacity:
            self._evict(owner)

    def pop(self, key: K) -> None:
        """Remove an entry, if there is one."""
        if key in self._owner_by_key:
            self._remove(self._owner_by_key[key], key)

    def _evict(self, newest: Hashable) -> None:
        owner = newest
        if len(self._owners[owner]) * len(self._owners) <= self._capacity:
            owner = max(self._owners, key=lambda one: len(self._owners[one]))
        self._remove(owner, next(iter(self._owners[owner])))

    def _remove(self, owner: Hashable, key: K) -> None:
        del self._owner_by_key[key]
        del self._owners[owner][key]
        if not self._owners[owner]:
            del self._owners[owner]
