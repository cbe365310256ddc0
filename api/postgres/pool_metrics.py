"""Metrics of the connection pools: connections that are in use, open, and allowed."""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.instrumentation import Family, families
from tracker.postgres import Connections


class Owner(Protocol):
    """An object that has a connection pool."""

    @property
    def connections(self) -> Connections:
        """How many connections the pool has."""
        ...


_FAMILIES: Final[tuple[Family[Connections], ...]] = (
    Family(
        GaugeMetricFamily,
        "database_in_use_connections",
        "Connections in use.",
        lambda connections: connections.in_use,
    ),
    Family(
        GaugeMetricFamily,
        "database_open_connections",
        "Open connections, in use or idle.",
        lambda connections: connections.open,
    ),
    Family(
        GaugeMetricFamily,
        "database_max_open_connections",
        "The most connections that may be open.",
        lambda connections: connections.most,
    ),
)


class PoolMetrics(Collector):
    """Collects the metrics of connection pools.

    Args:
        owners: the owner of each pool, by the pool's name in metrics.
    """

    def __init__(self, owners: Mapping[str, Owner]) -> None:
        self._owners = owners

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        pools = {name: owner.connections for name, owner in self._owners.items()}
        yield from families(_FAMILIES, pools, label="pool")
