"""Metrics of the caches of API keys and devices: hits and misses."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from api.access.lookup import CachedLookup
from tracker.instrumentation import Family, families

_FAMILIES: Final[tuple[Family[CachedLookup[Any, Any]], ...]] = (
    Family(
        CounterMetricFamily,
        "auth_cache_hits",
        "Lookups that the cache answered.",
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

    def __init__(self, caches: Sequence[CachedLookup[Any, Any]]) -> None:
        self._caches = {cache.name: cache for cache in caches}

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, self._caches, label="cache")
