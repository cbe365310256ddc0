"""Metrics of the caches of API keys and devices: hits and misses."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import Family, families


class Cache(Protocol):
    """What counts its lookups."""

    @property
    def name(self) -> str:
        """The label."""
        ...

    @property
    def hits(self) -> int:
        """How many lookups were hits."""
        ...

    @property
    def misses(self) -> int:
        """How many it did not."""
        ...


_FAMILIES: Final[tuple[Family[Cache], ...]] = (
    Family(
        CounterMetricFamily,
        "auth_cache_hits",
        "Lookups that were served from the cache.",
        lambda cache: cache.hits,
    ),
    Family(
        CounterMetricFamily,
        "auth_cache_misses",
        "Lookups that needed a query.",
        lambda cache: cache.misses,
    ),
)


class CacheMetrics(Collector):
    """Collects the metrics of caches.

    Args:
        caches: what to read; names must differ.
    """

    def __init__(self, caches: Sequence[Cache]) -> None:
        self._caches = {cache.name: cache for cache in caches}

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, self._caches, label="cache")
