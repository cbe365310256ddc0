"""Answers the questions of the other workers: what is pending here. See `siblings`."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import compress, count
from operator import gt
from typing import Any, Final

from api.live.tracker_stats import TrackerStats
from api.siblings import Poll
from tracker import View

_KEPT_S: Final = 5.0
"""How long a view is kept for the worker that took it, in seconds."""
_MAX_GROUPS: Final = 1000
"""How many groups one sibling may subscribe to."""


class SiblingAnswers:
    """Answers one sibling.

    Args:
        stats: reads the tracker.
        polls: each returns what this worker has just polled, None if it has not; by the name of the
            question.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self,
        stats: TrackerStats,
        polls: Mapping[str, Poll],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stats = stats
        self._polls = polls
        self._monotonic = monotonic
        self._numbers = count(1)
        self._views: OrderedDict[int, tuple[float, View]] = OrderedDict()
        self._groups: OrderedDict[int, _Group] = OrderedDict()

    def __call__(self, what: str, body: Any) -> Any:
        """Answer a question."""
        if what == "view":
            return self._take_view()
        if what == "latest":
            return self._latest(*body)
        if what == "live":
            return self._live(*body)
        if what in self._polls:
            return self._polls[what]()
        raise ValueError(f"unknown question {what!r}")

    def _take_view(self) -> int:
        now = self._monotonic()
        while self._views and next(iter(self._views.values()))[0] < now - _KEPT_S:
            self._views.popitem(last=False)
        number = next(self._numbers)
        self._views[number] = (now, self._stats.pending())
        return number

    def _latest(self, number: int, device_ids: Sequence[str]) -> dict[str, int]:
        _, view = self._views.pop(number)
        seconds = view.latest(device_ids)
        return {device_ids[i]: seconds[i] for i in compress(count(), seconds)}

    def _live(self, number: int, device_ids: Sequence[str] | None) -> dict[str, Any]:
        if device_ids is not None:
            self._groups[number] = _Group(device_ids, self._stats)
            while len(self._groups) > _MAX_GROUPS:
                self._groups.popitem(last=False)
        group = self._groups.get(number)
        if group is None:
            return {"unknown": True}
        self._groups.move_to_end(number)
        seen, missed = group.news()
        return {
            "unknown": False,
            "seen": seen,
            "missed": missed,
            "targets": self._stats.targets(),
        }


class _Group:
    """The devices of a group that a sibling shows live."""

    def __init__(self, device_ids: Sequence[str], stats: TrackerStats) -> None:
        self._device_ids = device_ids
        self._stats = stats
        self._told = [0] * len(device_ids)
        self._earlier = stats.pending()
        self._drains = stats.drains()

    def news(self) -> tuple[dict[str, int], bool]:
        """Return the new seconds, and whether touches may have been missed."""
        view, drains = self._stats.pending(), self._stats.drains()
        seconds = view.latest(self._device_ids)
        if drains != self._drains:  # the view before still has what one flush has written since
            seconds = list(map(max, seconds, self._earlier.latest(self._device_ids)))
        missed = drains - self._drains > 1
        self._earlier, self._drains = view, drains
        newer = list(compress(count(), map(gt, seconds, self._told)))
        for i in newer:
            self._told[i] = seconds[i]
        return {self._device_ids[i]: seconds[i] for i in newer}, missed
