"""What API keys share: reads of many rows at a time, and the bytes of responses not sent yet."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.config import LimitSettings
from api.http.shares import Shares
from tracker.instrumentation import Family, families

BODY_BYTES: Final = 262_144
"""What a response that is made in parts counts for, more than its longest part."""


class Limits(Collector):
    """The shares that handlers take; reports to Prometheus what is held, and how many wait.

    Args:
        settings: how much there is of each.
    """

    def __init__(self, settings: LimitSettings) -> None:
        self.reads = Shares(
            "reads",
            capacity=settings.reads,
            per_key=settings.reads_per_key,
            amount=1,
            wait_s=settings.wait_s,
        )
        self.unsent = Shares(
            "unsent_bytes",
            capacity=settings.unsent_bytes,
            per_key=settings.unsent_bytes_per_key,
            amount=BODY_BYTES,
            wait_s=settings.wait_s,
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        yield from families(
            _FAMILIES, {one.name: one for one in (self.reads, self.unsent)}, label="limit"
        )


_FAMILIES: Final[tuple[Family[Shares], ...]] = (
    Family(
        GaugeMetricFamily,
        "limits_held",
        "What requests hold of a limit.",
        lambda shares: shares.held,
    ),
    Family(
        GaugeMetricFamily,
        "limits_capacity",
        "The most that requests may hold together.",
        lambda shares: shares.capacity,
    ),
    Family(
        GaugeMetricFamily,
        "limits_waiting_requests",
        "Requests that wait for their share.",
        lambda shares: shares.waiting,
    ),
    Family(
        CounterMetricFamily,
        "limits_denied_requests",
        "Requests that got no share in time, and 503.",
        lambda shares: shares.denied,
    ),
)
