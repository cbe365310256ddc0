"""Metrics of requests: their durations by method, route and status, and how many are in progress.

The histogram has three labels of its own, so it is built here and not from a table of families.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import Family, Histogram, families

_BOUNDS_S: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class RequestMetrics(Collector):
    """Counts requests, and collects their metrics."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Requests in progress."""
        self._durations: dict[tuple[str, str, int], Histogram] = {}

    def count(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a request that has ended.

        Args:
            method: HTTP method.
            route: template of the route.
            status: HTTP status of the response.
            duration_s: from the header to the response, in seconds.
        """
        key = (method, route, status)
        histogram = self._durations.get(key)
        if histogram is None:
            histogram = self._durations[key] = Histogram(_BOUNDS_S)
        histogram.observe(duration_s)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        durations = HistogramMetricFamily(
            "http_request_duration_seconds",
            "Time from a request's header to its response; status 499: the client disconnected.",
            labels=["method", "route", "status"],
        )
        for (method, route, status), histogram in self._durations.items():
            durations.add_metric([method, route, str(status)], histogram.buckets(), histogram.total)
        yield durations
        yield from families(_IN_FLIGHT, {"": self})


_IN_FLIGHT: Final[tuple[Family[RequestMetrics], ...]] = (
    Family(
        GaugeMetricFamily,
        "http_requests_in_flight",
        "Requests in progress.",
        lambda requests: requests.in_flight,
    ),
)
