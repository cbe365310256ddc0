"""The buffer: the latest second of each touched key, in memory, synchronous, without I/O.

Touches coalesce in the *live* map. `drain()` swaps it for an empty one in O(1). The drained map
stays in the buffer, *in flight*, until `settle()` receives the keys that are still uncommitted;
those are restored. Keys in flight are still pending: a view shows them and capacity counts them.
So no touch leaves the buffer before it is in the table, whatever happens to a flush.

An attached journal receives every change, so a crash loses nothing either.
"""

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final

from tracker._buffer.view import View
from tracker._journal.journal import Journal
from tracker.keys import CANONICAL, PLAIN, Entries, Key
from tracker.target import Target
from tracker.times import Time, second_of

_LATEST_SECOND: Final = 1 << 40
"""Far beyond any real time, and far below what overflows in Postgres; a later touch is invalid."""
_FEW_KEYS: Final = 10_000
"""For up to so many restored keys the lag is exact."""


def _no_journal(_key: object, _second: int) -> None:
    """Do nothing: no journal is attached."""


class Buffer:
    """The pending touches of one target.

    Args:
        target: what is buffered, at which resolution and up to which capacity.
        clock: wall clock in seconds since the epoch, for what is stored.
        monotonic: monotonic clock in seconds, for the lag.
    """

    __slots__ = (
        "_announced",
        "_append",
        "_canonical",
        "_clock",
        "_closed",
        "_created",
        "_drained_fresh_since",
        "_drained_since",
        "_dropped_pending",
        "_fresh",
        "_fresh_since",
        "_in_flight",
        "_is_coarse",
        "_live",
        "_merged",
        "_monotonic",
        "_newest",
        "_overlap",
        "_plain",
        "_resolution_s",
        "_restored",
        "_since",
        "dropped",
        "journal",
        "on_high_water",
        "target",
        "touches",
    )

    def __init__(
        self,
        target: Target,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.touches = 0
        self.dropped = {"capacity": 0, "invalid": 0, "shutdown": 0}
        self.on_high_water: Callable[[], None] = lambda: None
        self.journal: Journal | None = None
        self._append: Callable[[object, int], None] = _no_journal
        self._canonical = CANONICAL[target.key_type]
        self._plain = PLAIN[target.key_type]
        self._resolution_s = target.resolution_s
        self._is_coarse = target.resolution_s != 1
        self._clock = clock
        self._monotonic = monotonic
        self._newest = 0  # one int object that keys share, instead of 32 bytes for each
        self._live: Entries = {}
        self._in_flight: Entries = {}
        self._overlap = 0  # keys that are both live and in flight
        # The time of the oldest touch: of all that are live, and of those that were not restored.
        self._since = self._drained_since = 0.0
        self._fresh_since = self._drained_fresh_since = 0.0
        self._fresh = False  # whether anything came since the last drain
        # The restored keys, which are older. If they are many, this is a live view of a map that
        # gets newer keys, too: nothing is copied, but the lag may be too high for one flush.
        self._restored: AbstractSet[Key] = frozenset()
        self._announced = False  # whether on_high_water was called since the last drain
        self._created = self._merged = self._dropped_pending = 0
        self._closed = False

    def attach(self, journal: Journal) -> None:
        """Append all that is pending, and every change from now on, to a journal."""
        self.journal = journal
        self._append = journal.append
        for key, second in self._live.items():
            journal.append(key, second)

    def touch(self, key: object, at: Time | None = None, now: float | None = None) -> None:
        """Record that `key` was active; never blocks, never raises.

        For the event loop's thread only: nothing here is locked.

        Args:
            key: in a spelling of the target's key type, see `tracker.keys`. Anything else is
                dropped and counted, whatever is pending.
            at: when, see `tracker.times.second_of`; by default now. What is no time, or more than
                a minute ahead of the clock, is dropped and counted; less than that counts as now.
            now: what the clock says, from a caller that has just read it.
        """
        self.touches += 1
        if now is None:
            now = self._clock()
        if at is None:
            second = int(now)
        else:
            try:
                second = second_of(at, now)
            except Exception:  # noqa: BLE001 - a time zone may raise anything
                self.dropped["invalid"] += 1
                return
        try:
            seen = self._live.get(key)  # type: ignore[call-overload]
        except Exception:  # noqa: BLE001 - not hashable, or its __hash__ fails: no key
            self.dropped["invalid"] += 1
            return
        if seen is None or type(key) is not self._plain:  # True and 1.0 find the entry of 1, too
            self._insert(key, second - second % self._resolution_s)
        elif seen < second:
            if self._is_coarse:
                second -= second % self._resolution_s
                if second <= seen:
                    return
            if second != self._newest:  # as _shared does, without the call
                self._newest = second
            self._live[key] = self._newest
            self._append(key, second)

    def recover(self, key: object, second: int) -> None:
        """Record a touch from an orphaned journal, at its own time even if that is later than now.

        Args:
            key: in a spelling of the target's key type.
            second: when, since the epoch.

        Raises:
            RuntimeError: the buffer is closed.
        """
        if self._closed:
            raise RuntimeError("a touch was recovered into a buffer that is closed")
        self.touches += 1
        created = self._created
        self._insert(key, second)
        if self._created != created:
            since = self._monotonic() - max(0.0, self._clock() - second)
            self._since = min(self._since, since)
            self._fresh_since = min(self._fresh_since, since)

    def _insert(self, given: object, second: int) -> None:
        """Record a touch of a key that is not in the live map, at least not in this form."""
        try:
            key = self._canonical(given)
        except Exception:  # noqa: BLE001 - a ValueError, or what a proxy's class raises
            self.dropped["invalid"] += 1
            return
        if not 0 <= second < _LATEST_SECOND:
            self.dropped["invalid"] += 1
            return
        live = self._live
        seen = live.get(key)
        if seen is not None:
            if seen < second:
                live[key] = second
                self._append(key, second)
            return
        if self._closed:
            self.dropped["shutdown"] += 1
            return
        if key in self._in_flight:  # takes no room of its own: a restore merges both
            self._overlap += 1
        elif len(self) >= self.target.capacity_keys:
            self.dropped["capacity"] += 1
            return
        self._create(key, second)

    def _create(self, key: Key, second: int) -> None:
        live = self._live
        if not self._fresh:
            self._fresh = True
            self._fresh_since = self._monotonic()
            if not live:
                self._since = self._fresh_since
        live[key] = self._shared(second)
        self._append(key, second)
        self._created += 1
        if not self._announced and len(live) >= self.target.high_water:
            self._announced = True
            self.on_high_water()

    def _shared(self, second: int) -> int:
        """Return one object for all keys that are touched in the same second."""
        if second != self._newest:
            self._newest = second
        return self._newest

    def __len__(self) -> int:
        """The number of distinct keys pending, in flight ones included."""
        return len(self._live) + len(self._in_flight) - self._overlap

    @property
    def coalesced(self) -> int:
        """How many touches went into an entry that was pending already."""
        dropped_touches = sum(self.dropped.values()) - self._dropped_pending
        return self.touches - self._created - dropped_touches + self._merged

    @property
    def lag_s(self) -> float:
        """Age of the oldest touch that is not committed, in seconds; 0 when there is none."""
        if self._in_flight:
            return self._monotonic() - self._drained_since
        if self._live:
            return self._monotonic() - self._since
        return 0.0

    def drain(self) -> Entries:
        """Swap the live map for an empty one and return it; it stays pending until `settle()`.

        Raises:
            RuntimeError: the last drain has not been settled.
        """
        if self._in_flight:
            raise RuntimeError("drained again before the last drain was settled")
        self._in_flight, self._live = self._live, {}
        self._drained_since = self._since
        self._drained_fresh_since = self._fresh_since
        self._fresh = self._announced = False
        if self.journal is not None:
            self.journal.drained()
        return self._in_flight

    def settle(self, uncommitted: Entries) -> None:
        """End a drain: restore what was not committed; the rest leaves the buffer.

        The smaller map is merged into the larger one. If a flush fails at once, the cost is that of
        the few touches that came in meanwhile, however full the buffer is.

        Args:
            uncommitted: what must be written again: the drained dict itself, or a new one with some
                of its entries. The buffer takes it over and changes it.
        """
        if self._closed:  # close() has counted or kept these
            return
        live, drained = self._live, self._in_flight
        self._in_flight = {}
        self._overlap = 0
        if self.journal is not None:
            self.journal.settled(uncommitted)
        if not uncommitted:
            self._restored = frozenset()
            return
        few = uncommitted is not drained and len(uncommitted) <= _FEW_KEYS
        all_old_committed = few and self._restored.isdisjoint(uncommitted)
        self._since = self._drained_fresh_since if all_old_committed else self._drained_since
        self._restored = frozenset(uncommitted) if few else uncommitted.keys()
        small, large = (live, uncommitted) if len(live) < len(uncommitted) else (uncommitted, live)
        for key, second in small.items():
            seen = large.get(key)
            if seen is None:
                large[key] = second
            else:
                self._merged += 1
                if seen < second:
                    large[key] = second
        self._live = large

    @property
    def is_journaled(self) -> bool:
        """Whether all that is pending would survive a crash."""
        return self.journal is not None and not self.journal.degraded

    def close(self) -> int:
        """Accept no more touches; what is pending stays in the journal, for the next process.

        Without a journal, or if it is degraded, what is pending is dropped and counted as lost at
        shutdown.

        Returns:
            The number of keys that were dropped.
        """
        self._closed = True
        self._merged += self._overlap
        pending = {key: max(at, self._live.get(key, 0)) for key, at in self._in_flight.items()}
        self._in_flight = self._live | pending
        self._live, self._overlap = {}, 0
        if self.is_journaled:
            return 0
        lost = len(self)
        self._in_flight = {}
        self._dropped_pending += lost
        self.dropped["shutdown"] += lost
        return lost

    def view(self) -> View:
        """Return what is pending now, to overlay on rows that are read after this call."""
        # The live map is included even if it is empty: it shows what comes in until the next drain.
        maps = [self._live, self._in_flight] if self._in_flight else [self._live]
        return View(maps, self.target.key_type)
