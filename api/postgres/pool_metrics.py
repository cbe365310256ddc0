"""How many connections the service holds and uses, for Prometheus."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.postgres import Connections


class Owner(Protocol):
    """Whoever has connections of its own."""

    @property
    def connections(self) -> Connections:
        """How many there are."""
        ...


class PoolMetrics(Collector):
    """Asks those who have connections when somebody scrapes.

    Args:
        owners: by the name that their pool has in metrics.
    """

    def __init__(self, owners: Mapping[str, Owner]) -> None:
        self._owners = owners

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        in_use = GaugeMetricFamily(
            "database_in_use_connections", "Connections at work.", labels=["pool"]
        )
        opened = GaugeMetricFamily(
            "database_open_connections", "Connections, at work or idle.", labels=["pool"]
        )
        most = GaugeMetricFamily(
            "database_max_open_connections", "The most connections.", labels=["pool"]
        )
        for name, owner in self._owners.items():
            connections = owner.connections
            in_use.add_metric([name], connections.in_use)
            opened.add_metric([name], connections.open)
            most.add_metric([name], connections.most)
        yield from (in_use, opened, most)
