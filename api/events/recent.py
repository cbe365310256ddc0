"""New events of one group since they were last taken: the newest, and how many there were."""

from collections import Counter, deque
from typing import Final

import msgspec

from api.events.log import Event

_KEPT: Final = 50
"""How many events are kept between two takes; a group that vanishes has thousands."""


class NewEvents(msgspec.Struct, frozen=True):
    """What was new.

    Args:
        counts: how many events of each type.
        events: the newest of them, oldest first.
    """

    counts: dict[str, int]
    events: list[Event]


class RecentEvents:
    """Collects the events of a group."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._events: deque[Event] = deque(maxlen=_KEPT)

    def add(self, event: Event) -> None:
        """Add an event."""
        self._counts[event.type] += 1
        self._events.append(event)

    def take(self) -> NewEvents | None:
        """Return what was added since the last call; None for nothing."""
        if not self._counts:
            return None
        new = NewEvents(dict(self._counts), list(self._events))
        self._counts.clear()
        self._events.clear()
        return new
