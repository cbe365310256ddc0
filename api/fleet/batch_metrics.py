"""Metrics of the batch commit: outcomes of uploads, how many wait, and the size of batches."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from api.config import IngestSettings
from tracker.instrumentation import Family, Histogram, families

_DURATION_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class BatchStats:
    """The numbers that the batch commit counts.

    Args:
        settings: the limits of what may wait.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self.settings = settings
        self.waiting_rows = self.waiting_bytes = 0
        """For all waiting uploads, including those that wait for a locked device."""
        self.outcomes = Counter(dict.fromkeys(("stored", "rejected", "unavailable", "shed"), 0))
        self.batch_rows = Histogram(_ROWS_BOUNDS)
        self.write_s = Histogram(_DURATION_BOUNDS_S)


_FAMILIES: Final[tuple[Family[BatchStats], ...]] = (
    Family(
        CounterMetricFamily,
        "ingest_uploads",
        "Uploads by outcome; shed: too many uploads were waiting.",
        lambda stats: stats.outcomes,
        by="outcome",
    ),
    Family(
        GaugeMetricFamily,
        "ingest_waiting_rows",
        "Reports waiting for a write.",
        lambda stats: stats.waiting_rows,
    ),
    Family(
        GaugeMetricFamily,
        "ingest_waiting_bytes",
        "Bytes of the bodies that wait for a write.",
        lambda stats: stats.waiting_bytes,
    ),
    Family(
        GaugeMetricFamily,
        "ingest_capacity_rows",
        "The most reports that may wait; beyond it uploads are shed.",
        lambda stats: stats.settings.waiting_rows,
    ),
    Family(
        GaugeMetricFamily,
        "ingest_capacity_bytes",
        "The most bytes that may wait; beyond it uploads are shed.",
        lambda stats: stats.settings.waiting_bytes,
    ),
    Family(
        HistogramMetricFamily,
        "ingest_batch_rows",
        "Reports committed together.",
        lambda stats: stats.batch_rows,
    ),
    Family(
        HistogramMetricFamily,
        "ingest_write_duration_seconds",
        "Time to commit a batch.",
        lambda stats: stats.write_s,
    ),
)


class BatchMetrics(Collector):
    """Collects the metrics of the batch commit.

    Args:
        stats: what to read.
    """

    def __init__(self, stats: BatchStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self._stats})
