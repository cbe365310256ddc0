"""Metrics of several workers as those of one service: what is added up, and what is not.

Counters and histograms are added up, with those of workers that are gone: a counter never goes
back when a worker is replaced. A gauge is what its meaning says: of keys that are pending the sum,
of lags the largest.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any, Final, TypeAlias

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Families: TypeAlias = list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]
"""Metric families: name, documentation, type, and samples of name, labels and value."""
_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]

LARGEST: Final = (
    "activity_build",
    "activity_devices",
    "activity_flush_consecutive_failures",
    "activity_flush_permanent_error",
    "activity_journal_degraded",
    "activity_journal_foreign_segments",
    "activity_lag_seconds",
    "activity_last_flush_success_timestamp_seconds",
    "auth_known_devices",
    "auth_known_devices_capacity",
    "auth_revocation_lag_seconds",
    "database_clock_offset_seconds",
    "database_table_",
    "event_loop_lag_seconds",
    "events_",
    "presence_",
    "python_info",
    "webhooks_",
)
"""Names, or beginnings of names, of gauges of which the largest is shown: what all workers read
from the same database, and what is as bad as it is in the worst of them."""
LARGEST_COUNTERS: Final = ("database_table_",)
"""Counters that all workers read from the same database. What one that is gone has read is shown
until another one has read as much: to go back would be a reset, to Prometheus."""
OF_PARENT: Final = ("process_start_time_seconds",)
"""Gauges of which the parent shows its own: a worker that is replaced is no restart of the
service."""
SUMMED: Final = (
    "activity_buffer_",
    "activity_flush_hidden_keys",
    "activity_journal_bytes",
    "activity_journal_capacity_bytes",
    "database_in_use_connections",
    "database_max_open_connections",
    "database_open_connections",
    "http_",
    "ingest_",
    "limits_",
    "live_",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
)
"""Gauges that are added up."""


def families_of(registry: Collector) -> Families:
    """Return all metrics of a registry, for another process."""
    return [
        (
            family.name,
            family.documentation,
            family.type,
            [(sample.name, sample.labels, sample.value) for sample in family.samples],
        )
        for family in registry.collect()
    ]


class _Family:
    """The sum of a metric family."""

    def __init__(self, name: str, documentation: str, kind: str) -> None:
        self.documentation = documentation
        self.kind = kind
        is_gauge = kind in ("gauge", "info")
        self.is_kept = not is_gauge
        """Whether the samples of workers that are gone count."""
        self.is_read = name.startswith(LARGEST_COUNTERS)
        """Whether all workers read it from the same database."""
        self._choose: Any = None
        if (is_gauge and name.startswith(LARGEST)) or self.is_read:
            self._choose = max
        self.samples: dict[_Key, float] = {}

    def add(self, samples: Iterable[tuple[str, dict[str, str], float]]) -> None:
        for name, labels, value in samples:
            key = (name, tuple(labels.items()))
            there = self.samples.get(key)
            if there is None:
                self.samples[key] = value
            elif self._choose is None:
                self.samples[key] = there + value
            else:
                self.samples[key] = self._choose(there, value)

    def remove_reached(self, other: "_Family") -> None:
        """Remove samples of which another family has values that are as large."""
        for key, value in list(self.samples.items()):
            if other.samples.get(key, -inf) >= value:
                del self.samples[key]


class Totals:
    """The metrics of a service whose workers come and go."""

    def __init__(self) -> None:
        self._gone: dict[str, _Family] = {}

    def keep(self, families: Families) -> None:
        """Keep the counters of a worker that is gone.

        Args:
            families: its last metrics.
        """
        _add(self._gone, families, kept_only=True)

    def with_living(self, workers: Iterable[Families]) -> Iterator[Metric]:
        """Yield the metrics of the service.

        Args:
            workers: those of each worker that runs.
        """
        all_families: dict[str, _Family] = {}
        for families in workers:
            _add(all_families, families)
        for name, family in self._gone.items():
            total = all_families.get(name)
            if total is None:
                total = all_families[name] = _Family(name, family.documentation, family.kind)
            if family.is_read:
                family.remove_reached(total)
            total.add(
                (sample, dict(labels), value) for (sample, labels), value in family.samples.items()
            )
        for name, family in all_families.items():
            if name in OF_PARENT:
                continue
            metric = Metric(name, family.documentation, family.kind)
            # Buckets of a histogram have to stay in their order, which they were added in.
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _add(to: dict[str, _Family], families: Families, *, kept_only: bool = False) -> None:
    for name, documentation, kind, samples in families:
        total = to.get(name)
        if total is None:
            total = to[name] = _Family(name, documentation, kind)
        if total.is_kept or not kept_only:
            total.add(samples)


def value_of(families: Families, sample: str) -> float:
    """Return the sum of all samples of that name.

    Args:
        families: of one worker.
        sample: the name of the samples, such as `process_cpu_seconds_total`.
    """
    return sum(
        value for *_, samples in families for name, _labels, value in samples if name == sample
    )


def unsettled(families: Families) -> Mapping[str, float]:
    """Return how many touches of each target had no outcome yet, by their metrics.

    Args:
        families: the last metrics of a worker that has died.
    """
    left: dict[str, float] = {}
    signs = {
        "activity_touches_total": 1,
        "activity_touches_coalesced_total": -1,
        "activity_touches_dropped_total": -1,
        "activity_flush_keys_total": -1,
    }
    for *_, samples in families:
        for name, labels, value in samples:
            if name in signs:
                left[labels["target"]] = left.get(labels["target"], 0) + signs[name] * value
    return left
