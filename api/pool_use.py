"""How many connections the service holds and uses, for Prometheus."""

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.database import Database


class PoolUse(Collector):
    """Asks the pools when somebody scrapes.

    Args:
        databases: by the name that their pool has in metrics.
    """

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._databases = databases

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
        for name, database in self._databases.items():
            in_use.add_metric([name], database.in_use_connections)
            opened.add_metric([name], database.open_connections)
            most.add_metric([name], database.max_open_connections)
        yield from (in_use, opened, most)
