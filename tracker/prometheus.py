"""The tracker's metrics for Prometheus, read from plain numbers when they are scraped."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, count
from typing import Final
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tracker._buffer.buffer import Buffer
from tracker._flush.counts import FlushCounts
from tracker._flush.loop import FlushLoop
from tracker._journal.journal import Journal
from tracker.instrumentation import Family, families
from tracker.tracker import Tracker

_Counter: Final = CounterMetricFamily
_Gauge: Final = GaugeMetricFamily
_Histogram: Final = HistogramMetricFamily

_BUFFER: Final[tuple[Family[Buffer], ...]] = (
    Family(_Counter, "activity_touches", "Touches recorded or dropped.", lambda b: b.touches),
    Family(
        _Counter,
        "activity_touches_coalesced",
        "Touches that went into an entry that was pending already.",
        lambda b: b.coalesced,
    ),
    Family(
        _Counter,
        "activity_touches_dropped",
        "Touches that were not kept, by reason.",
        lambda b: b.dropped,
        by="reason",
    ),
    Family(_Gauge, "activity_buffer_keys", "Distinct keys pending.", len),
    Family(
        _Gauge,
        "activity_buffer_capacity_keys",
        "The most keys that may be pending.",
        lambda b: b.target.capacity_keys,
    ),
    Family(
        _Gauge, "activity_lag_seconds", "Age of the oldest touch not committed.", lambda b: b.lag_s
    ),
)
_FLUSH: Final[tuple[Family[tuple[FlushCounts, FlushLoop]], ...]] = (
    Family(
        _Counter,
        "activity_flushes",
        "Flushes: success, partial (some rows were locked) or failed.",
        lambda f: {name: getattr(f[0], name) for name in ("success", "partial", "failed")},
        by="outcome",
    ),
    Family(
        _Counter,
        "activity_flush_keys",
        "Drained keys by outcome.",
        lambda f: {
            name: getattr(f[0], name) for name in ("written", "unchanged", "missing", "rejected")
        },
        by="outcome",
    ),
    Family(
        _Counter,
        "activity_flush_corrected_keys",
        "Of the written keys, those whose stored time was in the future.",
        lambda f: f[0].corrected,
    ),
    Family(
        _Gauge,
        "activity_flush_hidden_keys",
        "Keys that the last flush kept because the table may not show their rows.",
        lambda f: f[0].hidden,
    ),
    Family(
        _Histogram,
        "activity_flush_duration_seconds",
        "Time a flush took.",
        lambda f: f[0].duration_s,
    ),
    Family(
        _Histogram,
        "activity_flush_chunk_rows",
        "Keys in one committed UPDATE.",
        lambda f: f[0].chunk_rows,
    ),
    Family(
        _Gauge,
        "activity_flush_consecutive_failures",
        "Failed flushes since the last success.",
        lambda f: f[1].failures,
    ),
    Family(
        _Gauge,
        "activity_flush_permanent_error",
        "1 if flushes fail until a table, a column or a permission is changed.",
        lambda f: f[1].permanent_error is not None,
    ),
    Family(
        _Gauge,
        "activity_last_flush_success_timestamp_seconds",
        "When keys were last committed, since the epoch; 0 before the first time.",
        lambda f: f[0].last_success_at,
    ),
)
_JOURNAL: Final[tuple[Family[Journal], ...]] = (
    Family(
        _Gauge,
        "activity_journal_degraded",
        "1 if a crash would lose touches now: the journal misses some that are pending.",
        lambda j: j.degraded,
    ),
    Family(
        _Counter,
        "activity_journal_missed_touches",
        "Touches that the journal had no room for.",
        lambda j: j.missed,
    ),
    Family(
        _Gauge, "activity_journal_bytes", "Room that the journal takes.", lambda j: j.size_bytes
    ),
    Family(
        _Gauge,
        "activity_journal_capacity_bytes",
        "The most room that the journal may take; half of it is for rewriting.",
        lambda j: j.capacity_bytes,
    ),
)
_RECOVERED: Final[tuple[Family[int], ...]] = (
    Family(
        _Counter,
        "activity_journal_recovered_touches",
        "Touches taken over from processes that were killed.",
        lambda touches: touches,
    ),
)
_FOREIGN: Final[tuple[Family[int], ...]] = (
    Family(
        _Gauge,
        "activity_journal_foreign_segments",
        "Segments of dead processes' journals that belong to another version, table or "
        "database, or cannot be read.",
        lambda segments: segments,
    ),
)


class TrackerCollector(Collector):
    """Collects metrics of trackers: `REGISTRY.register(TrackerCollector(tracker))`.

    A registry takes one collector for each name of a metric, so several trackers share one.
    Targets of the same name in two trackers get a number in the label: `users`, `users-2`.

    Args:
        trackers: the trackers to read.
    """

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = list(trackers)

    def add(self, tracker: Tracker) -> None:
        """Read one more tracker."""
        self._trackers.append(tracker)

    def remove(self, tracker: Tracker) -> None:
        """Read a tracker no longer."""
        self._trackers.remove(tracker)

    def __len__(self) -> int:
        """The number of trackers."""
        return len(self._trackers)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family of the trackers."""
        buffers: dict[str, Buffer] = {}
        flushes: dict[str, tuple[FlushCounts, FlushLoop]] = {}
        recovered: dict[str, int] = {}
        for tracker in self._trackers:
            for name, buffer in tracker.buffers.items():
                label = _free(name, buffers)
                buffers[label] = buffer
                if name in tracker.flushers:
                    flushes[label] = tracker.flushers[name].counts, tracker.flush_loops[name]
                if name in tracker.recovered:
                    recovered[label] = tracker.recovered[name]
        journals = {name: b.journal for name, b in buffers.items() if b.journal is not None}
        foreign = [t.foreign_segments for t in self._trackers if t.foreign_segments is not None]
        yield from families(_BUFFER, buffers, label="target")
        yield from families(_FLUSH, flushes, label="target")
        yield from families(_JOURNAL, journals, label="target")
        yield from families(_RECOVERED, recovered, label="target")
        yield from families(_FOREIGN, {"": sum(foreign)} if foreign else {})


def _free(name: str, taken: Mapping[str, object]) -> str:
    labels = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(label for label in labels if label not in taken)


_collectors: Final[WeakKeyDictionary[CollectorRegistry, TrackerCollector]] = WeakKeyDictionary()
"""The collector that the trackers of a registry share."""


@contextmanager
def exporting_metrics(tracker: Tracker, registry: CollectorRegistry = REGISTRY) -> Iterator[None]:
    """Export a tracker's metrics while the block runs.

    Any number of trackers may export to one registry at the same time, or one after the other, such
    as those of an application that is made for each test.

    Args:
        tracker: the tracker to read.
        registry: where its metrics are exported; by default that of `prometheus_client`.
    """
    collector = _collectors.setdefault(registry, TrackerCollector())
    collector.add(tracker)
    try:
        if len(collector) == 1:
            registry.register(collector)
        yield
    finally:
        collector.remove(tracker)
        if not len(collector):
            with suppress(KeyError):  # it could not be registered
                registry.unregister(collector)
