"""One scrape of /metrics: its samples, and quantiles of the histograms in it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Metrics:
    """One scrape."""

    samples: Mapping[tuple[str, Labels], float]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a name that have these labels."""
        return self.get(name, **labels) or 0.0

    def get(self, name: str, **labels: str) -> float | None:
        """Return the sum of all samples of a name that have these labels; None if there is none."""
        wanted = labels.items()
        found = [
            value
            for (sample, having), value in self.samples.items()
            if sample == name and having >= wanted
        ]
        return sum(found) if found else None

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the sums of all samples of a name that have these labels, by another label."""
        wanted = labels.items()
        sums: dict[str, float] = {}
        for (sample, having), value in self.samples.items():
            if sample == name and having >= wanted:
                key = dict(having).get(label, "")
                sums[key] = sums.get(key, 0.0) + value
        return sums

    def balance(self, target: str) -> float:
        """Return the touches that no outcome accounts for: 0 unless a flush is in progress."""
        return self.total("activity_touches_total", target=target) - sum(
            self.total(name, target=target)
            for name in (
                "activity_touches_coalesced_total",
                "activity_touches_dropped_total",
                "activity_flush_keys_total",
                "activity_buffer_keys",
            )
        )


def parse_metrics(text: str) -> Metrics:
    """Parse Prometheus's text format.

    Raises:
        ValueError: the text is in another format.
    """
    try:
        families = list(text_string_to_metric_families(text))
    except IndexError as error:  # the parser raises it for malformed labels
        raise ValueError("the labels of a sample are malformed") from error
    return Metrics(
        {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in families
            for sample in family.samples
        }
    )


def quantile(share: float, cumulative: Mapping[float, float]) -> float | None:
    """Return an estimate of a quantile, computed as Prometheus's `histogram_quantile` does.

    Args:
        share: between 0 and 1.
        cumulative: how many observations are at or below each bound; one bound is infinite.

    Returns:
        A value within the bucket that has the quantile, by linear interpolation; the highest finite
        bound if the quantile is above it; None if nothing was observed.
    """
    bounds = sorted(cumulative)
    if not bounds or not cumulative[bounds[-1]] > 0:
        return None
    rank = share * cumulative[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if cumulative[bound] >= rank:
            if math.isinf(bound):
                return lower
            within = cumulative[bound] - below
            return lower + (bound - lower) * ((rank - below) / within if within > 0 else 1.0)
        lower, below = bound, cumulative[bound]
    return lower
