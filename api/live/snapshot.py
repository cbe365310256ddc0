"""The picture of one group: who is in it, when each was seen, where, and what of it has changed.

Columns, not objects: with 10,000 devices a tick looks up all of them, which takes two milliseconds,
as the loops are the interpreter's own.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, count
from operator import gt
from typing import Final, TypeAlias

import msgspec

from api.live.events import event
from tracker import View

MOST_DEVICES: Final = 10_000
"""The first so many by name are shown of a larger group."""
PIECE_DEVICES: Final = 500
_MOST_NUMBERS: Final = 2 * MOST_DEVICES

Position: TypeAlias = tuple[float, float, float, int]
"""Latitude and longitude in degrees, accuracy in metres, capture time in epoch milliseconds."""


class Shown(msgspec.Struct):
    """A device as watchers see it; `n` names it in later events, `seen` is in epoch seconds."""

    n: int
    device_id: str
    display_name: str
    platform: str
    seen: int | None = None
    location: Position | None = None


class Fleet:
    """The devices of a group by number, and what has changed since `changes()` was asked."""

    def __init__(self) -> None:
        self.of = 0
        """How many active devices the group has, of which the first are here."""
        self._told_of = 0
        self._numbers: dict[str, int] = {}
        self._shown: list[Shown] = []
        self._ids: list[str] = []  # by number; empty for who is gone, so that nothing is found
        self._seen: list[int] = []  # by number; 0 for never
        self._order: list[int] = []
        self._advanced: set[int] = set()
        self._moved: set[int] = set()
        self._altered: set[int] = set()
        self.to_locate: dict[int, None] = {}
        """Who has been active since its position was looked up; the first has waited longest."""
        self._patrolled = 0

    def __len__(self) -> int:
        """Return how many devices are there."""
        return len(self._order)

    @property
    def worn_out(self) -> bool:
        """Whether so many came and went that it had better be made anew."""
        return len(self._numbers) > _MOST_NUMBERS

    def put(self, device_id: str, display_name: str, platform: str, seen: int) -> int:
        """Take note of a device that is there, and return its number.

        Args:
            device_id: in canonical form.
            display_name: what people call it.
            platform: what it runs on.
            seen: when it was active, in epoch seconds; 0 for never.
        """
        n = self._numbers.get(device_id)
        if n is None:
            n = self._numbers[device_id] = len(self._shown)
            self._shown.append(Shown(n, device_id, display_name, platform))
            self._ids.append("")
            self._seen.append(0)
        shown = self._shown[n]
        if not self._ids[n] or (shown.display_name, shown.platform) != (display_name, platform):
            self._ids[n] = device_id
            shown.display_name, shown.platform = display_name, platform
            self._altered.add(n)
            self.to_locate[n] = None
        if seen > self._seen[n]:
            self._advance(n, seen)
        return n

    def keep(self, order: Sequence[int]) -> None:
        """Let go of all devices but some.

        Args:
            order: the numbers of those that stay, as they are ordered in the database.
        """
        kept = set(order)
        # Whoever came while this was told in parts is told once more: some watchers may have been
        # shown a picture since that had yet to have them. Whoever came and left meanwhile goes.
        self._altered |= kept.difference(self._order)
        for n in [n for n, device_id in enumerate(self._ids) if device_id and n not in kept]:
            self._ids[n] = ""
            self._altered.add(n)
            self.to_locate.pop(n, None)
        self._order = list(order)

    def saw(self, seconds: Sequence[int]) -> None:
        """Take note of when all were seen.

        Args:
            seconds: since the epoch, 0 for never, in the order that `keep` was told.
        """
        known = map(self._seen.__getitem__, self._order)
        for i in list(compress(count(), map(gt, seconds, known))):
            self._advance(self._order[i], seconds[i])

    def lay_over(self, view: View, latest: int) -> None:
        """Take note of touches that are not in the table yet.

        Args:
            view: the touches.
            latest: the database's second: what lies after it would not be stored.
        """
        seconds = view.latest(self._ids)
        for n in list(compress(count(), map(gt, seconds, self._seen))):
            second = min(seconds[n], latest)
            if second > self._seen[n]:
                self._advance(n, second)

    def _advance(self, n: int, second: int) -> None:
        self._seen[n] = second
        self._advanced.add(n)
        self.to_locate[n] = None

    def patrol(self, most: int) -> None:
        """Let the positions of some more devices be looked up, others each time, all in the end.

        A device may move without being seen later than before: within one second or one
        `device_resolution_s`, or while nobody is tracked.

        Args:
            most: how many.
        """
        start = self._patrolled if self._patrolled < len(self._order) else 0
        self._patrolled = start + most
        for n in self._order[start : self._patrolled]:
            self.to_locate.setdefault(n)

    def next_to_locate(self, most: int) -> tuple[list[int], list[str], list[int]]:
        """Return some devices whose positions should be looked up, and forget that they should.

        Args:
            most: how many.

        Returns:
            Their numbers, their ids, and the capture times of the positions that are known, -1 for
            none.
        """
        numbers = list(self.to_locate)[:most]
        for n in numbers:
            del self.to_locate[n]
        known = [self._shown[n].location for n in numbers]
        ids = [self._ids[n] for n in numbers]
        return numbers, ids, [-1 if one is None else one[3] for one in known]

    def locate(self, n: int, position: Position) -> None:
        """Take note of a newer position of a device."""
        self._shown[n].location = position
        self._moved.add(n)

    def pieces(self) -> Iterator[bytes]:
        """Yield all devices as events; a piece takes well under a millisecond."""
        return self._pieces(list(self._order))

    def changes(self, now: float, *, blind: bool = False) -> Iterator[bytes]:
        """Yield what has changed since this was last asked, as events; the last one is the tick.

        Args:
            now: the database's time in epoch seconds.
            blind: whether the database does not say what it knows.
        """
        altered, advanced, moved = self._altered, self._advanced, self._moved
        self._altered, self._advanced, self._moved = set(), set(), set()
        yield from self._pieces([n for n in altered if self._ids[n]])
        tick: dict[str, object] = {"now": now}
        if blind:
            tick["blind"] = True
        if self.of != self._told_of:
            tick["of"] = self._told_of = self.of
        if advanced:
            tick["seen"] = _by_second(advanced - altered, self._seen)
        if moved:
            shown = self._shown
            tick["moved"] = [(n, *(shown[n].location or ())) for n in moved - altered]
        if gone := [n for n in altered if not self._ids[n]]:
            tick["gone"] = gone
        yield event("tick", tick)

    def _pieces(self, numbers: Sequence[int]) -> Iterator[bytes]:
        for start in range(0, len(numbers), PIECE_DEVICES):
            piece = [self._shown[n] for n in numbers[start : start + PIECE_DEVICES]]
            for shown in piece:
                shown.seen = self._seen[shown.n] or None
            yield event("devices", {"devices": piece})


def _by_second(numbers: Iterable[int], seen: Sequence[int]) -> list[tuple[int, list[int]]]:
    found: dict[int, list[int]] = {}
    for n in numbers:
        second = seen[n]
        if second in found:
            found[second].append(n)
        else:
            found[second] = [n]
    return list(found.items())
