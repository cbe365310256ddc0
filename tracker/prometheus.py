"""The tracker's numbers for Prometheus, read from plain integers when somebody scrapes."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tracker.tracker import Tracker

_TARGET: Final = ["target"]


class TrackerCollector(Collector):
    """Collects a tracker's metrics: `REGISTRY.register(TrackerCollector(tracker))`.

    Args:
        tracker: the tracker to read.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family of the tracker."""
        yield from self._buffer_metrics()
        yield from self._flush_metrics()
        yield from self._journal_metrics()

    def _buffer_metrics(self) -> Iterator[Metric]:
        touches = CounterMetricFamily(
            "activity_touches", "Touches recorded or dropped.", labels=_TARGET
        )
        coalesced = CounterMetricFamily(
            "activity_touches_coalesced",
            "Touches that went into an entry that was pending already.",
            labels=_TARGET,
        )
        dropped = CounterMetricFamily(
            "activity_touches_dropped",
            "Touches that were not kept, by reason.",
            labels=[*_TARGET, "reason"],
        )
        keys = GaugeMetricFamily("activity_buffer_keys", "Distinct keys pending.", labels=_TARGET)
        capacity = GaugeMetricFamily(
            "activity_buffer_capacity_keys", "The most keys that may be pending.", labels=_TARGET
        )
        lag = GaugeMetricFamily(
            "activity_lag_seconds", "Age of the oldest touch not committed.", labels=_TARGET
        )
        for name, buffer in self._tracker.buffers.items():
            touches.add_metric([name], buffer.touches)
            coalesced.add_metric([name], buffer.coalesced)
            for reason, count in buffer.dropped.items():
                dropped.add_metric([name, reason], count)
            keys.add_metric([name], len(buffer))
            capacity.add_metric([name], buffer.target.capacity_keys)
            lag.add_metric([name], buffer.lag_s)
        yield from (touches, coalesced, dropped, keys, capacity, lag)

    def _journal_metrics(self) -> Iterator[Metric]:
        degraded = GaugeMetricFamily(
            "activity_journal_degraded",
            "1 if a crash would lose touches now: the journal misses some that are pending.",
            labels=_TARGET,
        )
        missed = CounterMetricFamily(
            "activity_journal_missed_touches",
            "Touches that the journal had no room for.",
            labels=_TARGET,
        )
        size = GaugeMetricFamily(
            "activity_journal_bytes", "Room that the journal takes.", labels=_TARGET
        )
        capacity = GaugeMetricFamily(
            "activity_journal_capacity_bytes",
            "The most room that the journal may take; half of it is for rewriting.",
            labels=_TARGET,
        )
        recovered = CounterMetricFamily(
            "activity_journal_recovered_touches",
            "Touches taken over from processes that were killed.",
            labels=_TARGET,
        )
        for name, buffer in self._tracker.buffers.items():
            if buffer.journal is not None:
                degraded.add_metric([name], buffer.journal.degraded)
                missed.add_metric([name], buffer.journal.missed)
                size.add_metric([name], buffer.journal.size_bytes)
                capacity.add_metric([name], buffer.journal.capacity_bytes)
        for name, touches in self._tracker.recovered.items():
            recovered.add_metric([name], touches)
        yield from (degraded, missed, size, capacity, recovered)
        foreign_segments = GaugeMetricFamily(
            "activity_journal_foreign_segments",
            "Segments of dead processes' journals that belong to another version, table or "
            "database, or cannot be read.",
        )
        if self._tracker.foreign_segments is not None:
            foreign_segments.add_metric([], self._tracker.foreign_segments)
        yield foreign_segments

    def _flush_metrics(self) -> Iterator[Metric]:
        flushes = CounterMetricFamily(
            "activity_flushes",
            "Flushes: success, partial (some rows were locked) or failed.",
            labels=[*_TARGET, "outcome"],
        )
        keys = CounterMetricFamily(
            "activity_flush_keys",
            "Drained keys by what became of them.",
            labels=[*_TARGET, "outcome"],
        )
        duration = HistogramMetricFamily(
            "activity_flush_duration_seconds", "Time a flush took.", labels=_TARGET
        )
        rows = HistogramMetricFamily(
            "activity_flush_chunk_rows", "Keys in one committed UPDATE.", labels=_TARGET
        )
        failures = GaugeMetricFamily(
            "activity_flush_consecutive_failures",
            "Failed flushes since the last success.",
            labels=_TARGET,
        )
        permanent = GaugeMetricFamily(
            "activity_flush_permanent_error",
            "1 if flushes fail until somebody changes something: a table, a column, a permission.",
            labels=_TARGET,
        )
        success = GaugeMetricFamily(
            "activity_last_flush_success_timestamp_seconds",
            "When keys were last committed, since the epoch; 0 before the first time.",
            labels=_TARGET,
        )
        for name, flush in self._tracker.flushers.items():
            counts = flush.counts
            for outcome in ("success", "partial", "failed"):
                flushes.add_metric([name, outcome], getattr(counts, outcome))
            for outcome in ("written", "unchanged", "missing", "rejected"):
                keys.add_metric([name, outcome], getattr(counts, outcome))
            duration.add_metric([name], counts.duration_s.buckets(), counts.duration_s.total)
            rows.add_metric([name], counts.chunk_rows.buckets(), counts.chunk_rows.total)
            success.add_metric([name], counts.last_success_at)
        for name, flusher in self._tracker.flush_loops.items():
            failures.add_metric([name], flusher.failures)
            permanent.add_metric([name], flusher.permanent_error is not None)
        yield from (flushes, keys, duration, rows, failures, permanent, success)
