"""A histogram of plain integers, cheap enough for the request path, read only at scrape time."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Counts of observations in buckets with fixed upper bounds.

    Args:
        bounds: upper bounds of the buckets, ascending and inclusive; a last bucket is added.
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts in the form of `prometheus_client`: (upper bound, count)."""
        labels = [*map(str, map(float, self._bounds)), "+Inf"]
        return list(zip(labels, accumulate(self._counts), strict=True))
