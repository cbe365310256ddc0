"""Reads the tracker for the live view: pending touches, and statistics of every target."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

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

    def service(self, others: Sequence[Sequence[Mapping[str, Any]]] = ()) -> bytes:
        """Return the `service` event: a list of all targets, which is empty if tracking is off.

        Args:
            others: the targets of each other worker, which are added.
        """
        return event(
            "service",
            {"targets": [_merged(one) for one in zip(self.targets(), *others, strict=False)]},
        )

    def targets(self) -> list[dict[str, Any]]:
        """Return the statistics of all targets of this process."""
        names = () if self._tracker is None else self._tracker.buffers
        return [self._target(name) for name in names]

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


_LARGEST: Final = ("lag_s", "flush_s", "failures")
_SUMMED: Final = ("touches", "coalesced", "dropped", "written", "pending")


def _merged(targets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the statistics of one target in all workers; the first are those of this process."""
    merged = dict(targets[0])
    for name in _SUMMED:
        merged[name] = sum(target[name] for target in targets)
    for name in _LARGEST:
        merged[name] = max((target[name] for target in targets), key=lambda value: value or 0)
    return merged
