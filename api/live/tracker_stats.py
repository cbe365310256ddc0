"""What the tracker tells of itself once a second: pending touches, and how it is doing."""

from typing import Any

from api.access.authentication import DEVICES
from api.live.events import event
from tracker import Tracker, View, no_touches


class TrackerStats:
    """Reads a tracker.

    Args:
        tracker: None when tracking is off.
    """

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker

    def pending(self) -> View:
        """Return the devices' pending touches."""
        return no_touches() if self._tracker is None else self._tracker.pending(DEVICES)

    def drains(self) -> int:
        """Return how often the devices' buffer has been drained."""
        return 0 if self._tracker is None else self._tracker.flushers[DEVICES].counts.flushes

    def service(self) -> bytes:
        """Return the event that says how each target is doing; without tracking it says nothing."""
        targets: dict[str, Any] = {}
        if self._tracker is not None:
            for name, buffer in self._tracker.buffers.items():
                counts = self._tracker.flushers[name].counts
                targets[name] = {
                    "touches": buffer.touches,
                    "coalesced": buffer.coalesced,
                    "dropped": sum(buffer.dropped.values()),
                    "written": counts.written,
                    "pending": len(buffer),
                    "lag_s": round(buffer.lag_s, 3),
                    "flush_s": counts.last_duration_s and round(counts.last_duration_s, 4),
                    "failures": self._tracker.flush_loops[name].failures,
                }
        return event("service", targets)
