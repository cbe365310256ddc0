"""Reads the tracker for the live view: pending touches, and statistics of every target."""

from collections.abc import Mapping
from typing import Any

from api.live.events import event
from api.targets import DEVICES
from tracker import Tracker, View, no_touches


class TrackerStats:
    """Reads a tracker.

    Args:
        tracker: None if tracking is off.
        labels: the displayed name of each target; its own name by default.
    """

    def __init__(self, tracker: Tracker | None, labels: Mapping[str, str]) -> None:
        self._tracker = tracker
        self._labels = labels

    def pending(self) -> View:
        """Return the devices' pending touches."""
        return no_touches() if self._tracker is None else self._tracker.pending(DEVICES)

    def drains(self) -> int:
        """Return how often the devices' buffer has been drained."""
        return 0 if self._tracker is None else self._tracker.flushers[DEVICES].counts.flushes

    def service(self) -> bytes:
        """Return the `service` event: a list of all targets, which is empty if tracking is off."""
        names = () if self._tracker is None else self._tracker.buffers
        return event("service", {"targets": [self._target(name) for name in names]})

    def _target(self, name: str) -> dict[str, Any]:
        assert self._tracker is not None  # noqa: S101 - otherwise there are no names
        buffer, counts = self._tracker.buffers[name], self._tracker.flushers[name].counts
        return {
            "name": name,
            "label": self._labels.get(name, name),
            "touches": buffer.touches,
            "coalesced": buffer.coalesced,
            "dropped": sum(buffer.dropped.values()),
            "written": counts.written,
            "pending": len(buffer),
            "lag_s": round(buffer.lag_s, 3),
            "flush_s": counts.last_duration_s and round(counts.last_duration_s, 4),
            "failures": self._tracker.flush_loops[name].failures,
        }
