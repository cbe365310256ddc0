"""The presence of a snapshot's devices, computed again only when it may have changed.

It is computed by `PresenceRule`, as in listings. To compute it for a large group every second
would take longer than everything else that a tick does. So a state is computed when the row of
the device has changed, when the device is seen while it is not online, and at the second at which
the rule says that time alone changes it.
"""

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import compress, count, islice
from operator import ne
from typing import Final, TypeAlias

from api.fleet.presence import Presence, PresenceRule

STORED: Final = """
    CASE WHEN is_online IS NULL THEN 0 ELSE
        4 * coalesce(CASE WHEN isfinite(presence_since)
                     THEN date_part('epoch', presence_since)::bigint END, 0)
        + CASE WHEN is_online THEN 1 ELSE 2 END
    END
"""
"""SQL: what a row says of presence as one number, so that ten thousand are one array."""
_AT_ONCE: Final = 1000
"""How many devices are computed at once; each takes about a microsecond."""
_IS_ONLINE: Final = (None, True, False)

State: TypeAlias = tuple[Presence, int | None]
"""What a device is, and since when in epoch seconds."""


class SnapshotPresence:
    """What each device is, by its number.

    Args:
        rule: computes the presence of a device.
    """

    def __init__(self, rule: PresenceRule) -> None:
        self._rule = rule
        self.states: list[State] = []
        """By number."""
        self._changed: set[int] = set()
        self._stored: list[int] = []
        self._offline_after_s: list[int | None] = []
        self.is_steady: list[bool] = []
        """By number: whether a device stays what it is when it is seen."""
        self._due_at: list[int] = []  # the second of its timer; 0 for none
        self._timers: list[tuple[int, int]] = []  # a heap
        self._outdated: set[int] = set()

    def add(self) -> None:
        """Add a device, with the next number."""
        self.states.append(("never", None))
        self._stored.append(0)
        self._offline_after_s.append(None)
        self.is_steady.append(False)
        self._due_at.append(0)

    def store(self, n: int, stored: int, offline_after_s: int | None) -> None:
        """Take what the row of a device says.

        Args:
            n: its number.
            stored: `STORED` of the row.
            offline_after_s: the device's own or its group's time; None for the default.
        """
        if (self._stored[n], self._offline_after_s[n]) != (stored, offline_after_s):
            self._stored[n] = stored
            self._offline_after_s[n] = offline_after_s
            self._outdated.add(n)

    def store_all(self, order: Sequence[int], stored: Sequence[int]) -> None:
        """Take what all rows say; the times until devices are offline are the same as before.

        Args:
            order: the numbers of the devices.
            stored: `STORED` of each.
        """
        known = map(self._stored.__getitem__, order)
        for i in list(compress(count(), map(ne, stored, known))):
            self._stored[order[i]] = stored[i]
            self._outdated.add(order[i])

    def saw(self, n: int) -> None:
        """Note that a device that is not steady was seen later than before."""
        self._outdated.add(n)

    def update(self, seen: Sequence[int], now: int) -> Iterator[None]:
        """Compute the states that may have changed, and yield now and then.

        Args:
            seen: when each device was last seen, by number, in epoch seconds; 0 for never.
            now: the database's time in epoch seconds.
        """
        while self._timers and self._timers[0][0] <= now:
            second, n = heappop(self._timers)
            if self._due_at[n] == second:
                self._due_at[n] = 0
                self._outdated.add(n)
        while some := list(islice(self._outdated, _AT_ONCE)):
            self._outdated.difference_update(some)
            for n in some:
                self._update(n, seen[n], now)
            yield

    def _update(self, n: int, seen: int, now: int) -> None:
        since, kind = divmod(self._stored[n], 4)
        is_online, after_s = _IS_ONLINE[kind], self._offline_after_s[n]
        state = self._rule.state(
            seen, now, is_online=is_online, since=since or None, offline_after_s=after_s
        )
        if state != self.states[n]:
            self.states[n] = state
            self._changed.add(n)
        is_stored = self._rule.is_watched and is_online is True and since > 0
        self.is_steady[n] = is_stored and state[0] == "online"
        at = self._rule.changes_at(seen, state[0], is_online=is_online, offline_after_s=after_s)
        if at is not None and not 0 < self._due_at[n] <= at:
            self._due_at[n] = at
            heappush(self._timers, (at, n))

    def take_changed(self) -> set[int]:
        """Return the numbers of the devices that changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed
