"""Prometheus metric families from a table: name, documentation and how the sample is read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from tracker.instrumentation._histogram import Histogram

T = TypeVar("T")
_Kind: TypeAlias = type[CounterMetricFamily] | type[GaugeMetricFamily] | type[HistogramMetricFamily]


@dataclass(frozen=True, slots=True)
class Family(Generic[T]):
    """One row of a table of metrics.

    Args:
        kind: the class of the family.
        name: its name, without `_total`.
        documentation: its help text.
        value: reads the sample from a source; returns a histogram for a histogram family.
        by: the name of a further label. `value` then returns a sample for each of its values.
    """

    kind: _Kind
    name: str
    documentation: str
    value: Callable[[T], float | Histogram | Mapping[str, float]]
    by: str | None = None


def families(
    table: Iterable[Family[T]], sources: Mapping[str, T], *, label: str | None = None
) -> Iterator[Metric]:
    """Build metric families from a table, for a collector to yield.

    Args:
        table: the families.
        sources: the objects to read, by the value of the label.
        label: the name of a label that all families have; without it there is one source.
    """
    for family in table:
        names = [name for name in (label, family.by) if name]
        metric: Any = family.kind(family.name, family.documentation, labels=names)
        for key, source in sources.items():
            values, sample = ([key] if label else []), family.value(source)
            if isinstance(sample, Mapping):
                for last, part in sample.items():
                    metric.add_metric([*values, last], part)
            elif isinstance(sample, Histogram):
                metric.add_metric(values, sample.buckets(), sample.total)
            else:
                metric.add_metric(values, sample)
        yield metric
