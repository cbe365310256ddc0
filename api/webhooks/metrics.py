"""The metrics of webhooks: outcomes of events, and states of webhooks."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.webhooks.deliverer import Deliverer
from tracker.instrumentation import Family, families


class WebhookMetrics(Collector):
    """Collects the metrics of a deliverer.

    Args:
        deliverer: of this process.
    """

    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(_FAMILIES, {"": self._deliverer})


_FAMILIES: Final[tuple[Family[Deliverer], ...]] = (
    Family(
        CounterMetricFamily,
        "webhooks_events",
        "Events that this process has delivered, given up, dropped, or found removed before.",
        lambda deliverer: deliverer.events,
        by="outcome",
    ),
    Family(
        GaugeMetricFamily,
        "webhooks_by_state",
        "Webhooks by state: active, failing or paused.",
        lambda deliverer: {
            "active": deliverer.summary.active,
            "failing": deliverer.summary.failing,
            "paused": deliverer.summary.paused,
        },
        by="state",
    ),
    Family(
        GaugeMetricFamily,
        "webhooks_failing_seconds",
        "For how long the batch has been tried that has failed for the longest time.",
        lambda deliverer: deliverer.summary.failing_s,
    ),
)
