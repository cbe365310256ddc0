"""How often the caches of keys and devices spare the database a question, for Prometheus."""

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from api.access.lookup import CachedLookup


class CacheMetrics(Collector):
    """Reads the caches' own counts when somebody scrapes.

    Args:
        caches: what to read; names must differ.
    """

    def __init__(self, caches: Sequence[CachedLookup[Any, Any]]) -> None:
        self._caches = caches

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        hits = CounterMetricFamily(
            "auth_cache_hits", "Look-ups that memory answered.", labels=["cache"]
        )
        misses = CounterMetricFamily(
            "auth_cache_misses", "Look-ups that the database had to answer.", labels=["cache"]
        )
        for cache in self._caches:
            hits.add_metric([cache.name], cache.hits)
            misses.add_metric([cache.name], cache.misses)
        yield from (hits, misses)
