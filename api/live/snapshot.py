"""The snapshot of one group: its devices, when each was last seen, where, and what has changed.

Stored as columns, not objects: a tick looks up all of up to 10,000 devices. That takes two
milliseconds, because the loops run in C.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress, count
from operator import gt
from typing import Final, TypeAlias

import msgspec

from api.fleet.presence import Presence, PresenceRule
from api.live.events import event
from api.live.presence import SnapshotPresence, State
from tracker import View

MAX_DEVICES: Final = 10_000
"""Of a larger group, the first so many devices by name are shown."""
CHUNK_DEVICES: Final = 500
_MAX_NUMBERS: Final = 2 * MAX_DEVICES

Position: TypeAlias = tuple[float, float, float | None, int]
"""Latitude and longitude in degrees, accuracy in metres or None if it is unknown, capture time in
epoch milliseconds."""


class DeviceState(msgspec.Struct):
    """A device as it is sent; `n` identifies it in later events, times are in epoch seconds."""

    n: int
    device_id: str
    display_name: str
    platform: str
    seen: int | None = None
    presence: Presence = "never"
    presence_since: int | None = None
    location: Position | None = None


class GroupSnapshot:
    """The devices of a group by number, and what has changed since the last call of `changes()`.

    Args:
        rule: when a device is online.
    """

    def __init__(self, rule: PresenceRule) -> None:
        self.of = 0
        """How many active devices the group has; the snapshot holds the first MAX_DEVICES."""
        self._sent_of = 0
        self._numbers: dict[str, int] = {}
        self._states: list[DeviceState] = []
        self._ids: list[str] = []  # by number; empty for a device that left, so that lookups miss
        self._seen: list[int] = []  # by number; 0 for never
        self._presence = SnapshotPresence(rule)
        self._is_steady = self._presence.is_steady  # as a call for each device would take long
        self._order: list[int] = []
        self._device_ids: list[str] | None = None  # made when it is needed
        self._advanced: set[int] = set()
        self._moved: set[int] = set()
        self._altered: set[int] = set()
        self.to_locate: dict[int, None] = {}
        """Numbers of devices that were active since their position was looked up, oldest first."""
        self._rechecked = 0

    def __len__(self) -> int:
        """Return how many devices the snapshot holds."""
        return len(self._order)

    @property
    def is_exhausted(self) -> bool:
        """Whether so many numbers are used up that a new snapshot should be loaded."""
        return len(self._numbers) > _MAX_NUMBERS

    def put(
        self,
        device_id: str,
        display_name: str,
        platform: str,
        seen: int,
        *,
        stored: tuple[int, int | None] = (0, None),
    ) -> int:
        """Add or update a device, and return its number.

        Args:
            device_id: in canonical form.
            display_name: its name.
            platform: its operating system.
            seen: when it was last seen, in epoch seconds; 0 is never.
            stored: what its row says of presence, see `STORED`, and its own or its group's time
                until it is offline; None for the default.
        """
        n = self._numbers.get(device_id)
        if n is None:
            n = self._numbers[device_id] = len(self._states)
            self._states.append(DeviceState(n, device_id, display_name, platform))
            self._ids.append("")
            self._seen.append(0)
            self._presence.add()
        shown = self._states[n]
        if not self._ids[n] or (shown.display_name, shown.platform) != (display_name, platform):
            self._ids[n] = device_id
            shown.display_name, shown.platform = display_name, platform
            self._altered.add(n)
            self.to_locate[n] = None
        self._presence.store(n, *stored)
        if seen > self._seen[n]:
            self._advance(n, seen)
        return n

    def keep(self, order: Sequence[int]) -> None:
        """Remove all devices except those of a list.

        Args:
            order: the numbers of the devices that stay, in the order of the database.
        """
        kept = set(order)
        # Devices that were added page by page are sent once more: a snapshot that was encoded
        # before this call does not have them. Devices that are not in `order` are removed.
        self._altered |= kept.difference(self._order)
        for n in [n for n, device_id in enumerate(self._ids) if device_id and n not in kept]:
            self._ids[n] = ""
            self._altered.add(n)
            self.to_locate.pop(n, None)
        self._order = list(order)
        self._device_ids = None

    def saw(self, seconds: Sequence[int], stored: Sequence[int]) -> None:
        """Update when all devices were last seen, and what is stored of their presence.

        Args:
            seconds: since the epoch, 0 for never, in the order that was given to `keep`.
            stored: see `STORED`; in the same order.
        """
        self._presence.store_all(self._order, stored)
        known = map(self._seen.__getitem__, self._order)
        for i in list(compress(count(), map(gt, seconds, known))):
            self._advance(self._order[i], seconds[i])

    def overlay(self, view: View, latest: int) -> None:
        """Apply pending touches, which are not in the table yet.

        Args:
            view: the touches.
            latest: the database's time in epoch seconds; later touches are cut to it.
        """
        seconds = view.latest(self._ids)
        for n in list(compress(count(), map(gt, seconds, self._seen))):
            second = min(seconds[n], latest)
            if second > self._seen[n]:
                self._advance(n, second)

    def advance(self, seen: Mapping[str, int], latest: int) -> None:
        """Apply touches of which it is known that they are new.

        Args:
            seen: when devices were last seen, in epoch seconds; other devices may be among them.
            latest: as for `overlay`.
        """
        for device_id, second in seen.items():
            n = self._numbers.get(device_id)
            if n is not None and self._ids[n] and min(second, latest) > self._seen[n]:
                self._advance(n, min(second, latest))

    @property
    def device_ids(self) -> Sequence[str]:
        """All devices; the same object until one comes or goes."""
        if self._device_ids is None:
            self._device_ids = [self._ids[n] for n in self._order]
        return self._device_ids

    def _advance(self, n: int, second: int) -> None:
        self._seen[n] = second
        if not self._is_steady[n]:
            self._presence.saw(n)
        self._advanced.add(n)
        self.to_locate[n] = None

    def recheck(self, most: int) -> None:
        """Schedule a position lookup for the next devices in turn.

        A device may move while its `seen` stays the same: within one second or one
        `device_resolution_s`, or if tracking is off.

        Args:
            most: how many devices.
        """
        start = self._rechecked if self._rechecked < len(self._order) else 0
        self._rechecked = start + most
        for n in self._order[start : self._rechecked]:
            self.to_locate.setdefault(n)

    def next_to_locate(self, most: int) -> tuple[list[int], list[str], list[int]]:
        """Take devices from the queue of position lookups.

        Args:
            most: how many devices.

        Returns:
            Their numbers, their ids, and the capture times of their known positions in epoch
            milliseconds, -1 for none.
        """
        numbers = list(self.to_locate)[:most]
        for n in numbers:
            del self.to_locate[n]
        known = [self._states[n].location for n in numbers]
        ids = [self._ids[n] for n in numbers]
        return numbers, ids, [-1 if one is None else one[3] for one in known]

    def locate(self, n: int, position: Position) -> None:
        """Set a newer position of a device."""
        self._states[n].location = position
        self._moved.add(n)

    def update_presence(self, now: float) -> Iterator[None]:
        """Compute states that may have changed, and yield now and then.

        Args:
            now: the database's time in epoch seconds.
        """
        return self._presence.update(self._seen, int(now))

    def chunks(self, now: float) -> Iterator[bytes]:
        """Yield all devices as events; encoding a chunk takes well under a millisecond.

        Args:
            now: the database's time in epoch seconds.
        """
        for _ in self.update_presence(now):
            pass
        return self._chunks(list(self._order))

    def changes(self, now: float, *, stale: bool = False) -> Iterator[bytes]:
        """Yield what has changed since the last call, as events; the last one is the tick.

        Args:
            now: the database's time in epoch seconds.
            stale: whether the database is unavailable.
        """
        for _ in self.update_presence(now):
            pass
        changed_states = self._presence.take_changed()
        altered, advanced, moved = self._altered, self._advanced, self._moved
        self._altered, self._advanced, self._moved = set(), set(), set()
        yield from self._chunks([n for n in altered if self._ids[n]])
        tick: dict[str, object] = {"now": now}
        if stale:
            tick["stale"] = True
        if self.of != self._sent_of:
            tick["of"] = self._sent_of = self.of
        if advanced:
            tick["seen"] = _by_second(advanced - altered, self._seen)
        if changed := [n for n in changed_states - altered if self._ids[n]]:
            tick["presence"] = _by_presence(changed, self._presence.states)
        if moved:
            shown = self._states
            tick["moved"] = [(n, *(shown[n].location or ())) for n in moved - altered]
        if gone := [n for n in altered if not self._ids[n]]:
            tick["gone"] = gone
        yield event("tick", tick)

    def _chunks(self, numbers: Sequence[int]) -> Iterator[bytes]:
        for start in range(0, len(numbers), CHUNK_DEVICES):
            chunk = [self._states[n] for n in numbers[start : start + CHUNK_DEVICES]]
            for shown in chunk:
                shown.seen = self._seen[shown.n] or None
                shown.presence, shown.presence_since = self._presence.states[shown.n]
            yield event("devices", {"devices": chunk})


def _by_second(numbers: Iterable[int], seen: Sequence[int]) -> list[tuple[int, list[int]]]:
    found: dict[int, list[int]] = {}
    for n in numbers:
        second = seen[n]
        if second in found:
            found[second].append(n)
        else:
            found[second] = [n]
    return list(found.items())


def _by_presence(
    numbers: Iterable[int], states: Sequence[State]
) -> list[tuple[Presence, int | None, list[int]]]:
    found: dict[State, list[int]] = {}
    for n in numbers:
        found.setdefault(states[n], []).append(n)
    return [(*one, some) for one, some in found.items()]
